"""What a command says while it works: a stage by tenths, and the time that is left."""

from unconcept.cli.console import progress


def test_a_stage_is_told_of_by_tenths_whatever_its_loss(capsys) -> None:
    with progress(quiet=False) as tell:
        for step in range(40, 101):
            tell(f"esd (loss {step / 7:.3f})", step, 100)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("): ")[2].partition(",")[0] for line in lines] == [f"{n}/100" for n in range(40, 101, 10)]


def test_a_stage_that_begins_again_is_told_of_again(capsys) -> None:
    with progress(quiet=False) as tell:
        for of in (20, 10):
            for done in range(0, of + 1, 5):
                tell("draw", done, of)
    said = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["draw: 5/20", "draw: 10/20", "draw: 15/20", "draw: 20/20", "draw: 5/10", "draw: 10/10"]


def test_time_left_is_told_once_something_was_timed(capsys) -> None:
    with progress(quiet=False) as tell:
        for done in (24, 48, 96):
            tell("draw", done, 96)
    first, second, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("draw: 24/96", "draw: 96/96")
    assert second.endswith(" s left")
