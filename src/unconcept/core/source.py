"""Hashes of source code, so that stored results are reused only while the code that made them is unchanged.

A module's hash covers its own source, the source of everything it imports from its own package and from this one (at
any depth, and inside functions too), and the data files beside each module. Names are followed through the `__init__`
that re-exports them, so a module depends on what it uses and not on its neighbours. Imports under `TYPE_CHECKING` are
ignored.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LIBRARY = __name__.split(".")[0]
# In an `__init__` that imports its sibling files by name: all of them, or the one that is wanted.
_FOUND_BY_NAME = (b"import_entries(__name__)", b'import_module(f"{__name__}.')
BLOCKS = ("body", "cases", "handlers", "orelse", "finalbody")  # where statements stand in statements
DATA = (".toml", ".txt")  # data files that a module reads through `importlib.resources`


@cache
def source_hash(*modules: str) -> str:
    """SHA-256 of all source that results of these modules depend on. Paths of files do not matter."""
    contents = (content for module in imported_modules(*modules) for content in _contents(module))
    digests = sorted(hashlib.sha256(content).digest() for content in contents)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def imported_modules(*modules: str) -> frozenset[str]:
    """These modules and everything they import from their own packages and from this one."""
    packages = frozenset((LIBRARY, *(module.split(".")[0] for module in modules)))
    waiting, seen = [module for module in modules if _file(module) is not None], set[str]()
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += _imports(module, packages)
    return frozenset(seen)


def _contents(module: str) -> Iterator[bytes]:
    """Yield a module's source, then its data files."""
    file = _file(module)
    assert file is not None
    source = file.read_bytes()
    yield source
    if b"resources.files(__package__)" in source:
        yield from (path.read_bytes() for path in file.parent.rglob("*") if path.suffix in DATA)


@cache
def _file(module: str) -> Path | None:
    """The source file of a module, found without importing it; None if there is no such file."""
    top, *below = module.split(".")
    if top == "__main__":  # A script has no spec, a notebook no file either.
        own = sys.modules[top].__file__ if hasattr(sys.modules[top], "__file__") else None
        return Path(own) if own else None
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    if not below:
        return Path(spec.origin) if spec.origin.endswith(".py") else None
    place = Path(spec.origin).parent.joinpath(*below)
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


@cache
def _statements(module: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """What a module imports; kept, since all methods and attacks share most of what they import."""
    file = _file(module)
    assert file is not None
    return tuple(_executed(ast.parse(file.read_bytes())))


@cache
def _imports(module: str, packages: frozenset[str]) -> tuple[str, ...]:
    """The modules of these packages that a module imports, and siblings that an `__init__` loads by name."""
    found = [*_found_by_name(module)]
    for node in _statements(module):
        base = _absolute(module, node) if isinstance(node, ast.ImportFrom) else None
        for alias in node.names:
            if (base or alias.name).split(".")[0] in packages:
                found += _home(base, alias.name) if base else _home(alias.name, None)
    return tuple(found)


def _found_by_name(module: str) -> Iterator[str]:
    file = _file(module)
    if file is not None and file.name == "__init__.py" and any(call in file.read_bytes() for call in _FOUND_BY_NAME):
        yield from (f"{module}.{path.stem}" for path in sorted(file.parent.glob("*.py")) if path != file)


def _home(base: str, name: str | None) -> Iterator[str]:
    """Yield the module that defines `name` of `base`.

    It is a submodule, `base` itself, or the module from which the `__init__` of `base` imports the name.
    """
    if name is not None and _file(f"{base}.{name}") is not None:
        yield f"{base}.{name}"
        return
    file = _file(base)
    if file is None:
        return
    if name is not None and file.name == "__init__.py":
        for node in _statements(base):
            if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
                original = next(alias.name for alias in node.names if name in (alias.asname, alias.name))
                yield from _home(_absolute(base, node), original)
                return
    yield base


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The absolute name of the module in a `from ... import` statement of `module`."""
    if not node.level:
        return node.module or ""
    file = _file(module)
    parts = module.split(".")
    keep = len(parts) - node.level + (file is not None and file.name == "__init__.py")
    return ".".join([*parts[:keep], *([node.module] if node.module else [])])


def _executed(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield import statements at any depth, except those under `if TYPE_CHECKING`."""
    for statement in (each for block in BLOCKS for each in getattr(node, block, ())):
        test = statement.test if isinstance(statement, ast.If) else None
        if isinstance(test, ast.Name) and test.id == "TYPE_CHECKING":
            continue
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield statement
        yield from _executed(statement)
