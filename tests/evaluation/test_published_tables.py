"""The commands that publish tables: cut short they say so, and publish nothing."""

import sys

import pytest

from benchmarks import attacks, results


@pytest.mark.parametrize("command", [attacks, results])
def test_a_run_that_time_cuts_ends_partial(command, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make", "--methods", "uce", "--max-minutes", "0"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    assert "PARTIAL: " in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()
