"""What documents point to is there: links between them, and the files of this repository that they name."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "world/README.md")
)
# Pages of `docs/generate.py`.
MADE = ("methods/", "attacks/", "protections/", "suites/", "scorers/", "families/", "recipes/", "api/")
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:src|tests|docs|benchmarks|world)/[\w./-]+\.\w+)`")
EXAMPLE = re.compile(r"/(?:test_)?x\.\w+$|/x-\*|/NAME/")  # `methods/x.py`, which a reader is about to write


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in LINK.findall(text):
        place = target.partition("#")[0]
        if place and not target.startswith(("http", "mailto:")) and not place.startswith(MADE):
            assert (ROOT / document).parent.joinpath(place).exists(), f"{document} links to {target}"


@pytest.mark.parametrize(
    "path", [*ROOT.glob("benchmarks/*.toml"), *ROOT.glob("src/unconcept/recipes/*.toml")], ids=lambda path: path.name
)
def test_no_comment_of_settings_holds_a_figure(path: Path) -> None:
    """A command makes every figure; a comment beside settings goes stale unseen."""
    comments = re.findall(r"^\s*#.*|\s#[^\"\n]*$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert not [comment for comment in comments if re.search(r"\d\s*%|\d/\d+/\d", comment)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_claim_cites_the_candidates(document: str) -> None:
    assert "candidates.toml" not in (ROOT / document).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_are_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for name in NAMED.findall(text):
        assert EXAMPLE.search(name) or (ROOT / name).exists(), f"{document} names {name}"


def test_the_reference_is_what_the_registries_say() -> None:
    tables = runpy.run_path(str(ROOT / "docs/tables.py"))
    for page, made in (("REFERENCE", "reference"), ("SYSTEMS", "systems")):
        assert tables[page].read_text(encoding="utf-8") == tables[made](), "run `python docs/tables.py`"


def test_the_summary_says_what_the_results_say() -> None:
    """The table of docs/measured.md is a part of the first one of docs/results.md, in whole percent."""
    summary, results = (
        first_rows((ROOT / "docs" / name).read_text(encoding="utf-8")) for name in ("measured.md", "results.md")
    )
    head, whole = summary["what"], results[""]
    assert len(summary) > len(head)
    for name, row in summary.items():
        for group, cell in zip(head, row, strict=True):
            if group != cell:
                share = results[name][whole.index(group)].partition("%")[0]
                assert cell == f"{float(share):.0f} %", f"{name}, {group}"


def first_rows(text: str) -> dict[str, list[str]]:
    """The cells of the first table that has a column `target`, by the first cell of their row."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, *row = (cell.strip() for cell in line.strip("|").split("|"))
        if found or "target" in row:
            if not line.startswith("|"):
                break
            found[name] = row
    return {name: row for name, row in found.items() if not name.startswith("---")}
