"""Settings under which a method or an attack takes a moment: `CONTRACT_SETTINGS` of its own test file."""

import ast
from pathlib import Path


def literal_of(path: Path, name: str) -> dict[str, object] | None:
    """The literal that a file gives a name at its top level. It is read, not imported: tests import this module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return ast.literal_eval(node.value)
    return None


def contract_settings(folder: Path) -> dict[str, dict[str, object]]:
    """By the name of what `test_NAME.py` tests."""
    found = {}
    for path in sorted(folder.glob("test_*.py")):
        settings = literal_of(path, "CONTRACT_SETTINGS")
        if settings is not None:
            found[path.stem.removeprefix("test_").replace("_", "-")] = settings
    return found
