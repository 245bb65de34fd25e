"""Prompts, drawing, judging, reports, the main job."""

from importlib import resources
from pathlib import Path


def templates_folder() -> Path:
    """Where the report's page, card and schema stand."""
    return Path(str(resources.files(__name__) / "templates"))
