"""The report as a reader meets it: data that keeps its schema, a page that a browser shows."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tests.evaluation.test_harness import pizza as pizza
from tests.report.test_verdict import BARRED
from unconcept.evaluation.judging.rates import PairedAnswer, drawn_instead
from unconcept.evaluation.tasks.edit_task import variant_of_method
from unconcept.evaluation.trials.pages import _shown
from unconcept.jobs.evaluate import evaluate
from unconcept.jobs.evaluate_job import EvaluationRun
from unconcept.prompts.checks import Check, Prompt
from unconcept.prompts.sets import PromptGroup
from unconcept.report.data import ReportData
from unconcept.scorers.features import JudgeEmbedding

SCHEMA = ReportData.model_json_schema()
pytestmark = pytest.mark.slow  # Its two reports draw for half a minute; tests/cli looks at a page in the fast ones.


@pytest.fixture(scope="module")
def finished(pizza, tmp_path_factory) -> Path:
    """One edit with attacks, in a folder."""
    out = tmp_path_factory.mktemp("reports") / "one"
    evaluate(
        EvaluationRun(("pizza",), out, (pizza,), suite="smoke", attacks=("derived-embedding",), limit=2, workers=1)
    )
    return out


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """Two methods by two concepts."""
    out = tmp_path_factory.mktemp("reports") / "many"
    evaluate(
        EvaluationRun(
            ("pizza", "crown"),
            out,
            variants=(variant_of_method("uce"), replace(variant_of_method("uce"), label="twin")),
            suite="smoke",
            limit=1,
            workers=1,
        )
    )
    return out


def test_data_keeps_its_schema(finished, compared) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for folder in (finished, compared):
        data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        Draft202012Validator(SCHEMA).validate(data)
        data["trials"][0]["groups"]["nonsense"] = data["trials"][0]["groups"]["direct"]
        assert not Draft202012Validator(SCHEMA).is_valid(data), "an unknown group is refused"


def test_tables_for_documents(compared) -> None:
    table = (compared / "results.md").read_text(encoding="utf-8")
    lines = table.splitlines()
    assert lines[2].startswith("| unedited |")
    assert lines[3].startswith("| uce |")
    assert lines[4].startswith("| twin |")
    assert (compared / "results.svg").read_text(encoding="utf-8").startswith("<svg")
    assert (compared / "results.csv").read_text(encoding="utf-8").count("\n") > 4


def test_the_judges_own_errors_stand_beside_every_table(finished, compared) -> None:
    sentence = "On the unedited model the judge finds the target in "
    for folder, files in ((finished, ("report.html",)), (compared, ("report.html", "results.md"))):
        assert all(sentence in (folder / name).read_text(encoding="utf-8") for name in files)
        with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        trials = json.loads((folder / "report.json").read_text(encoding="utf-8"))["trials"]
        for trial, line in zip(trials, lines[:: len(lines) // len(trials)], strict=True):
            assert float(line["judge_true_positive"]) == trial["calibration"]["true_positive"]["value"]
            assert float(line["judge_nothing"]) == trial["calibration"]["nothing"]["value"]
    head = next(
        line for line in (compared / "results.md").read_text(encoding="utf-8").splitlines() if "p (Holm)" in line
    )
    assert "| nothing |" in head, "every group's share of it"


def test_attacks_have_their_rows(finished) -> None:
    with (finished / "attacks.csv").open(encoding="utf-8", newline="") as file:
        (line,) = csv.DictReader(file)
    (row,) = json.loads((finished / "report.json").read_text(encoding="utf-8"))["trials"][0]["attacks"]
    assert (line["attack"], float(line["nothing"]), int(line["n"])) == (
        row["attack"],
        row["nothing"]["value"],
        row["success"]["n"],
    )
    assert "s a prompt" in (finished / "report.html").read_text(encoding="utf-8")


def test_a_distance_names_its_extractor_with_its_hash(finished) -> None:
    data = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    named = {figure["name"].partition("@")[2].partition(",")[0] for figure in data["trials"][0]["figures"]}
    assert (
        {one["name"] for one in data["measures"]}
        == named
        == {"moji-clip", "moji-judge-features", "moji-judge-embedding"}
    )
    (embedding,) = (one for one in data["measures"] if one["name"] == "moji-judge-embedding")
    assert embedding["hash"] == JudgeEmbedding().hash
    assert embedding["hash"][:16] in (finished / "report.html").read_text(encoding="utf-8")


def test_a_page_begins_with_a_verdict_and_ends_with_the_run(finished, compared) -> None:
    for folder, edits in ((finished, 1), (compared, 4)):
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert page.count('<div class="verdict">') == edits
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        told = page.partition("<h2>The run</h2>")[2]
        assert run["date"] in told
        assert f"torch {run['libraries']['torch']}" in told
        assert "Seeds " in told
        assert not BARRED.search(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL))


def test_many_edits_have_one_cost_table(finished, compared) -> None:
    assert "<h2>Cost</h2>" not in (finished / "report.html").read_text(encoding="utf-8"), (
        "a single edit has its cost where it is described"
    )
    costs = (
        (compared / "report.html").read_text(encoding="utf-8").partition("<h2>Cost</h2>")[2].partition("</table>")[0]
    )
    trials = json.loads((compared / "report.json").read_text(encoding="utf-8"))["trials"]
    lines = costs.partition("<tbody>")[2].strip().splitlines()[: len(trials)]
    for trial, line in zip(trials, lines, strict=True):
        assert all(f">{trial['cost'][name]:,}<" in line for name in ("seconds", "bytes", "parameters"))
        assert line.endswith('<td class="number">n/a</td></tr>'), "no attack was run"


def test_the_page_can_be_read_without_seeing_it(finished, compared) -> None:
    for folder in (finished, compared):
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert page.count("<img ") == page.count('alt="') > 0
        assert page.count("<table>") * 1 <= page.count('scope="row"')
        assert "<main>" in page
        assert 'lang="en"' in page
        assert 'src="http' not in page


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as engine:
        opened = engine.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield opened
        opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("which", ["finished", "compared"])
def test_a_browser_shows_the_page(which, request, browser, tmp_path) -> None:
    """No error on the console, every picture decodes, nothing is wider than a phone but what scrolls, links work."""
    folder = request.getfixturevalue(which)
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((folder / "report.html").as_uri())
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    page.emulate_media(media="print")
    assert page.pdf()[:4] == b"%PDF"
    assert problems == []


def test_a_report_is_read_back_by_its_own_model(finished, compared) -> None:
    for folder in (finished, compared):
        text = (folder / "report.json").read_text(encoding="utf-8")
        assert json.dumps(ReportData.model_validate_json(text).plain(), indent=2, ensure_ascii=False) + "\n" == text


def test_a_page_shows_every_name_of_a_long_request() -> None:
    checks = []
    for number in range(30):
        for replicate in range(3):
            prompt = Prompt(f"a thing {number}", replicate)
            checks.append(Check(prompt, "direct", f"thing {number}", "object", (f"thing {number}",)))
    shown = _shown(checks, 12)
    assert [check.concept for check in shown] == [f"thing {number}" for number in range(30)]
    assert _shown(checks[:9], 5) == [checks[0], checks[3], checks[6], checks[1], checks[2]]


def test_only_pictures_that_lost_the_target_are_counted_as_drawn_instead() -> None:
    def answer(group: PromptGroup, before: str, after: str) -> PairedAnswer:
        return PairedAnswer(Check(Prompt("a cup", 0), group, "cup", "object", ("cup",)), before, after)

    lost = [answer("direct", "cup", "pot"), answer("direct", "cup", "key"), answer("direct", "cup", "pot")]
    others = [answer("direct", "cup", "cup"), answer("direct", "jug", "jar"), answer("near", "cup", "box")]
    assert list(drawn_instead([lost[1], *others, lost[0], lost[2]]).items()) == [("pot", 2), ("key", 1)]
