"""What `evaluate` and `erase` print of a suite's own figures."""

from unconcept.cli.evaluate import print_figures

SHARE = {"name": "UA", "value": 0.5, "before": 0.25, "n": 8}
INTERVALS = {"interval": (0.2, 0.8), "before_interval": (0.1, 0.5)}
NONE = {"interval": None, "before_interval": None}


def test_shares_scores_and_no_measures_of_pictures(capsys) -> None:
    score, lone, measure = (
        {"name": name, "value": 0.98765, "before": before, "n": 3, **NONE}
        for name, before in (("M3, moji-judge", 1.0), ("H_o", None), ("distance@moji-judge, far", 0.1))
    )
    print_figures([{"label": "uce", "figures": (SHARE | INTERVALS, score, lone, measure)}])
    said = " ".join(capsys.readouterr().out.split())
    for part in ("25.0% [10.0%, 50.0%]", "50.0% [20.0%, 80.0%]", "M3, moji-judge", "1.000", "0.988", "H_o"):
        assert part in said
    assert "distance" not in said


def test_nothing_without_figures(capsys) -> None:
    print_figures([{"label": "uce", "figures": ()}])
    assert capsys.readouterr().out == ""
