"""What a release does to users, simulated: modelyard against what others document."""
