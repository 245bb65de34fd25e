"""`unconcept ledger` as a user types it."""

import json
import stat
from pathlib import Path
from shutil import copytree

import pytest
from typer.testing import CliRunner

from tests import tiny
from tests.ledger.desk import errors
from tests.methods.quick import QUICK
from unconcept.cli import app
from unconcept.core.errors import LedgerChanged
from unconcept.core.progress import ignore_progress
from unconcept.edits import load_edit
from unconcept.jobs.ledger import ledger_training
from unconcept.ledger.audit import audit_requests, resurgence_share
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.training.session import current_session

RUN = CliRunner()


def run(*words: object):
    return RUN.invoke(app, ["ledger", *(str(word) for word in words)])


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tiny.folder("sd1", tmp_path_factory.mktemp("base") / "model")
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n")
    return folder


@pytest.fixture(scope="module")
def written_book(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "legal"
    result = run("init", folder, "--model", base, "--method", "uce", "--set", "lamb=0.25")
    assert result.exit_code == 0, result.stderr
    first = (
        "dog face",
        "--anchor",
        "goat",
        "--retain",
        "cat",
        "--retain",
        "sea",
        "--by",
        "A. Artist",
        "--because",
        "letter",
    )
    for words in (first, ("cat", "red car", "--anchor", "bus")):
        result = run("add", folder, *words, "--quiet")
        assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def book(written_book, tmp_path) -> Path:
    """A copy that the test may change."""
    return copytree(written_book, tmp_path / "legal")


def told(book: Path) -> dict:
    return json.loads(run("status", book, "--json").stdout)


def test_what_is_asked_is_told(book) -> None:
    found = told(book)
    assert found["rule"] == "recompute"
    assert found["base"]["family"] == "sd1"
    first, second = found["requests"]
    assert (first["concepts"], first["anchor"], first["method"], first["state"]) == (
        ["dog face"],
        ["goat"],
        "uce",
        "active",
    )
    assert (first["by"], first["because"], first["revoked"]) == ("A. Artist", "letter", None)
    assert second["concepts"] == ["cat", "red car"]
    assert [one["conflict"] for one in found["conflicts"]] == ["erased and retained"]
    assert "erased and retained: cat" in run("status", book).stdout


def test_asking_again_is_recorded_and_taking_back_is_exact(book, tmp_path) -> None:
    for name in "ab":
        assert run("materialize", book, "--out", tmp_path / name, "--quiet").exit_code == 0
        assert run("add", book, "red car", "cat", "--anchor", "bus", "--by", "someone else").stdout.startswith(
            "in force: "
        )
        came = json.loads(run("add", book, "moon", "--anchor", "sun", "--json").stdout)
        assert came["came"] == ("added" if name == "a" else "in force again")
        assert (
            json.loads(run("revoke", book, came["id"][:10], "--recorded-by", "B", "--json").stdout)["state"]
            == "revoked"
        )
    files = [(tmp_path / name / "edit.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    card = json.loads((tmp_path / "a/card.json").read_text())
    origin = load_edit(tmp_path / "a/edit.safetensors").origin
    assert card["in_force"] == origin.settings["requests"]
    assert card["base"]["licence"] == origin.licence == "openrail++"
    assert {"torch", "diffusers"} <= set(origin.libraries)
    assert card["ledger"]["policy"]["rule"] == "recompute"


def test_who_still_asks_is_told_until_the_last_one_is_forgotten(book) -> None:
    words = ("red car", "cat", "--anchor", "bus", "--by", "Bo", "--recorded-by", "clerk")
    assert "2 ask for it now: it stays in force until each of them withdraws" in run("add", book, *words).stdout
    id_ = told(book)["requests"][1]["id"]
    result = run("revoke", book, id_[:8])
    assert (result.exit_code, errors(result)) == (2, 1)
    assert "has 2 asks in force: entry 2 by somebody unnamed at" in result.stderr
    assert "still asked for in entry 2 by somebody unnamed" in run("revoke", book, id_[:8], "--by", "Bo").stdout
    assert run("forget", book, 3).stdout.startswith("forgotten: entry 3, 3 parts and 0 artifacts destroyed")
    assert "entry 3 is forgotten: its text was destroyed" in run("verify", book, "--bytes-only").stdout
    for output in (run("status", book).stdout, run("status", book, "--json").stdout):
        assert "A. Artist" in output
        assert "Bo" not in output
    assert "forgotten: entries 3" in run("status", book).stdout


def test_a_checkpoint_is_a_folder_that_loads(book, tmp_path) -> None:
    from diffusers import StableDiffusionPipeline

    assert run("materialize", book, "--out", tmp_path / "o", "--checkpoint", "--quiet").exit_code == 0
    StableDiffusionPipeline.from_pretrained(tmp_path / "o/model", local_files_only=True)


def test_the_other_commands_say_something(book, tmp_path) -> None:
    assert "no faults: 3 entries" in run("verify", book, "--quiet").stdout
    assert run("repair", book).stdout == "nothing to repair\n"
    assert "of their norm over" in run("drift", book, "--quiet").stdout
    assert json.loads(run("drift", book, "--json", "--quiet").stdout)["total"] > 0
    assert len(json.loads(run("drift", book, "--history", "--json").stdout)) == 2
    other = tmp_path / "other"
    assert run("init", other, "--model", told(book)["base"]["model"], "--set", "lamb=0.25").exit_code == 0
    difference = run("diff", book, other).stdout
    assert difference.count("\n- ") == 2
    assert "the same state" in run("diff", book, book).stdout


def test_the_page_is_one_file(book, tmp_path) -> None:
    assert run("status", book, "--html", tmp_path / "page.html").exit_code == 0
    page = (tmp_path / "page.html").read_text()
    for word in ("dog face", "A. Artist", "letter", "erased and retained", "<svg", "Time line"):
        assert word in page
    assert 'src="http' not in page
    assert run("status", book, "--html", tmp_path / "page.html").exit_code == 2
    with_base = run("status", book, "--html", tmp_path / "moved.html", "--model", told(book)["base"]["model"])
    assert with_base.exit_code == 0
    assert (tmp_path / "moved.html").read_text() == page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("revoke", "f00"), "begins with 'f00'"),
        (("add", "dog", "--anchor", "dog"), "equals its anchor"),
        (("add",), "no concept"),
        (("add", "dog", "--anchor", "cat", "--set", "lamb=2.0"), "begin a new ledger for another policy"),
        (("add", "dog", "--anchor", "cat", "--method", "nonsense"), "no method 'nonsense'"),
        (("add", "dog face", "--anchor", "goat", "--model", "moji"), "open the model it was begun for"),
        (("materialize", "--out", "."), "exists"),
        (("materialize", "--out"), "Option '--out' requires an argument"),
        (("diff", "/nowhere"), "is not a ledger"),
        (("audit",), "an audit needs a judge"),
    ],
)
def test_bad_input_is_one_line(book, words, said) -> None:
    before = (book / "entries.jsonl").read_bytes()
    result = run(words[0], book, *words[1:])
    assert (result.exit_code, errors(result)) == (2, 1), result.stderr
    assert said in result.stderr
    assert (book / "entries.jsonl").read_bytes() == before


