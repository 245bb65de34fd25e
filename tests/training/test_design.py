"""What docs/design.md says later methods will be made of is there, under the names it uses."""

import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

from unconcept import edits, training
from unconcept.edits import fuse as combine
from unconcept.training import loop
from unconcept.training import parameter_groups as selectors

DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
LATER = [
    line.split("|")[1:4]
    for line in DESIGN.read_text().split("Later, none of which")[1].split("## ")[0].splitlines()
    if line.startswith("| ")
][1:]
# a method of `Trained`, an argument of `train`, a method of a transform, and maps by name.
OTHERS = {"teacher", "stateful", "state", "add_q_proj", "add_k_proj"}


def known() -> set[str]:
    modules = [import_module(found.name) for found in pkgutil.walk_packages(training.__path__, "unconcept.training.")]
    names = {name for module in (*modules, edits, combine) for name in vars(module)}
    return names | set(get_args(selectors.ParameterSelector)) | set(loop.OPTIMIZERS) | OTHERS


@pytest.mark.parametrize("row", LATER, ids=[row[0].strip() for row in LATER])
def test_the_parts_of_later_methods_are_there(row) -> None:
    said = [re.match(r"[\w-]+", word.strip('"')) for word in re.findall(r"`([^`]+)`", " ".join(row[1:]))]
    assert {found[0] for found in said if found} <= known()


def test_the_table_is_read() -> None:
    assert LATER
    assert all(len(row) == 3 for row in LATER)
