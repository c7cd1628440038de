"""A registered version as a Bento: its build context, closure, hashes, bill of materials.

`modelyard build` is the command; nothing here runs in a server.
"""
