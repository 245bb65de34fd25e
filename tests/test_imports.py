"""What files outside the package import of the project is there, also where a function imports it only when it runs."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("unconcept", "benchmarks", "world", "docs", "tests")
FILES = sorted(path for folder in ("benchmarks", "world", "docs", "examples") for path in (ROOT / folder).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of every absolute import of the project."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] in OURS:
            yield from ((node.module or "", alias.name) for alias in node.names)


def is_there(module: str, name: str) -> bool:
    parent = import_module(module)
    if not hasattr(parent, name):
        import_module(f"{module}.{name}")
    return True


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_finds_what_it_names(path: Path) -> None:
    for module, name in imports(ast.parse(path.read_text(encoding="utf-8"))):
        assert is_there(module, name), f"{module}.{name}"


def test_a_name_that_moved_is_found() -> None:
    ((module, name),) = imports(ast.parse("def run():\n    from unconcept.core.errors import NothingOfThatName\n"))
    with pytest.raises(ModuleNotFoundError):
        is_there(module, name)
