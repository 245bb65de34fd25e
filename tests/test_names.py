"""Rules of names and shapes over the source: one public name has one home, and nothing is longer or wider than a reader
can hold.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/unconcept"
FRONT_ENDS = ("cli", "ui")  # a command is named as the job that it calls
FILES = sorted(SOURCE.rglob("*.py"))
LINE, FUNCTION, SIGNATURE = 120, 45, 8  # characters, lines, parameters but for self
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path, name: str) -> str:
    return f"{path.relative_to(SOURCE).as_posix()}:{name}"


def defined(module: ast.Module) -> Iterator[str]:
    """Public names that a module gives a meaning to; imported names are others'."""
    for node in module.body:
        names: list[str] = []
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        yield from (name for name in names if not name.startswith("_"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, FUNCTIONS))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many a caller may give."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_a_public_name_has_one_home() -> None:
    homes = defaultdict(set)
    for path in FILES:
        if path.relative_to(SOURCE).parts[0] not in FRONT_ENDS:
            for name in defined(tree(path)):
                homes[name].add(place(path, name))
    shared = {name: sorted(places) for name, places in homes.items() if len(places) > 1}
    assert shared == {}


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_no_line_is_too_long(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = path.relative_to(ROOT).as_posix()
            assert len(line) <= LINE, f"{where}:{number} has {len(line)} characters"


def test_no_comprehension_is_inside_another() -> None:
    found = set()
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, COMPREHENSIONS):
                inner = [child for child in ast.walk(node) if isinstance(child, COMPREHENSIONS) and child is not node]
                found |= {place(path, str(node.lineno))} if inner else set()
    assert sorted(found) == []


def test_no_function_is_too_long() -> None:
    found = {}
    for path in FILES:
        for node in functions(path):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION:
                found[place(path, node.name)] = lines
    assert found == {}


def test_no_signature_is_too_wide() -> None:
    found = {}
    for path in FILES:
        for node in functions(path):
            if parameters(node) > SIGNATURE:
                found[place(path, node.name)] = parameters(node)
    assert found == {}
