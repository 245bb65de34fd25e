"""Names from files and arguments are text in everything that is printed and written, never markup."""

import ast
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from rich.console import Console

import unconcept.cli
from tests import tiny
from tests.cli.test_cli import run
from tests.core.test_escapes import NASTY_NAMES, markdown_it, yaml
from unconcept.cli.console import _bar, _Lines, exit_codes, print_json, print_table, say
from unconcept.core.errors import UsageError
from unconcept.core.escapes import markdown_text, visible_text
from unconcept.report.csv import escape_cell
from unconcept.report.data import ReportData
from unconcept.report.html import GROUP_MEANINGS, ReportPage, ReportSection, write_card, write_report_page
from unconcept.report.images import ImagePair
from unconcept.report.markdown import VariantRows, attacks_table, change_table, results_table
from unconcept.report.svg import ScatterPoint, drift_curve_svg, growth_svg, scatter_svg

NAMES = [name for name in NASTY_NAMES if name.strip()]
RATE = {"value": 0.5, "low": 0.1, "high": 0.9, "n": 2, "clusters": None}
GROUP = {"before": RATE, "after": RATE, "change": RATE, "nothing": RATE, "p": 1.0}


def report_named(name: str) -> ReportData:
    """A report in which every text that comes from a user or a file is the name."""
    edit = {
        **dict.fromkeys(("method", "kind", "family", "base", "base_hash", "version", "licence", "hash"), name),
        **dict.fromkeys(("targets", "anchors", "retain"), (name,)),
        "settings": {name: name},
        "report": {name: 1.0},
        "strength": 1.0,
    }
    attack = {
        **{"attack": name, "rung": "text", "concept": name, "pre": RATE, "success": RATE, "ceiling": RATE},
        **{"floor": RATE, "nothing": RATE, "curve": (), "seconds": 1, "missing": 0},
    }
    answer = {"text": name, "seed": 1, "group": "direct", "concept": name, "before": name, "after": name}
    figure = {
        **{"name": f"x: {name}", "value": 0.5, "before": 0.5, "n": 2, "formula": name, "interval": (0.1, 0.9)},
        "before_interval": (0.1, 0.9),
    }
    trial = {
        **{"label": name, "concepts": (name,), "edit": edit, "cost": {"bytes": 1, "parameters": 1}, "asked": 1},
        **{"answered": 1, "calibration": None, "groups": {"direct": GROUP, "far": GROUP}, "not_asked": {}},
        **{"figures": (figure,), "attacks": (attack,), "checks": (answer,)},
    }
    measured = {"name": name, "version": 1, "hash": name}
    return ReportData.model_validate(
        {
            **{"status": "FAILED", "failures": (name,), "missing": 1, "suite": name, "table_hash": None},
            **{"drawing": {"steps": 1, "guidance_scale": 1, "sampler": name}, "judge": {**measured, "policy": name}},
            "measures": (measured,),
            "reasons": dict.fromkeys(("targets", "anchors", "retain", "prompts", "attacks"), name),
            **{"recipe": name, "trials": (trial,)},
        }
    )


def page_named(name: str) -> ReportPage:
    report = report_named(name)
    pair = ImagePair(name, torch.zeros(3, 2, 2), torch.zeros(3, 2, 2), (name, name))
    return ReportPage(
        title=name,
        action="erased from",
        report=report,
        run={
            "device": name,
            "dtype": name,
            "seconds": {name: 1},
            "date": name,
            "command": name,
            "libraries": {name: name},
        },
        sections=[ReportSection(report.trials[0], {"direct": [pair]}, name)],
        pooled={name: report.trials[0].groups},
        meaning=GROUP_MEANINGS,
        limits=[name],
    )


