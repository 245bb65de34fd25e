"""Summaries from docstrings, for tables, `explain` and help texts: of a whole object and of each dataclass field."""

import ast
import inspect
import sys
from functools import lru_cache
from itertools import pairwise
from types import ModuleType


def field_descriptions(kind: type) -> dict[str, str]:
    """The string under each field of a dataclass and of its bases, by field name.

    Fields without a string are left out. The result is empty where Python has no source.
    """
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        module = sys.modules.get(base.__module__)
        if module is not None and base is not object:
            found |= _described(_classes(module).get(base.__qualname__))
    return found


@lru_cache
def _classes(module: ModuleType) -> dict[str, ast.ClassDef]:
    """The classes of a module by qualified name, including those inside functions."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):
        return {}
    found: dict[str, ast.ClassDef] = {}
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        prefix, node = pending.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                found[prefix + child.name] = child
                pending.append((f"{prefix}{child.name}.", child))
            elif isinstance(child, ast.FunctionDef):
                pending.append((f"{prefix}{child.name}.<locals>.", child))
    return found


def _described(definition: ast.ClassDef | None) -> dict[str, str]:
    found = {}
    for node, below in pairwise(definition.body if definition else []):
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(text, str):
            found[node.target.id] = inspect.cleandoc(text).replace("\n", " ")
    return found


def summary_of(thing: object) -> str:
    """The first paragraph of an object's docstring as one line; "" if it has none."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def description_of(thing: object) -> str:
    """An object's whole docstring as one line; "" if it has none."""
    return " ".join((inspect.getdoc(thing) or "").split())
