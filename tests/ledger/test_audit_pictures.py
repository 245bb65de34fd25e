"""Audits keep small pictures beside the chain: the page shows them, deleting them harms nothing, and forgetting a
request destroys them.
"""

import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests import tiny
from tests.cli.test_names_are_text import NAMES, Page
from tests.ledger.desk import ask, errors, ledger, model, write_sealed
from tests.ledger.test_asks import ask_as
from tests.ledger.test_forget import Look, found_in
from unconcept.cli import app
from unconcept.core import Request
from unconcept.core.errors import LedgerError, RequestError
from unconcept.core.escapes import visible_text
from unconcept.core.output_lock import output_lock
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.jobs import ledger_views
from unconcept.ledger.audit import audit_requests, never_drawn
from unconcept.ledger.forget import forget_ask
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.page import write_ledger_page
from unconcept.ledger.repair import repair_ledger
from unconcept.ledger.status import ledger_status
from unconcept.ledger.storage import pictures as storage
from unconcept.ledger.storage import private_file
from unconcept.ledger.verify import verify_ledger
from unconcept.report.contact_sheet import SheetPair
from unconcept.report.images import ImagePair


def pairs(name: str = "fox", seed: int = 7) -> list[SheetPair]:
    """One pair of a target and one of what should stay."""
    before, after = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return [
        SheetPair(ImagePair(text, before, after, (text, "nothing"), (True, False)), seed, text == name)
        for text in (name, "a boat")
    ]


def drawn(model, edit, request, erased) -> list[SheetPair]:
    return pairs(request.content.concepts[0], int(request.id[:6], 16) ^ int(edit.hash[:6], 16))


def audited(book: Ledger, source=drawn) -> Ledger:
    audit_requests(book, model(), Look(), EntryNote("auditor"), pictures=source)
    return book


def sheets(book: Ledger) -> list[Path]:
    return sorted((book.folder / "pictures").iterdir())


def page(book: Ledger, name: str = "page.html") -> str:
    out = book.folder.parent / name
    write_ledger_page(book, ledger_status(book), model(), out, True)
    return out.read_text(encoding="utf-8")


def test_an_audit_keeps_pictures_that_are_its_owners_alone(book) -> None:
    ask(book, 3)
    kept = sheets(audited(book))
    assert len(kept) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert stat.S_IMODE((book.folder / "pictures").stat().st_mode) == 0o700
    chain = (book.folder / "entries.jsonl").read_text()
    assert not [path for path in kept if path.stem in chain], "the chain holds nothing of them"
    assert {body["found"]["sheet"] for body in book.entry_log.bodies if body["op"] == "audit"} == {
        path.stem for path in kept
    }
    found = verify_ledger(book.folder, model())
    assert (found.faults, found.notes) == ((), ())
    assert repair_ledger(book.folder) == []


def test_the_page_shows_each_audit_the_newest_first(book) -> None:
    materialize_ledger(book, model(), book.folder.parent / "out", False, True, EntryNote())
    audited(book)
    materialize_ledger(book, model(), book.folder.parent / "out", False, True, EntryNote())
    ask(book, 3)
    audited(book)
    text = page(book)
    audits = [body for body in book.entry_log.bodies if body["op"] == "audit"]
    assert len(audits) == 3
    places = [text.index(f'id="audit-{body["seq"]}"') for body in audits]
    assert places == sorted(places, reverse=True)
    for body in audits:
        head = f"<code>head {body['seq'] + 1} {book.entry_log.hash_of(body['seq'])}</code>"
        section = text[text.index(f'id="audit-{body["seq"]}"') :].partition("</section>")[0]
        assert head in section
        assert body["found"]["state"] in section
        assert body["at"][:16].replace("T", " ") in section
        assert section.count("data:image/png;base64,") == 4
        assert ("not released" in section) == (body["found"]["state"] != audits[0]["found"]["state"])
        row = "4 of 4<br><small>51.0 % – 100.0 %</small>", "0 of 4<br><small>0.0 % – 49.0 %</small>"
        assert all(shown in section for shown in row)
        assert "erased, seed" in section
        assert "should stay, seed" in section
    images = re.findall(r"<img [^>]*>", text)
    assert len(images) == 12
    assert all(re.search(r'alt="[^"]+, (before|after) the edit; the judge answers: [^"]+"', image) for image in images)


