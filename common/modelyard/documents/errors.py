"""The one exception whose text is meant for the user."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message says what is wrong, where, and what to do. Entry points print it
    without a traceback and exit with 1.
    """