class Page(HTMLParser):
    """The elements of a page with their attributes' names, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        self.elements.append((tag, *(name for name, _ in attributes)))

    def handle_data(self, data) -> None:
        self.texts.append(data)


def page_of(name: str, folder: Path) -> Page:
    write_report_page(page_named(name), folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_the_elements_that_it_has_for_a_plain_name(name, tmp_path) -> None:
    plain, nasty = page_of("fox", tmp_path), page_of(name, tmp_path)
    assert nasty.elements == plain.elements
    assert any(visible_text(name) in text for text in nasty.texts)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_front_matter_text_and_lines_to_copy(name, tmp_path) -> None:
    def card(of: str) -> str:
        write_card(page_named(of), weights=2, is_bundled=True, path=tmp_path / "README.md")
        return (tmp_path / "README.md").read_text(encoding="utf-8")

    def blocks(text: str) -> list[str]:
        tokens = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).parse(text)
        inner = [child.type for token in tokens for child in token.children or ()]
        assert not {"html_inline", "html_block", "image"} & {*inner, *(token.type for token in tokens)}
        assert "link_open" not in inner
        return [token.type for token in tokens]

    head, body = card(name).removeprefix("---\n").split("\n---\n", 1)
    plain_head, plain_body = card("fox").removeprefix("---\n").split("\n---\n", 1)
    front = yaml.safe_load(head)
    assert front["license"] == front["base_model"] == front["tags"][1] == name
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == name
    assert set(front) == set(yaml.safe_load(plain_head))
    assert front["pipeline_tag"] == "text-to-image"
    assert blocks(body) == blocks(plain_body)


@pytest.mark.parametrize("name", NAMES)
def test_tables_and_charts_keep_their_shape(name) -> None:
    (trial,) = report_named(name).trials
    rows = [VariantRows(name, trial.groups, dict.fromkeys(trial.groups, name), {}, trial.attacks)]
    for table in (results_table, change_table, attacks_table):
        for many in (rows, rows * 2):
            lines = [line for line in table(many).splitlines() if line.startswith("|")]
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
            assert any(markdown_text(name) in line for line in lines)
    spot = (0.5, 0.4, 0.6)
    for chart in (
        scatter_svg([ScatterPoint(name, spot, spot)], name, name),
        growth_svg({name: [(1.0, 1.0), (2.0, 2.0)]}, name, name),
        drift_curve_svg([0.1, 0.2], [0.1, 0.2], [name, name], name),
    ):
        assert {tag for tag, *_ in Page(chart).elements} <= {
            "svg",
            "text",
            "line",
            "circle",
            "polyline",
            "path",
            "title",
        }
        assert not re.search("[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f]", chart)
    assert not escape_cell(name).startswith("=")


@pytest.mark.parametrize("name", [*NASTY_NAMES, "surrogate \udcff"])
def test_a_terminal_shows_names_as_they_are(name, capsys, monkeypatch) -> None:
    seen = visible_text(name)
    say(f"{name}: 1")
    print_table(name, (name, "n"), [(name, name)])
    print_json({name: [name]})
    _Lines()(name, 1, 1)
    with pytest.raises(SystemExit), exit_codes():
        raise UsageError(f"no {name}")
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert not re.search("[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f]", printed)
    assert f"{seen}: 1" in captured.out
    assert captured.out.count(seen.strip()) >= 4
    assert json.loads(captured.out[captured.out.rindex("\n{") :]) == {name: [name]}


@pytest.mark.parametrize("name", ["[/b]", "[red]x :smile:", "\x1b[31m"])
def test_a_bar_shows_names_as_they_are(name, monkeypatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=written, force_terminal=True, width=100))
    with _bar() as tell:
        tell(name, 1, 2)
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written.getvalue())
    assert visible_text(name) in plain


def test_only_the_console_prints() -> None:
    """Everything else prints through it, so that no name reaches a terminal as it is."""
    for path in Path(unconcept.cli.__file__).parent.glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {ast.unparse(call) for call in calls} & {"print", "typer.echo", "sys.stdout.write", "sys.stderr.write"}
        assert path.name == "console.py" or not names, f"{path.name}: {names}"


@pytest.mark.usefixtures("few_steps")
def test_commands_with_such_names(tmp_path, monkeypatch) -> None:
    """As arguments, on their way through edits, pages, cards, exports and a ledger."""
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    model, book, names = tiny.folder("sd1", tmp_path / "m"), tmp_path / "l", ("[/b]", "<i>$(x)`", "\x1b[2J|\u202e")
    drawn = ("--limit", 1, "--batch-size", 8)
    commands = [
        ("erase", *names, "--anchor", "[red]", "--retain", "*_a_*", *drawn, "--model", model, "--out", tmp_path / "e"),
        ("sample", *names, "--steps", 1, "--model", model, "--out", tmp_path / "s"),
        ("export", tmp_path / "e/edit.safetensors", "--to", "peft", "--model", model, "--out", tmp_path / "p"),
        ("ledger", "init", book, "--model", model, "--by", names[0]),
        *(("ledger", "add", book, name, "--anchor", "[red]", "--by", names[2], "--because", name) for name in names),
        ("ledger", "status", book),
        ("ledger", "status", book, "--html", tmp_path / "l.html"),
        ("ledger", "materialize", book, "--out", tmp_path / "made"),
    ]
    for words in commands:
        result = run(*words)
        assert result.exit_code in (0, 1), result.output  # 1: a toy's picture may be blank before the edit.
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.stdout + result.stderr), words
    for path in (path for path in tmp_path.rglob("*") if path.suffix in (".html", ".md", ".json", ".csv")):
        if "m" not in path.relative_to(tmp_path).parts:
            text = path.read_text(encoding="utf-8")
            assert "\x1b" not in text, path
            assert "<i>" not in text or path.suffix in (".json", ".csv"), path
