"""Imports of optional packages.

If one is missing, the error names the feature that needs it and the extra that installs it.
"""

import importlib
from types import ModuleType

from .errors import MissingExtra


def import_optional(package: str, extra: str, blocked: str) -> ModuleType:
    """Import a package, or raise `MissingExtra` that names the extra and the `blocked` feature."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise MissingExtra(
                f"{blocked} needs {package}, which lacks {error.name}: pip install 'unconcept[{extra}]'"
            ) from None
        raise MissingExtra(
            f"{blocked} needs {package}, which is not installed: pip install 'unconcept[{extra}]'"
        ) from None
    # A torchvision of another build than torch's raises RuntimeError.
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise MissingExtra(
            f"{blocked} needs {package}, which is installed but cannot be loaded: {reason}; reinstall"
            f" 'unconcept[{extra}]'"
        ) from None
