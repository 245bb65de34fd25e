"""Suites: which prompts are asked, and what is made of the answers.

One file a suite or a few of a kind, found by name.
"""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
