"""Sampling procedures, one kind a file. Importing the package finds the files, so a new kind edits no list."""

from ....core.registry import import_entries

import_entries(__name__)
