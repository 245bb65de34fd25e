"""What the program says about itself: version, help in groups, recipes, completion."""

import json
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from unconcept.cli import app
from unconcept.core.recipe import recipes


def said(*words: str) -> str:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_the_version_is_the_installed_one() -> None:
    assert said("--version") == f"unconcept {version('unconcept')}\n"


def test_every_flag_of_erase_stands_under_one_heading() -> None:
    lines = said("erase", "--help").splitlines()
    titles = [line for line in lines if line and not line.startswith((" ", "Usage"))]
    assert titles[:2] == ["Arguments:", "Options:"]
    assert sorted(titles) == sorted({*titles})
    assert {"Request:", "Model:", "Pictures:", "Printing:"} < {*titles}
    assert sum(line.startswith("  --model") for line in lines) == 1


def test_commands_stand_under_headings_with_whole_sentences() -> None:
    text = said("--help")
    titles = [line for line in text.splitlines() if line and not line.startswith(" ")]
    groups = ["Make an edit:", "Use it:", "Measure it:", "Protect pictures:", "Look up:", "Keep requests:"]
    assert titles[1:] == ["Options:", *groups]
    lines = (text + said("ledger", "--help")).splitlines()
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage")]


@pytest.mark.parametrize("name", [command.name or command.callback.__name__ for command in app.registered_commands])
def test_every_command_has_help(name: str) -> None:
    assert "--help" in said(name.rstrip("_"), "--help")


def test_recipes_are_listed_with_their_sources() -> None:
    rows = json.loads(said("recipes", "--json"))
    assert [row["name"] for row in rows] == list(recipes())
    assert all(row["source"] and row["for"] for row in rows)


def test_completion_is_offered() -> None:
    assert "--install-completion" in said("--help")