def test_beginning_badly_leaves_nothing(base, tmp_path) -> None:
    for words, said in (
        (("--rule", "guess"), "rule = 'guess'"),
        (("--rule", "merge", "--merge", "guess"), "how = 'guess'"),
        (("--rule", "merge", "--merge-topk", "2"), "at most 1, got 2.0"),
        (("--merge", "uniform"), "merge how has no effect under rule recompute"),
        (("--rule", "sequential", "--merge-scale", "2"), "merge scale has no effect under rule sequential"),
        (
            ("--rule", "merge", "--merge", "uniform", "--merge-scale", "2"),
            "merge scale has no effect on uniform",
        ),
        (
            ("--rule", "merge", "--merge", "task-arithmetic", "--merge-topk", "0.5"),
            "merge topk has no effect on task-arithmetic",
        ),
        (
            ("--rule", "merge", "--merge-scale", "-1"),
            "strength -1.0 makes a model draw more of what the edit erases: if you mean it, pass --amplify",
        ),
        (("--rule", "merge", "--merge-scale", "101"), "strength 101.0 is out of range"),
        (("--teacher", "pretrained"), "teacher has no effect under rule recompute"),
        (("--method", "uce-debias"), "does not erase"),
        (("--set", "lamb=0"), "lamb must be > 0"),
    ):
        result = run("init", tmp_path / "l", "--model", base, *words)
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
        assert not (tmp_path / "l").exists()


def test_a_negative_strength_is_meant(base, tmp_path) -> None:
    words = ("--rule", "merge", "--method", "esd", "--merge-scale", "-0.5", "--amplify")
    assert run("init", tmp_path / "l", "--model", base, *words).exit_code == 0
    assert told(tmp_path / "l")["policy"]["merge"]["scale"] == "-0.5"


def test_a_training_leaves_the_ledger_as_it_would_be_without(base, tmp_path) -> None:
    settings = [word for name, value in QUICK["esd"].items() for word in ("--set", f"{name}={value}")]
    assert run("init", tmp_path / "l", "--model", base, "--method", "esd", "--rule", "merge", *settings).exit_code == 0
    assert run("add", tmp_path / "l", "dog", "--anchor", "cat", "--quiet").exit_code == 0
    assert {path.name for path in (tmp_path / "l").iterdir()} == {
        "artifacts",
        "entries.jsonl",
        "head.json",
        "lock",
        "private.jsonl",
    }


