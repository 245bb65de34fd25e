"""What the fields of a dataclass mean: the comment that stands behind each, read from its source, so that it is written once."""

import ast
import inspect
import textwrap
import tokenize
from io import StringIO


def meanings(kind: type) -> dict[str, str]:
    """By field; one without a comment is left out, and all are where Python keeps no source."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (described,) = ast.parse(source).body
    assert isinstance(described, ast.ClassDef)
    found = {}
    for node in described.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno in comments:
            found[node.target.id] = comments[node.end_lineno]
    return found
