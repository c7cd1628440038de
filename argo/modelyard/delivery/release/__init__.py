"""The release itself: where it is, what comes next and why, and who carries it out.

All but the controller is a pure function of the record and of what was seen.
"""
