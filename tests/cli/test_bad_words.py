"""What a user mistypes: one line that says it, and nothing on the disk."""

import pytest

from tests.cli.test_cli import run

BAD = {
    "unknown regulariser": (
        ("erase", "dog face", "--method", "esd", "--regulariser", "l2ps=1"),
        "unknown regulariser 'l2ps'; did you mean 'l2sp'?",
    ),
    "regulariser without a value": (
        ("erase", "dog face", "--method", "esd", "--regulariser", "l2sp"),
        "--regulariser 'l2sp': write NAME=VALUE",
    ),
    "regulariser of one step": (
        ("erase", "dog face", "--method", "slug", "--regulariser", "l2sp=1"),
        "slug is one-step: regularisers act on trained methods",
    ),
    "training option of one step": (
        ("erase", "dog face", "--method", "slug", "--checkpointing"),
        "only for trained methods, and slug is one-step",
    ),
    "regulariser of a closed form": (
        ("erase", "dog face", "--regulariser", "l2sp=1"),
        "uce is closed-form: regularisers act on trained methods alone",
    ),
    "unknown method": (("erase", "dog face", "--method", "uec"), "no method 'uec'; did you mean 'uce'"),
    "unknown concept": (("erase", "dog fase"), "did you mean 'dog face'"),
    "unknown setting": (("erase", "dog face", "--set", "lam=1"), "did you mean 'lamb'"),
    "setting out of range": (("erase", "dog face", "--set", "lamb=-1"), "lamb must be > 0"),
    "setting of the wrong type": (("erase", "dog face", "--set", "lamb=much"), "lamb = 'much'"),
    "no value": (("erase", "dog face", "--set", "lamb"), "NAME=VALUE"),
    "empty target": (("erase", " "), "empty target"),
    "target is anchor": (("erase", "dog face", "--anchor", "dog face"), "equals its anchor"),
    "target retained": (("erase", "dog face", "--retain", "dog face"), "also retained"),
    "anchors": (
        ("erase", "dog face", "crown", "--anchor", "a", "--anchor", "b", "--anchor", "c"),
        "2 concepts but 3 anchors",
    ),
    "too long": (("erase", "dog face", "--retain", "word " * 40), "the text encoder holds 32"),
    "no model": (("erase", "dog face", "--model", "nowhere"), "neither 'moji', 'moji-flow' nor an existing path"),
    "no device": (("erase", "dog face", "--device", "tpu"), "device 'tpu' does not exist"),
    "no dtype": (("erase", "dog face", "--dtype", "int3"), "dtype 'int3'"),
    "no file": (("erase", "--concepts", "nowhere.txt"), "nowhere.txt"),
    "no concept": (("erase",), "no concept"),
    "no recipe": (("erase", "dog face", "--recipe", "nowhere.toml"), "No such file"),
    "no edit": (("apply", "nowhere.safetensors"), "missing, cut short or damaged"),
    "nothing to draw": (("sample",), "give either prompts or --found FILE"),
    "found file": (("sample", "--found", "nowhere.safetensors"), "nowhere.safetensors"),
    "unknown suite": (("evaluate", "dog face", "--edit", "x.safetensors", "--suite", "quik"), "did you mean 'quick'"),
    "unknown attack": (("attack", "p4", "dog face", "--edit", "x.safetensors"), "did you mean 'p4d'"),
    "no edit to evaluate": (("evaluate", "dog face", "--edit", "nowhere.safetensors"), "missing, cut short or damaged"),
    "no concept to evaluate": (("evaluate", "--edit", "nowhere.safetensors"), "no concept"),
    "unknown concept to evaluate": (("bench", "dog fase"), "did you mean 'dog face'"),
    "no prompt file": (("evaluate", "dog face", "--edit", "x.safetensors", "--prompts", "nowhere.csv"), "nowhere.csv"),
    "unknown judge": (
        ("evaluate", "dog face", "--edit", "x.safetensors", "--judge", "clp-score=x"),
        "did you mean 'clip-score'",
    ),
    "no model to sample from": (
        ("sample", "a dog", "--model", "nowhere"),
        "neither 'moji', 'moji-flow' nor an existing path",
    ),
    "bench of nothing": (("bench", "dog face", "--methods", "uec"), "did you mean 'uce'"),
    "sample without edit file": (("sample", "a dog", "--edit", "nowhere.safetensors"), "missing, cut short or damaged"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words, said = BAD[case]
    result = run(*words, "--out", tmp_path / "o")
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


ANYWHERE = {
    "argument": ("erase", "d\udcff"),
    "flag": ("erase", "dog face", "--anchor", "d\udcff"),
    "setting": ("erase", "dog face", "--set", "lamb=\udcff"),
    "path": ("apply", "\udcff.safetensors"),
    "recipe": ("erase", "--recipe", "\udcff.toml"),
    "ledger": ("ledger", "status", "\udcff"),
    "command": ("\udcff",),
}


@pytest.mark.parametrize("case", ANYWHERE)
def test_an_argument_that_is_no_utf_8_is_one_line(case, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*ANYWHERE[case])
    assert result.exit_code == 2, result.output
    assert r"\udcff" in result.stderr
    assert "is no valid Unicode text: write it in UTF-8" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


LONG = "x" * 5000


@pytest.mark.parametrize(
    "words",
    [
        ("apply", LONG, "--out", "o"),
        ("erase", "dog face", "--out", LONG),
        ("evaluate", "dog face", "--edit", LONG, "--out", "o"),
        ("ledger", "status", LONG),
        ("ledger", "verify", ".", "--card", LONG),
    ],
)
def test_a_path_that_is_too_long_is_one_line(words, tmp_path, monkeypatch) -> None:
    """Any of any command, since all go through the same border."""
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


FLAGS = {
    "huge seed of an audit": (("ledger", "audit", "l", "--seed", 10**40), "'--seed'"),
    "huge seed": (("erase", "dog face", "--seed", 10**40), "'--seed'"),
    "negative seed": (("sample", "a dog", "--out", "o", "--seed", -1), "'--seed'"),
    "flag out of range": (("erase", "dog face", "--limit", 0), "'--limit'"),
    "flag of the wrong type": (("erase", "dog face", "--seed", "x"), "'--seed'"),
    "unknown flag": (("erase", "dog face", "--methd", "uce"), "--method"),
    "missing flag": (("evaluate", "dog face", "--out", "o"), "'--edit'"),
    "missing argument": (("apply", "--out", "o"), "'edit'"),
    "unknown command": (("eras", "dog face"), "'erase'"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_a_flag_that_does_not_fit_is_one_line(case, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words, said = FLAGS[case]
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "--help" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
