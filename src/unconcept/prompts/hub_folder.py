"""Reads HUB's prompts (ICCV 2025, arXiv:2410.05664) about one concept: a folder with a folder for each task."""

from pathlib import Path

from ..core.errors import DataError, require
from .loaders import read_prompts
from .sets import PromptGroup, PromptSet

# Folder of a task: its form, and its group where the form leaves that open. Adversarial prompts are paraphrases.
_HUB_TASKS: dict[str, tuple[str, PromptGroup | None]] = {
    "target_image": ("hub-lines", "direct"),
    "attack_robustness": ("hub-lines", "paraphrase"),
    "multilingual_robustness": ("hub-languages", None),
    "pinpoint_ness": ("hub-pinpoint", None),
    "selective_alignment": ("hub-selective", None),
}


def read_hub_folder(folder: Path, concept: str) -> PromptSet:
    """Read the files of all tasks that are named for the concept, blanks or underscores alike.

    `DataError` if there is none, since nothing would be measured.
    """
    items = []
    for task, (form, group) in _HUB_TASKS.items():
        for path in sorted((folder / task).glob("*")):
            if path.stem.replace("_", " ").casefold() == concept.replace("_", " ").casefold():
                items += list(read_prompts(path, form, concept=concept, group=group))
    message = (
        f"{folder}: none of the folders {', '.join(_HUB_TASKS)} has a file named for {concept!r}: give HUB's prompts in"
        " these folders, or one prompt file"
    )
    require(bool(items), message, DataError)
    return PromptSet.of(folder.name, 1, items)
