"""Where things lie: the folders of a model repo, and objects in a bucket.

Beside config; neither needs the other.
"""
