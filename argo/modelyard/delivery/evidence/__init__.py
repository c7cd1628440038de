"""What was seen of a release: counts of the versions' answers, the health of their servers.

Plain values, and what came in between two of them; where they come from does not matter here.
"""
