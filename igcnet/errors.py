"""The errors that igcnet raises for a user's mistake or a broken file.

Each message is one line that names the file, option or layer, says what is wrong
and what would be right. The command line prints it without a traceback and leaves
with the error's ``exit_code``.
"""


class IgcnetError(Exception):
    """Base class: something a user can put right."""

    exit_code = 1


class UsageError(IgcnetError, ValueError):
    """An option or argument has a value that cannot work."""

    exit_code = 2


class DataError(IgcnetError):
    """A record file, image or list is missing, damaged or does not fit."""


class CheckpointError(IgcnetError):
    """A checkpoint, symbol file or its parameters are damaged or do not fit the network."""


class TrainingError(IgcnetError):
    """Training cannot go on (NaN loss, unusable device, log folder that can't be written)."""


class DivergedError(TrainingError):
    """The loss or the weights are not finite any more, or the loss is above its limit."""
