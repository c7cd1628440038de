"""Statistics that more than one room uses, over plain numbers and numpy arrays.

It knows neither releases nor models, and imports no room.
"""
