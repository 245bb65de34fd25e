"""Plug-ins: registry entries of other packages, found by entry points such as `unconcept.methods`.

An entry point names a module, and importing that module registers its entries. Every process that reads a registry
imports the plug-ins, including workers.
"""

from importlib.metadata import EntryPoint, entry_points

from .errors import PluginError


def import_plugins(group: str) -> None:
    """Import the plug-ins of all installed packages for one group; `PluginError` if one cannot be imported."""
    for entry in sorted(entry_points(group=group), key=lambda entry: (_package(entry), entry.name)):
        try:
            entry.load()
        except Exception as error:  # Foreign code may raise anything, and the user must learn which package it is.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise PluginError(
                f"package {_package(entry)} cannot be loaded as a plug-in ({group}: {entry.value}): {reason}; update or"
                " uninstall it"
            ) from error


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module
