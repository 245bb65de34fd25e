"""Entries of registries that other packages bring, by entry points such as `unconcept.methods`.

An entry point names a module whose import registers what it brings. Every process that reads a registry imports them,
workers too.
"""

from importlib.metadata import EntryPoint, entry_points

from .errors import PluginError


def import_plugins(group: str) -> None:
    """Import all that installed packages bring under a group; `PluginError` for one that cannot be imported."""
    for entry in sorted(entry_points(group=group), key=lambda entry: (_package(entry), entry.name)):
        try:
            entry.load()
        except Exception as error:  # Code of others may raise anything, and the user has to learn whose code it is.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise PluginError(
                f"package {_package(entry)} cannot be loaded as a plug-in ({group}: {entry.value}): {reason}; mend or"
                " uninstall it"
            ) from error


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module
