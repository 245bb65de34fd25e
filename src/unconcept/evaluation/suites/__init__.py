"""Suites: which prompts an evaluation uses, and which figures it computes from the answers.

One file for each suite or a few related ones; files are found by name.
"""

from ...core.registry import import_entries

import_entries(__name__)
