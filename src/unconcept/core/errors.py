"""All exceptions. The user sees the message as one line: the value, what is allowed, what to do.

UnconceptError
├── UsageError            bad input; the command line exits with 2
│   ├── RequestError      targets, anchors or retain set make no sense
│   ├── SettingsError     an unknown setting, or one out of range or of the wrong type
│   ├── RecipeError       a recipe file that cannot be read
│   ├── ModelError        a path, folder or checkpoint that is not a usable model
│   ├── EditError         an edit file that cannot be read or does not fit the model
│   ├── OutputError       a folder that cannot be written
│   ├── DataError         a prompt file that cannot be read, or figures that are missing or do not fit together
│   ├── StoreError        a picture store or run of another version, or with broken files
│   ├── LedgerError       a ledger that is damaged, of another base or version, or cannot do what is requested
│   │   └── LedgerChanged   its requests in force changed while a command worked on them
│   ├── DeviceError       a device that does not exist
│   ├── MissingExtra      an optional package that is not installed or cannot be loaded
│   ├── PluginError       an installed package whose entry points cannot be loaded
│   └── UnknownName       not in a registry or table; carries the nearest names
├── NumericsError         non-finite weights, a singular system
└── WorkerError           a worker process that died
"""


class UnconceptError(Exception):
    """Base class of every error that this library raises on purpose."""


class UsageError(UnconceptError):
    """The input is wrong, and the message says how to fix it."""


class RequestError(UsageError):
    """Targets, anchors or retain set make no sense together."""


class SettingsError(UsageError):
    """An unknown setting, or one out of range or of the wrong type."""


class RecipeError(UsageError):
    """A recipe file that cannot be read."""


class ModelError(UsageError):
    """A path, folder or checkpoint that is not a usable model."""


class EditError(UsageError):
    """An edit file that cannot be read, or was made for another model."""


class OutputError(UsageError):
    """A folder that cannot be written."""


class DataError(UsageError):
    """A prompt file that cannot be read, or figures that are missing or do not fit together."""


class StoreError(UsageError):
    """A picture store or run of another version, or with broken files."""


class LedgerError(UsageError):
    """A ledger that is damaged, of another base or version, or cannot do what is requested."""


class LedgerChanged(LedgerError):
    """The requests in force changed while a command worked on them: what it made is of no use, and is not kept."""


class DeviceError(UsageError):
    """A device that does not exist."""


class MissingExtra(UsageError):
    """An optional package that is not installed or cannot be loaded."""


class PluginError(UsageError):
    """An installed package whose entry points cannot be loaded."""


class UnknownName(UsageError):
    """A name that is in no registry or table."""


class NumericsError(UnconceptError):
    """Non-finite weights, or a system without a solution."""


class WorkerError(UnconceptError):
    """A worker process died; the run can be continued."""


def require(condition: bool, message: str, error: type[UnconceptError] = SettingsError) -> None:
    """Raise `error(message)` unless `condition` holds."""
    if not condition:
        raise error(message)
