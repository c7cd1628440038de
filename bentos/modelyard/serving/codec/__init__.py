"""From the bytes of a request to arrays and back, by the model's signature: JSON and Arrow.

What is wrong with which field of which row is said here, in the same words for every form.
"""
