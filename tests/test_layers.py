"""Imports only go down, and siblings never import each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src/unconcept"
LEVELS = {
    "core": 0,
    "linalg": 1,
    "metrics": 1,
    "moji": 1,
    "models": 2,
    "prompts": 2,
    "edits": 3,
    "training": 4,
    "methods": 5,
    "attacks": 5,
    "scorers": 5,
    "evaluation": 6,
    "continual": 6,
    "cli": 7,
}
APART = ("methods", "attacks", "scorers")  # files of these folders know nothing of each other
FREE = {"__init__", "registry", "moji_net"}  # what siblings may share


def imports(path: Path) -> set[tuple[str, ...]]:
    """Modules of the package that a file imports, as parts below the package, type-checking imports included."""
    here = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - (node.level - 1)]
            names = [tuple(node.module.split("."))] if node.module else [(alias.name,) for alias in node.names]
            found |= {(*base, *name) for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unconcept":
            found.add(tuple(node.module.split(".")[1:]))
        elif isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")[1:]) for alias in node.names if alias.name.split(".")[0] == "unconcept"}
    return {name for name in found if name}


FILES = sorted(path for path in ROOT.rglob("*.py") if len(path.relative_to(ROOT).parts) > 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    room, file = path.relative_to(ROOT).parts[0], path.stem
    for target in imports(path):
        if target[0] == room:
            sibling = target[1] if len(target) > 1 else "__init__"
            assert room not in APART or sibling in FREE or file in FREE, f"{room}/{file} imports its sibling {sibling}"
        else:
            assert LEVELS[target[0]] < LEVELS[room], f"{room}/{file} imports {'.'.join(target)}"


def test_every_room_has_a_level_and_none_is_empty() -> None:
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("__pycache__", "recipes")}
    assert rooms == set(LEVELS)
    assert all(any((ROOT / room).glob("[a-z]*.py")) for room in rooms)
