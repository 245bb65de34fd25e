"""What is left to the slow tests: a family whose stand-in passes the same test, and never the last one."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from tests.fast_cases import STAND_INS, fast_among, mark_slow
from unconcept.models.families import FAMILIES


@dataclass
class Case:
    """As much of a collected test as is asked for."""

    family: str
    file: str = "edits/test_gated.py"
    rank: int = 1
    marked: list[str] = field(default_factory=list)

    path = property(lambda self: Path("tests", self.file))
    nodeid = property(lambda self: f"tests/{self.file}::test_it[{self.rank}-{self.family}]")
    callspec = property(lambda self: SimpleNamespace(params={"rank": self.rank, "family": self.family}))

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marked else None

    def add_marker(self, name: str) -> None:
        self.marked.append(name)


def slow(*cases: Case) -> list[str]:
    mark_slow(list(cases))
    return [case.family for case in cases if case.marked]


def test_a_family_is_slow_where_its_stand_in_passes_the_same_test() -> None:
    assert slow(Case("sd1"), Case("sd2"), Case("sdxl"), Case("flux2"), Case("qwenimage")) == ["sd2", "flux2"]


def test_it_is_fast_where_nothing_stands_in_for_it() -> None:
    assert slow(Case("sd2"), Case("sdxl")) == []
    assert slow(Case("sd1", rank=2), Case("sd2")) == []
    assert slow(Case("sd1", marked=["slow"]), Case("sd2")) == ["sd1"]


def test_families_are_all_asked_where_they_differ() -> None:
    for file in ("models/test_views.py", "edits/test_export.py", "training/test_goals.py"):
        assert slow(Case("sd1", file), Case("sd2", file)) == []


def test_what_stands_in_is_a_family_that_nothing_stands_in_for() -> None:
    assert {*STAND_INS, *STAND_INS.values()} <= set(FAMILIES)
    assert not {*STAND_INS} & {*STAND_INS.values()}


def test_cases_that_are_not_named_are_slow() -> None:
    named, other = fast_among([("esd", "sd1"), ("esd", "flux")], [("esd", "sd1")])
    (single,) = fast_among(["spm"], [])
    assert named == ("esd", "sd1")
    assert [(case.values, [mark.name for mark in case.marks]) for case in (other, single)] == [
        (("esd", "flux"), ["slow"]),
        (("spm",), ["slow"]),
    ]
