"""`make mutants`: its table fits the sources, and a fault that no test sees is told."""

import ast
import json
from typing import ClassVar

import pytest

from benchmarks import mutants
from unconcept.methods import methods

TABLE = mutants.table()


def test_every_trained_method_has_five_faults_whose_texts_stand_once_in_the_source() -> None:
    assert set(TABLE) == {name for name in methods if mutants.is_trained(name)}
    for _, *faults in TABLE.values():
        assert len(faults) >= 5
        for fault in faults:
            ast.parse(fault.planted())
            assert all((mutants.ROOT / test).exists() for test in fault.tests)


def test_a_text_that_is_no_longer_there_is_an_error() -> None:
    fault = mutants.Mutant("esd", "sign", "no such text", "", "methods/esd.py", ())
    with pytest.raises(SystemExit, match=r"esd, sign: 0 times in methods/esd\.py: 'no such text'; mend mutants\.toml"):
        fault.planted()


class Blind:
    """A runner whose tests see no sign."""

    runs: ClassVar[list[str]] = []

    def __init__(self, src) -> None:
        assert (src / "unconcept" / "methods" / "esd.py").exists()

    def run(self, mutant):
        self.runs.append(mutant.kind)
        return int(mutant.kind not in (mutants.NOTHING, "sign")), 36.0

    def close(self) -> None:
        pass


def test_survivors_are_listed_and_outcomes_are_kept(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(mutants, "Runner", Blind)
    words = ["--methods", "esd", "--out", str(tmp_path)]
    assert mutants.main(words) == 1
    told = capsys.readouterr().out
    assert told.startswith(f"{len(TABLE['esd'])} of {len(TABLE['esd'])} runs, 0.01 CPU hours")
    assert "survives: esd, sign: '1 + self.negative_guidance" in told
    assert "1 of 5 faults survive" in told
    first = list(Blind.runs)
    assert mutants.main(words) == 1
    assert Blind.runs == first, "what is kept runs once"
    place = tmp_path / "outcomes.json"
    kept = json.loads(place.read_text())
    lost = next(key for key, row in kept.items() if row["kind"] == "sign")
    del kept[lost]
    place.write_text(json.dumps(kept))
    mutants.main(words)
    assert Blind.runs == [*first, "sign"]


def test_tests_that_fail_without_a_fault_are_an_error(tmp_path, monkeypatch) -> None:
    class Red(Blind):
        def run(self, mutant):
            return 1, 1.0

        def printed(self) -> str:
            return "1 failed"

    monkeypatch.setattr(mutants, "Runner", Red)
    with pytest.raises(SystemExit, match="1 failed\nesd, none: pytest ends with 1"):
        mutants.main(["--methods", "esd", "--out", str(tmp_path)])
