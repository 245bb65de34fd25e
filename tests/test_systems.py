"""The table of systems: each of its links is alive, and no method of this package is left out of it."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from unconcept.attacks import attacks
from unconcept.core.recipe import recipes
from unconcept.evaluation.suites.registry import suites
from unconcept.methods import methods
from unconcept.protection import protections
from unconcept.scorers import scorers

ROOT = Path(__file__).parent.parent
TABLES = runpy.run_path(str(ROOT / "docs/tables.py"))
DATA = tomllib.loads((ROOT / "docs/systems.toml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/systems.md").read_text(encoding="utf-8")
PAGES = {
    "methods": methods,
    "attacks": attacks,
    "protections": protections,
    "suites": suites,
    "scorers": scorers,
    "recipes": recipes(),
}
NAMED = [part["by"] for system in DATA["system"] for part in system["parts"] if "by" in part]


def test_every_page_is_of_something_registered() -> None:
    links = re.findall(r"\]\((\w+)/([\w+-]+)\.md\)", PAGE)
    assert len(links) > 100
    for folder, name in links:
        assert name in set(PAGES[folder]), f"{folder}/{name}"


def test_each_system_has_a_row_with_a_paper_and_promises() -> None:
    assert len(DATA["system"]) == 39
    assert all(re.fullmatch(r"arXiv:[\d.]+(, arXiv:[\d.]+)?", system["paper"]) for system in DATA["system"])
    assert all(part["does"] for system in DATA["system"] for part in system["parts"])


@pytest.mark.parametrize(
    ("by", "there"),
    [
        ("method:uce", True),
        ("method:uce.lamb", True),
        ("method:uce.nothing", False),
        ("method:uce@flux", True),
        ("method:nasa@flux", False),
        ("method:nothing", False),
        ("protection:trajectory-shift", True),
        ("protection:nothing", False),
        ("sampler:amo", True),
        ("sampler:nothing", False),
        ("judge:moji-judge", True),
        ("judge:lpips", False),
        ("command:erase", True),
        ("option:erase.report", True),
        ("option:erase.nothing", False),
        ("file:docs/tables.py", True),
        ("file:docs/nothing.py", False),
    ],
)
def test_what_is_there(by, there) -> None:
    assert TABLES["is_there"](by) is there


def test_a_state_is_computed() -> None:
    def state(*named):
        parts = [{"does": "something"} | ({"by": by} if by else {}) for by in named]
        return TABLES["system_row"](1, {"name": "x", "paper": "y", "parts": parts})[3]

    found = [state("method:uce"), state("sampler:amo"), state("method:uce", ""), state("method:nothing")]
    assert found == ["whole", "unmeasured", "part", "absent"]


def test_no_method_or_attack_is_left_out() -> None:
    beside = [name for names in DATA["beside"].values() for name in names]
    known = {re.split("[.@]", by.partition(":")[2])[0] for by in NAMED} | set(beside)
    own = TABLES["own_methods"]()
    assert not set(own) - known
