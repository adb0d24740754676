"""The one error type that passes raise; it needs no library, so that it can be caught without loading any."""


class PassError(Exception):
    """A pass failed; the message names it and the passes that ran before it."""
