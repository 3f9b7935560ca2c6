"""Every exception that Tunewright raises on purpose, in one tree.

The class decides the exit status; the message is one line: place, value, remedy.

    TunewrightError            4  our own fault when it escapes as itself
    ├── UserError              2  the user can mend it
    │   ├── RecipeError           a key or value of a recipe
    │   ├── DataError             a file, row or column
    │   ├── ModelError            a base model, adapter or tokenizer
    │   ├── RunError              a run folder: missing, taken, unwritable
    │   └── ProviderError         who trains elsewhere says no: key, quota, a bad row
    ├── Refusal                1  the answer is "no": unfit data, will not fit, gate closed
    └── Interrupted            3  stopped, and resumable
        └── DiskFull           3  a disk filled during training
"""


class TunewrightError(Exception):
    """Root of all errors raised on purpose."""

    exit_status = 4


class UserError(TunewrightError):
    """A mistake that the user can mend; shown as one line, never as a traceback."""

    exit_status = 2


class RecipeError(UserError):
    """A key or value in a recipe or in a --set override is wrong."""


class DataError(UserError):
    """A data file, row or column cannot be used."""


class ModelError(UserError):
    """A base model, adapter or tokenizer cannot be used."""


class RunError(UserError):
    """A run folder is missing, taken or not writable."""


class ProviderError(UserError):
    """A hosted provider refuses: the key, the quota, a model, a row."""


class Refusal(TunewrightError):
    """Everything worked and the answer is "no"."""

    exit_status = 1


class Interrupted(TunewrightError):
    """The run was stopped and can be resumed."""

    exit_status = 3


class DiskFull(Interrupted):
    """A write failed for want of space; the last good checkpoint is kept."""