def test_a_page_without_its_pictures_opens_and_says_so(book) -> None:
    (sheet,) = sheets(audited(book))
    data = sheet.read_bytes()
    sheet.write_bytes(data[:-1])
    assert "Its pictures were changed since they were kept" in page(book)
    assert any(f"{sheet} was changed" in fault for fault in verify_ledger(book.folder).faults)
    sheet.unlink()
    assert "Its pictures were deleted." in page(book)
    assert verify_ledger(book.folder).faults == ()
    audited(book)
    assert sheets(book) == [], "what was deleted is not drawn again"
    sheet.write_bytes(data)
    assert "data:image/png" in page(book)


def test_an_audit_without_pictures_shows_none_and_gets_them_without_another_probe(book) -> None:
    """As those before pictures were kept, or those of an explicit concept."""
    audited(book, None)
    assert "This audit kept no pictures." in page(book)

    class Never(Look):
        def __call__(self, *given):
            raise AssertionError

    before = len(book.entry_log.chain)
    for _ in range(2):
        found = audit_requests(book, model(), Never(), EntryNote(), pictures=drawn)
        assert len(book.entry_log.chain) == before + 1
    assert [one["sheet"] for one in found.values()] == [path.stem for path in sheets(book)]


def test_forgetting_a_request_destroys_its_pictures_and_those_of_states_with_it(tmp_path) -> None:
    book = ledger(tmp_path / "l")
    ask(book, 2)
    came, entry = ask_as(book, "Zoe", 9), 2
    audited(book)
    revoke_request(book, came.id, EntryNote())
    audited(book)
    (kept,) = {one for one in sheets(book) if one.stem == book.entry_log.bodies[-1]["found"]["sheet"]}
    (book.folder / "pictures/.1.part").touch()
    (book.folder / "pictures/notes.txt").touch()
    gone = forget_ask(book, entry, EntryNote())
    assert gone.pictures == 3, "of the request, of another one in a state with it, and what a killed process left"
    assert gone.left == ("pictures/notes.txt",)
    (book.folder / "pictures/notes.txt").unlink()
    assert sheets(book) == [kept]
    assert found_in(book.folder, ["old pear 4", came.id]) == []
    found = verify_ledger(book.folder, model())
    assert (found.faults, found.notes) == ((), ())
    text = page(book)
    assert text.count("Its pictures were deleted.") == 1
    assert "state forgotten" in text


def test_forgetting_goes_on_where_it_was_stopped(book, monkeypatch) -> None:
    came = ask_as(book, "Zoe", 9)
    audited(book)
    revoke_request(book, came.id, EntryNote())

    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage.AuditPictures, "delete_unreferenced", stop)
    with pytest.raises(KeyboardInterrupt):
        forget_ask(book, 4, EntryNote())
    monkeypatch.undo()
    assert len(sheets(book)) == 2
    assert "2 files belong to no entry" in verify_ledger(book.folder).notes[0]
    assert repair_ledger(book.folder)[0].endswith("artifacts and 2 contact sheets of forgotten entries")
    assert sheets(book) == []
    assert not private_file.PrivateFile(book.folder).fault


def test_pictures_of_no_entry_are_put_aside(book) -> None:
    """A process was killed between the pictures and the entry."""
    name = book.pictures.put(b"x")
    assert "1 files belong to no entry" in verify_ledger(book.folder).notes[0]
    assert repair_ledger(book.folder) == [
        f"moved {name}.png, which no entry names, to quarantine/{next((book.folder / 'quarantine').iterdir()).name}"
    ]
    assert sheets(book) == []
    book.pictures.put(b"x")
    (book.folder / "head.json").unlink()
    assert f"{name}.png belong to no entry" in verify_ledger(book.folder).faults[-1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sheet": "../private"}, "Its pictures were changed since they were kept"),
        ({"sheet": sha256(b"x").hexdigest()}, "Its pictures cannot be read: no contact sheet of an audit"),
        ({"concepts": {"dog": {"pictures": 0, "unedited": "many", "edited": 9, "tuned": None}}}, ">n/a</td>"),
    ],
)
def test_findings_that_somebody_rewrote_lead_nowhere(changed, said, book) -> None:
    """Hashes and all: the page opens, and no file is read but a sheet."""
    audited(book).pictures.put(b"x")
    seq = len(book.entry_log.chain) - 1
    write_sealed(book, lambda bodies, data: data[seq]["found"]["found"].update(changed))
    assert said in page(Ledger.open(book.folder))


