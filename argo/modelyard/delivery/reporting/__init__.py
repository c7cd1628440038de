"""What a release record tells people: on the terminal, as status, as a page with pictures.

It reads; nothing here decides or changes anything.
"""
