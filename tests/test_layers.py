"""The structure of the package: imports only go down, no file is in a circle, entries of a registry do not know each
other.
"""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src/unconcept"
LEVELS = {
    "core": 0,
    "linalg": 1,
    "metrics": 1,
    "worlds": 1,
    "models": 2,
    "prompts": 2,
    "edits": 3,
    "training": 4,
    "methods": 5,
    "attacks": 5,
    "scorers": 5,
    "protection": 5,
    "erasing": 6,
    "report": 6,
    "evaluation": 7,
    "ledger": 7,
    "jobs": 8,
    "cli": 9,
}
ENTRIES = (
    "methods",
    "attacks",
    "scorers",
    "protection",
    "evaluation/suites",
    "models/families",
)  # folders in which a file is one entry
SHARED = {"__init__", "registry"}  # what entries of one folder may share
WIDEST = 20  # modules of a folder whose files are not entries
DATA = ("recipes",)
FILES = sorted(path for path in ROOT.rglob("*.py") if len(path.relative_to(ROOT).parts) > 1)


@cache
def imports(path: Path) -> tuple[tuple[str, ...], ...]:
    """What `_imports` finds in a file; each file is read once."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Modules of the package that a file imports, as parts below the package, inside functions and for type checkers
    too.
    """
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - (node.level - 1)]
            yield from _modules((*base, *(node.module or "").split(".")) if node.module else base, node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unconcept":
            yield from _modules(tuple((node.module or "").split(".")[1:]), node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "unconcept":
                    yield tuple(alias.name.split(".")[1:])


def _modules(base: tuple[str, ...], node: ast.ImportFrom) -> Iterator[tuple[str, ...]]:
    """A `from` names modules of a package, or names inside a module or a package's `__init__`."""
    for alias in node.names:
        named = (*base, alias.name)
        yield named if _file(named) else base


def _file(parts: tuple[str, ...]) -> Path | None:
    place = ROOT.joinpath(*parts)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for target in imports(path):
        if target and target[0] != folder:
            assert LEVELS[target[0]] < LEVELS[folder], f"{path.relative_to(ROOT)} imports {'.'.join(target)}"


@pytest.mark.parametrize("folder", ENTRIES)
def test_entries_do_not_know_each_other(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        for target in imports(path):
            sibling = target[-1] if target[:-1] == tuple(folder.split("/")) else "__init__"
            assert path.stem in SHARED or sibling in SHARED, f"{folder}/{path.stem} imports its sibling {sibling}"


def test_no_file_is_in_a_circle() -> None:
    """An `__init__` that hands names on is no part of what it hands on."""
    graph = {
        path: {_file(target) for target in imports(path)} - {None, path} for path in FILES if path.name != "__init__.py"
    }
    try:
        TopologicalSorter(
            {path: {other for other in found if other.name != "__init__.py"} for path, found in graph.items()}
        ).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


def test_no_folder_is_too_wide() -> None:
    for folder in {path.parent for path in FILES}:
        if str(folder.relative_to(ROOT)) not in ENTRIES:
            modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(modules) <= WIDEST, f"{folder.relative_to(ROOT)} has {len(modules)} modules: {modules}"


def test_every_folder_has_a_level_and_none_is_empty() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("__pycache__", *DATA)}
    assert folders == set(LEVELS)
    assert all(any((ROOT / folder).rglob("[a-z]*.py")) for folder in folders)