def test_what_is_withdrawn_while_it_is_audited_leaves_no_trace(book) -> None:
    class Slow(Look):
        def __call__(self, *given):
            other = Ledger.open(book.folder)
            (one,) = other.request_states.active
            revoke_request(other, one.id, EntryNote())
            return super().__call__(*given)

    with pytest.raises(LedgerError, match="withdrawn while it was audited: run the command again"):
        audit_requests(book, model(), Slow(), EntryNote(), pictures=drawn)
    assert not (book.folder / "pictures").exists()
    assert "audit" not in [body["op"] for body in Ledger.open(book.folder).entry_log.bodies]


def test_names_on_the_page_are_text(tmp_path) -> None:
    seen = []
    for which, names in (("a", ["fox"] * len(NAMES)), ("b", NAMES)):
        book = ledger(tmp_path / which)
        ask(book, Request((names[0],), ("cat",)))
        audited(book, lambda *given, names=names: [pair for name in names for pair in pairs(name)])
        seen.append(Page(page(book, f"{which}.html")))
    assert seen[1].elements == seen[0].elements
    for name in NAMES:
        assert any(visible_text(name) in text for text in seen[1].texts), name


def test_what_is_never_drawn_is_not_audited(tmp_path) -> None:
    """Nobody draws it: it is refused if it is asked for, and passed over among others."""
    book = ledger(tmp_path / "l")
    hidden = ask(book, Request(("nude child",), ("",)))
    for start in (None, hidden.id):
        with pytest.raises(RequestError, match="'nude child' joins sexual content and minors: it is never drawn"):
            audit_requests(book, model(), Look(), EntryNote(), start, drawn)
    apart = ask(book, Request(("nude", "child"), ("", "")))
    shown = ask(book, 3)
    assert [*audit_requests(book, model(), Look(), EntryNote(), pictures=drawn)] == [shown.id]
    assert {one.id for one in never_drawn(book.request_states.active)} == {hidden.id, apart.id}


class Probe:
    """Stands for `FineTuneResurgence`: stores a picture, counts and draws the same of everything."""

    settings = Look.settings
    asked: list[str] = []  # noqa: RUF012

    def __init__(self, store: PictureStore, *given, **more) -> None:
        self.store = store

    def __call__(self, model, edit, concept, erased, refold):
        self.asked.append(concept)
        self.store.save("ab" * 20, pairs()[0].pair.before)
        assert list(self.store.pictures.rglob("*.png"))
        return Look()(model, edit, concept, erased, refold)

    def contact_sheet(self, model, edit, concepts, erased):
        return pairs(concepts[0])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command line, with `Probe`, on a ledger of a tiny model."""
    monkeypatch.setattr(ledger_views, "FineTuneResurgence", Probe)
    monkeypatch.setattr(Probe, "asked", [])
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    base, book = tiny.folder("sd1", tmp_path / "m"), tmp_path / "l"

    def command(name: str, *words: object):
        result = CliRunner().invoke(app, ["ledger", name, str(book), *map(str, words)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    assert command("init", "--model", base).exit_code == 0
    return command


def test_pictures_of_an_explicit_concept_stay_only_if_they_are_asked_for(run, tmp_path) -> None:
    book, stored = tmp_path / "l", tmp_path / "store/pictures"
    assert run("add", "torso", "--anchor", "", "--kind", "explicit", "--quiet").exit_code == 0
    (found,) = json.loads(run("audit", "--json", "--quiet").stdout).values()
    assert found["concepts"]["torso"]["unedited"] == 4
    assert not list(tmp_path.rglob("*.png"))
    assert not (book / "training").exists()
    with output_lock(book / "training/pictures"), ThreadPoolExecutor() as beside:
        assert "is being written by process" in beside.submit(run, "audit", "--quiet").result().stderr
    run("status", "--html", tmp_path / "page.html")
    assert "those of an explicit concept stay with --store-pictures only" in (tmp_path / "page.html").read_text()
    (found,) = json.loads(run("audit", "--store-pictures", "--json", "--quiet").stdout).values()
    assert (book / "pictures" / f"{found['sheet']}.png").is_file()
    assert not stored.exists(), "the counts were known: nothing was drawn for them again"


@pytest.mark.slow
def test_what_is_passed_over_is_said(run) -> None:
    assert run("add", "nude child", "--anchor", "", "--quiet").exit_code == 0
    result = run("audit", "--quiet")
    assert (result.exit_code, errors(result)) == (2, 1)
    assert run("add", "car", "--anchor", "", "--quiet").exit_code == 0
    result = run("audit", "--quiet", "--json")
    assert result.exit_code == 0
    assert "not audited, because it is never drawn: nude child" in result.stderr
    assert len(json.loads(result.stdout)) == 1
    assert Probe.asked == ["car"]
