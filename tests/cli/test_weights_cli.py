"""`--weight`: what a user types, what the edit's header keeps, and what is refused in one line."""

import json

import pytest
from typer.testing import CliRunner

from tests import tiny
from tests.cli.test_training_cli import one_line
from unconcept.cli import app
from unconcept.edits import load_edit, origin_of

RUN = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.folder("sd1", tmp_path_factory.mktemp("model") / "tiny")


def erase(model, out, *words: str):
    return RUN.invoke(app, ["erase", "dog", "red car", "--model", str(model), "--no-report", "--out", str(out), *words])


def test_a_weight_is_in_the_header_and_the_reasons(model, tmp_path) -> None:
    done = erase(model, tmp_path / "one", "--weight", "red car=3", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["reasons"]["weights"] == "red car 3, each other concept 1"
    assert origin_of(load_edit(tmp_path / "one/edit.safetensors")).settings["weights"] == {"dog": 0.5, "red car": 1.5}


def test_equal_weights_leave_the_file_as_it_is(model, tmp_path) -> None:
    assert erase(model, tmp_path / "plain").exit_code == 0
    assert erase(model, tmp_path / "equal", "--weight", "red car=1").exit_code == 0
    one, other = (tmp_path / name / "edit.safetensors" for name in ("plain", "equal"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--weight", "cat=2"), "weight of 'cat': weigh what is erased: dog, red car"),
        (("--weight", "dog=-1"), "give a number >= 0"),
        (("--weight", "dog=much"), "give a number >= 0"),
        (("--weight", "dog=0", "--weight", "red car=0"), "all weights are 0"),
        (("--weight", "dog=2", "--method", "nag"), "nag takes no weights of targets"),
        (("--weight", "dog=2", "--method", "spm"), "spm takes no weights of targets"),
    ],
)
def test_a_wrong_weight_leaves_nothing_behind(model, tmp_path, words, said) -> None:
    one_line(erase(model, tmp_path / "out", *words), 2, said)
    assert not list(tmp_path.iterdir())


def test_a_ledger_refuses_weights(tmp_path) -> None:
    done = RUN.invoke(app, ["ledger", "add", str(tmp_path / "none"), "dog", "cat", "--weight", "dog=2"])
    one_line(done, 2, "a ledger's requests have no weights")
