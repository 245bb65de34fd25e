"""Content keys follow the code that a result came out of, and no other."""

import sys

import pytest

from unconcept.core import source
from unconcept.core.source import imported_modules, source_hash
from unconcept.methods import methods
from unconcept.models.loading import LOADING

FILES = {
    "__init__.py": "",
    "deep/__init__.py": "from .shared import handed_on\nfrom .other import unused\n",
    "deep/shared.py": "def handed_on(): ...\n",
    "deep/other.py": "unused = 1\n",
    "deep/within.py": "x = 1\n",
    "deep/typed.py": "T = int\n",
    "data/words.py": "from importlib import resources\nwords = resources.files(__package__)\n",
    "data/words.txt": "one",
    "found/__init__.py": "from unconcept.core.registry import import_entries\nimport_entries(__name__)\n",
    "found/one.py": "x = 1\n",
    "entries/method.py": (
        """from typing import TYPE_CHECKING
from ..deep import handed_on
from ..data.words import words
from ..found import all_of_them
if TYPE_CHECKING:
    from ..deep.typed import T
def erase():
    from ..deep import within
    return within
"""
    ),
    "entries/neighbour.py": "",
    "entries/__init__.py": "from . import method, neighbour\n",
}
COUNTED = {"deep/shared.py", "deep/within.py", "data/words.py", "data/words.txt", "entries/method.py"}
COUNTED |= {"found/__init__.py", "found/one.py"}  # an `__init__` that imports what lies beside it by name


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "planted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "planted"
    forget()


def forget() -> None:
    for cached in (source.source_hash, source._file, source._statements, source._imports):
        cached.cache_clear()
    assert "planted" not in sys.modules, "the code that is hashed need not be run"


@pytest.mark.parametrize("changed", sorted(FILES))
def test_a_byte_changes_the_key_of_what_imports_it_alone(package, changed) -> None:
    before = source_hash("planted.entries.method")
    forget()
    with (package / changed).open("a") as file:
        file.write("#")
    assert (source_hash("planted.entries.method") != before) == (changed in COUNTED)


def test_where_a_file_lies_does_not_matter(package) -> None:
    before = source_hash("planted.deep.shared")
    (package / "deep/shared.py").rename(package / "moved.py")
    forget()
    assert source_hash("planted.moved") == before


def test_a_method_does_not_depend_on_its_neighbours() -> None:
    """Nor on what evaluates it; but on how models are found and read texts it does."""
    seen = imported_modules(methods["uce"].settings.__module__, LOADING)
    assert {module for module in seen if module.startswith("unconcept.methods.")} == {
        "unconcept.methods.uce",
        "unconcept.methods.registry",
    }
    assert {module.split(".")[1] for module in seen} == {"core", "edits", "linalg", "methods", "models", "worlds"}
    assert {module for module in seen if module.startswith("unconcept.worlds.")} == {
        "unconcept.worlds.assembly",
        "unconcept.worlds.low_rank",
        "unconcept.worlds.registry",
    }
