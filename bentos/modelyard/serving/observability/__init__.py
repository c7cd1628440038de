"""What a server tells of itself: metrics and the prediction log, and what memory they may take.

Nothing here may make a request wait or fail.
"""
