"""An edit is its own undo: a strength below 0 has to be meant, in every command that takes one and in Python."""

import pytest
import torch
import typer
from safetensors.torch import load_file

from tests import tiny
from tests.cli.test_cli import run
from tests.edits.test_checksum import EDITS
from unconcept.cli import app
from unconcept.core.errors import SettingsError

COMMANDS = {
    "erase": ("erase", "dog", "--anchor", "cat"),
    "apply": ("apply", "EDIT"),
    "export": ("export", "EDIT", "--to", "peft"),
    "sample": ("sample", "a dog", "--edit", "EDIT"),
    "invert": ("invert", "picture.png", "--edit", "EDIT"),
    "evaluate": ("evaluate", "dog", "--edit", "EDIT"),
    "attack": ("attack", "p4d", "dog", "--edit", "EDIT", "--judge", "moji-judge"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_every_kind(kind) -> None:
    edit = EDITS[kind]
    for strength in (-1.0, -1e-9, -100):
        with pytest.raises(SettingsError, match=r"draw more of what the edit erases.*--amplify, or amplify=True"):
            edit.scaled(strength)
    assert edit.scaled(-1.0, amplify=True).scaled(-1.0, amplify=True).hash == edit.hash
    for nonsense in (float("nan"), -101, "x", None):
        with pytest.raises(SettingsError, match="give a number from -100 to 100"):
            edit.scaled(nonsense, amplify=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("amplify")
    model = tiny.folder("sd1", root / "m")
    made = run("erase", "dog", "--anchor", "cat", "--no-report", "--quiet", "--model", model, "--out", root / "e")
    assert made.exit_code == 0, made.output
    return model, root / "e/edit.safetensors"


def test_every_command_that_takes_a_strength_is_here() -> None:
    group = typer.main.get_command(app)
    commands = {**group.commands, **group.commands["ledger"].commands}
    for flag, others in (("--strength", set()), ("--amplify", {"init"})):  # A ledger's --merge-scale is one too.
        taking = {name for name, one in commands.items() if any(flag in option.opts for option in one.params)}
        assert taking == set(COMMANDS) | others


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command(command, place, tmp_path) -> None:
    model, edit = place
    words = [edit if word == "EDIT" else word for word in COMMANDS[command]]
    result = run(*words, "--model", model, "--strength", -1, "--out", tmp_path / "o")
    assert result.exit_code == 2, result.output
    assert "strength -1.0 makes a model draw more of what the edit erases" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_it_has_to_be_meant_without_an_edit_too(tmp_path) -> None:
    assert run("sample", "a dog", "--strength", -1, "--out", tmp_path / "o").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_it_can_be_meant(place, tmp_path) -> None:
    model, edit = place
    for name, strength in (("plain", ()), ("negative", ("--strength", -1, "--amplify"))):
        out = tmp_path / f"{name}.safetensors"
        result = run("export", edit, "--to", "comfyui", "--model", model, *strength, "--out", out)
        assert result.exit_code == 0, result.output
    plain, negative = (load_file(tmp_path / f"{n}.safetensors") for n in ("plain", "negative"))
    assert plain
    assert all(torch.equal(negative[name], -change) for name, change in plain.items())
