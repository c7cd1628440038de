"""Statistics that more than one room uses, over plain numbers and numpy arrays.

It imports no room, and no documents either: what it is given are figures.
"""
