"""Sampling procedures, one kind a file. Importing the package finds the files, so a new kind edits no list."""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
