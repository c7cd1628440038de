"""From a Bento to live traffic: release policy, state machine, ports, and their local side."""
