"""What docstrings say, for tables, `explain` and help texts: of a thing as a whole, of each field of a dataclass."""

import ast
import inspect
import textwrap
from itertools import pairwise


def field_descriptions(kind: type) -> dict[str, str]:
    """By field; one without a string is left out, and all are where Python keeps no source."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    (described,) = ast.parse(source).body
    assert isinstance(described, ast.ClassDef)
    found = {}
    for node, below in pairwise(described.body):
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(text, str):
            found[node.target.id] = inspect.cleandoc(text).replace("\n", " ")
    return found


def summary_of(thing: object) -> str:
    """The first paragraph of its docstring, as one line; "" without one."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
