"""What a model repo's service is made of: the BentoML service around one model package.

Its process starts here, and is told to end here; all else is on the floors below.
"""
