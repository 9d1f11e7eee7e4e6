"""Errors that a user can mend."""


class InputError(ValueError):
    """A file or a setting is wrong: the message names it, its value and the remedy."""


class ForeignError(InputError):
    """Code that is not this package's has failed, with an error of its own: the cause."""


class MissingOpError(ImportError):
    """A compiled operator of mmcv was called, but only mmcv-lite is installed."""