def test_a_training_for_a_state_that_is_no_more_leaves_none(base, tmp_path) -> None:
    """What was saved of it may hold a request that is forgotten by now; no other user reads what is saved."""
    assert run("init", tmp_path / "l", "--model", base).exit_code == 0
    book, place = Ledger.open(tmp_path / "l"), tmp_path / "l/training"

    def train(error: type[BaseException]) -> None:
        with ledger_training(book, ["x"], ignore_progress):
            folder = current_session().folder
            folder.mkdir(exist_ok=True)
            (folder / "state").touch()
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
            raise error

    for error, left in ((KeyboardInterrupt, 1), (LedgerChanged, 0)):
        with pytest.raises(error):
            train(error)
        assert len(list(place.glob("*/state"))) == left
    assert not place.exists()


def test_a_recipe_that_trains_in_another_way_is_refused(base, tmp_path) -> None:
    """What a ledger keeps is to be made again bit by bit: nothing of a recipe is dropped in silence."""
    (tmp_path / "r.toml").write_text('source = "here"\nmethod = "esd"\n[training]\nmixed_precision = "bf16"\n')
    result = run("init", tmp_path / "l", "--model", base, "--recipe", tmp_path / "r.toml")
    assert (result.exit_code, errors(result)) == (2, 1)
    assert "mixed_precision" in result.stderr
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("entries.jsonl", "line 2 of entries.jsonl was changed"),
        ("private.jsonl", "private.jsonl: entry 1 (add): its part 'who' was changed"),
    ],
)
def test_verify_fails_aloud(book, name, said) -> None:
    path = book / name
    data = path.read_bytes()
    at = data.index(b"A. Artist") if name == "private.jsonl" else data.index(b'"op":"add"') + 7
    path.write_bytes(data[:at] + b"X" + data[at + 1 :])
    result = run("verify", book)
    assert result.exit_code == 1
    assert f"FAILED: {said}" in result.stderr
    assert run("status", book).exit_code == 2


def test_an_audit_stands_beside_the_entry(book, tmp_path) -> None:
    from unconcept.models import open_model

    class Look:
        settings = {"steps": 1}  # noqa: RUF012

        def __call__(self, model, edit, concept, erased, refold):
            assert "dog face" in erased
            asked.append(concept)
            with edit.applied(model), refold():
                return {"pictures": 8, "unedited": 6, "edited": 2, "tuned": 3, "refolded": 2}

    ledger, asked = Ledger.open(book), []
    view = open_model(ledger.first["model"], "cpu", "float32")
    found = audit_requests(ledger, view, Look(), EntryNote("tests"))
    assert audit_requests(ledger, view, Look(), EntryNote("tests")) == found, "what is written is not looked for again"
    assert sorted(asked) == ["cat", "dog face", "red car"]
    (seen,) = told(book)["requests"][0]["audits"]
    assert run("status", book, "--html", tmp_path / "page.html").exit_code == 0
    page = (tmp_path / "page.html").read_text()
    assert [shown in page for shown in ("6 of 8<br>", "2 of 8<br>", "3 of 8<br>", ">25%</td>")] == [True] * 4
    assert seen["concepts"]["dog face"]["came_back"] == "0.250"
    assert resurgence_share({"unedited": 2, "edited": 2, "tuned": 2}) is None
    assert "no faults: 5 entries" in run("verify", book, "--bytes-only").stdout


@pytest.mark.slow
def test_audit_on_moji(tmp_path) -> None:
    """The real thing at its smallest: nothing is asked of what comes out but that it adds up."""
    assert run("init", tmp_path / "l").exit_code == 0
    assert run("add", tmp_path / "l", "pizza", "--quiet").exit_code == 0
    result = run("audit", tmp_path / "l", "--steps", 1, "--pictures", 2, "--quiet", "--json")
    assert result.exit_code == 0, result.stderr
    (found,) = json.loads(result.stdout).values()
    counts = found["concepts"]["pizza"]
    assert counts["pictures"] == 2
    assert counts["unedited"] > counts["edited"]
    assert counts["refolded"] <= counts["pictures"]
    assert told(tmp_path / "l")["requests"][0]["audits"][0]["look"]["steps"] == 1
    assert json.loads(
        run("audit", tmp_path / "l", "--steps", 1, "--pictures", 2, "--quiet", "--json").stdout
    ) == json.loads(result.stdout)
    assert len(told(tmp_path / "l")["requests"][0]["audits"]) == 1
    assert run("status", tmp_path / "l", "--html", tmp_path / "page.html").exit_code == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") >= 2 * (2 + 2)
