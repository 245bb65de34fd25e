"""Suites: which prompts an evaluation uses, and which figures it computes from the answers.

One file for each suite or a few related ones; files are found by name.
"""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
