"""Forgetting a withdrawn ask: nothing of it is left in the ledger's files, and the ledger stays sound."""

import json
import os
import random
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.ledger.desk import WORDS, ask, ledger, model
from tests.ledger.test_asks import ask_as
from tests.methods.quick import QUICK
from unconcept.core.errors import LedgerError
from unconcept.ledger import forget as forgetting
from unconcept.ledger import operations
from unconcept.ledger.audit import audit_requests
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.forget import forget_ask
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.repair import repair_ledger
from unconcept.ledger.status import ledger_status
from unconcept.ledger.storage import private_file
from unconcept.ledger.storage.entry_log import ENTRIES_FILE
from unconcept.ledger.storage.private_file import PRIVATE_FILE
from unconcept.ledger.verify import verify_ledger


class Look:
    """An audit that finds the same whatever it is shown."""

    settings = {"pictures": 4}  # noqa: RUF012

    def __call__(self, model, edit, concept, erased, refold):
        return {"pictures": 4, "unedited": 4, "edited": 0, "tuned": 1, "refolded": 0}


def traces(book: Ledger, entry: int) -> dict[str, list[str]]:
    """All texts and hashes by which the ask in an entry, or a state with it, can be told or looked up."""
    body = book.entry_log.bodies[entry]
    states = [one for one in book.entry_log.bodies if one["op"] == "materialize"]
    return {
        "texts": [*body["asked"]["targets"], body["by"], body["because"]],
        "hashes": [body["id"], body["asked"]["token_ids"], *body["artifacts"]],
        "salts": [part.salt for part in book.entry_log.private.parts[entry].values()],
        "states": [value for one in states for value in (one["requests"], one["state"])],
        "trained": [kept["edit"] for one in states for kept in one["trained"].values()],
    }


def found_in(folder: Path, words: list[str]) -> list[tuple[str, str]]:
    """Which of the words stand in which file, or are the name of one."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        (word, path.name) for path in files for word in words if word.encode() in path.read_bytes() or word in path.name
    ]


def full_book(folder: Path) -> tuple[Ledger, int]:
    """A ledger with a request that leaves traces in every kind of entry, then withdrawn; and the entry of its ask."""
    book = ledger(folder)
    ask(book, 2)
    came = ask_as(book, "Zoe", 9)
    entry = book.entry_log.bodies[-1]["seq"]
    ask(book, 8)  # One of its targets lies near one of the request's.
    materialize_ledger(book, model(), folder.parent / "out", False, True, EntryNote("clerk"))
    audit_requests(book, model(), Look(), EntryNote("clerk"))
    revoke_request(book, came.id, EntryNote("", "no longer", "clerk"))
    materialize_ledger(book, model(), folder.parent / "out", False, True, EntryNote("clerk"))
    return book, entry


def test_nothing_of_it_is_left_and_what_is_in_force_keeps_its_bytes(tmp_path) -> None:
    book, entry = full_book(tmp_path / "l")
    told = traces(book, entry)
    kept = {*told["states"][2:]}
    assert any(one["target"] == "old pear 4" for body in book.entry_log.bodies for one in body.get("near", ()))
    words = [word for name in told for word in told[name] if word not in kept]
    in_force = {name for one in book.request_states.active for name in one.artifacts}
    artifacts = {path.name: path.read_bytes() for path in (book.folder / "artifacts").iterdir()}
    assert {word for word, _ in found_in(book.folder, words)} >= {*told["texts"], *told["hashes"], *told["salts"]}
    state = fold_requests(book, model()).hash
    gone = forget_ask(book, entry, EntryNote("clerk"))
    shared = [word for word in words if word in in_force]
    assert found_in(book.folder, [word for word in words if word not in shared]) == []
    assert gone.artifacts == len({*told["hashes"][2:]} - in_force) > 0
    assert gone.left == ()
    for path in (book.folder / "artifacts").iterdir():
        assert path.read_bytes() == artifacts[path.name]
    for again in (book, Ledger.open(book.folder)):
        assert fold_requests(again, model()).hash == state
        assert len(again.request_states.by_id) == 2
    found = verify_ledger(book.folder, model())
    assert (found.faults, found.notes, found.forgotten, found.state) == ((), (), (entry,), state)
    assert ledger_status(book)["forgotten"] == [entry]
    assert forget_ask(book, entry, EntryNote()).parts == 0, "once more changes nothing"
    assert ask_as(book, "Zoe", 9).came == "added"


def test_what_others_still_ask_for_stays(tmp_path) -> None:
    """The text goes with the last ask; before that only who asked, and why."""
    book = ledger(tmp_path / "l")
    id_ = ask_as(book, "Zoe", 9).id
    ask_as(book, "Yan", 9)
    state = fold_requests(book, model()).hash
    revoke_request(book, id_, EntryNote("", "no longer"), by="Zoe")
    told = traces(book, 1)
    forget_ask(book, 1, EntryNote())
    assert found_in(book.folder, ["Zoe", "no longer", *told["salts"]]) == []
    assert fold_requests(Ledger.open(book.folder), model()).hash == state
    assert ledger_status(book)["requests"][0]["asked_by"] == ["Yan"]
    revoke_request(book, id_, EntryNote())
    forget_ask(book, 2, EntryNote())
    assert found_in(book.folder, [*told["texts"], *told["hashes"]]) == []
    assert verify_ledger(book.folder, model()).faults == ()


def test_states_of_an_earlier_ask_go_with_the_last(tmp_path) -> None:
    """What was kept, since it was the state in force, when the first ask was forgotten."""
    book = ledger(tmp_path / "l")
    id_ = ask_as(book, "Zoe", 9).id
    materialize_ledger(book, model(), tmp_path / "out", False, True, EntryNote())
    ask_as(book, "Yan", 9)
    revoke_request(book, id_, EntryNote(), by="Zoe")
    forget_ask(book, 1, EntryNote())
    state = ledger_status(book)["materialized"][0]["state"]
    assert state is not None
    revoke_request(book, id_, EntryNote())
    forget_ask(book, 3, EntryNote())
    assert found_in(book.folder, [state]) == []
    assert verify_ledger(book.folder, model()).faults == ()


@pytest.mark.parametrize("rule", ["recompute", "merge"])
def test_edits_that_were_trained_with_it_go_and_those_in_force_stay(rule, tmp_path) -> None:
    settings = QUICK["esd"]
    book = ledger(tmp_path / "l", "esd", LedgerPolicy(rule), settings)
    first = ask(book, 1, "esd")
    materialize_ledger(book, model(), tmp_path / "out", False, True, EntryNote())
    second = ask(book, 2, "esd")
    materialize_ledger(book, model(), tmp_path / "out", False, True, EntryNote())
    revoke_request(book, second.id, EntryNote())
    kept = (book.folder / "artifacts").iterdir()
    assert len([*kept]) == 2
    gone = forget_ask(book, 3, EntryNote())
    assert (gone.artifacts, len([*(book.folder / "artifacts").iterdir()])) == (1, 1)
    assert [one.id for one in book.request_states.active] == [first.id]
    assert verify_ledger(book.folder, model()).faults == ()


def test_what_cannot_be_forgotten_is_said(book, tmp_path) -> None:
    before = (book.folder / ENTRIES_FILE).read_bytes()
    for entry, said in (
        (2, r"entry 2 \(.*\) is in force: withdraw it first"),
        (0, r"entry 0 \(init\) is not an ask"),
        (3, r"entry 3 \(revoke\) is not an ask"),
        (9, "the ledger has entries 0 to 3, not 9"),
        (-1, "not -1"),
    ):
        with pytest.raises(LedgerError, match=said):
            forget_ask(book, entry, EntryNote())
    assert (book.folder / ENTRIES_FILE).read_bytes() == before


def test_the_private_file_is_its_owners_alone(book) -> None:
    forget_ask(book, 1, EntryNote())
    private = [book.folder / PRIVATE_FILE, *(book.folder / "artifacts").iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    body = json.loads((book.folder / ENTRIES_FILE).read_bytes().splitlines()[2])["body"]
    assert body.keys() == {"op", "at", "seq", "parent", "format", "sealed"}, "the chain names nobody and nothing"


def test_equal_asks_have_unequal_commitments(tmp_path) -> None:
    book = ledger(tmp_path / "l")
    for _ in range(2):
        ask_as(book, "Zoe", 9)
    first, second = (body["sealed"] for body in book.entry_log.chain[1:])
    assert not {*first.values()} & {*second.values()}


def test_another_process_may_forget_while_a_ledger_is_open(book) -> None:
    """The open one reads on, without what is gone."""
    other, third = Ledger.open(book.folder), Ledger.open(book.folder)
    forget_ask(other, 1, EntryNote())
    book.refresh()
    assert len(book.request_states.by_id) == 1
    ask(third, 5)
    book.refresh()
    assert [one.state for one in book.request_states.by_id.values()] == ["active", "active"]
    assert verify_ledger(book.folder, model()).faults == ()


def test_what_is_forgotten_while_another_is_added_is_no_neighbour(tmp_path, monkeypatch) -> None:
    """The neighbours are looked for before the lock is taken."""
    book = ledger(tmp_path / "l")
    came, real = ask_as(book, "Zoe", 9), operations._near

    def near(*given):
        found = real(*given)
        other = Ledger.open(book.folder)
        revoke_request(other, came.id, EntryNote())
        forget_ask(other, 1, EntryNote())
        return found

    monkeypatch.setattr(operations, "_near", near)
    assert ask(book, 8).near == ()
    assert found_in(book.folder, ["old pear 4", came.id]) == []
    assert verify_ledger(book.folder, model()).faults == ()


def test_a_part_that_vanished_without_being_forgotten_is_damage(book) -> None:
    path = book.folder / PRIVATE_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert any("entry 2 (add): its part 'what' is missing" in fault for fault in verify_ledger(book.folder).faults)
    with pytest.raises(LedgerError, match=r"entry 2 \(add\): its part '.*' is missing; restore the ledger"):
        Ledger.open(book.folder)


STOPS = ("delete_durably", "write_privately")


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("finish", [repair_ledger, lambda folder: forget_ask(Ledger.open(folder), 2, EntryNote())])
def test_a_forget_that_stopped_is_sound_and_goes_on(stop, finish, tmp_path, monkeypatch) -> None:
    book, entry = full_book(tmp_path / "l")
    told = traces(book, entry)

    class Stopped(BaseException):
        pass

    def stopped(*given: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(private_file if stop == "write_privately" else forgetting, stop, stopped)
        with pytest.raises(Stopped):
            forget_ask(book, entry, EntryNote())
    found = verify_ledger(book.folder, model())
    assert (found.faults, found.forgotten) == ((), (entry,))
    assert any(f"entry {entry} is forgotten, but its text is still there" in note for note in found.notes)
    assert len(Ledger.open(book.folder).request_states.by_id) == 2
    finish(book.folder)
    assert found_in(book.folder, [*told["texts"], *told["hashes"][:2], *told["salts"]]) == []
    assert verify_ledger(book.folder, model()).notes == ()


@pytest.mark.slow
def test_kill_9_at_any_moment_of_forgetting(tmp_path) -> None:
    """Twenty of twenty: the ledger is sound after each, and the same command goes on."""
    rng, seconds = random.Random(0), 0.0
    book = ledger(tmp_path / "l")
    for trial in range(21):
        entry, words = len(book.entry_log.chain), [f"{WORDS[trial % 16]} {1000 + trial}", f"Requester {trial}"]
        came = ask_as(book, words[1], 2 * (1000 + trial) + trial % 2)
        words[0] = book.request_states.by_id[came.id].content.targets[0]
        revoke_request(book, came.id, EntryNote())
        begun = time.monotonic()
        if trial and (pid := os.fork()) == 0:
            try:
                forget_ask(Ledger.open(book.folder), entry, EntryNote())
            finally:
                os._exit(0)
        if trial:
            time.sleep(rng.uniform(0, 1.2 * seconds))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        else:
            forget_ask(Ledger.open(book.folder), entry, EntryNote())
            seconds = time.monotonic() - begun
        assert verify_ledger(book.folder, model()).faults == (), trial
        forget_ask(Ledger.open(book.folder), entry, EntryNote())
        repair_ledger(book.folder)
        assert found_in(book.folder, words) == [], trial
        assert (verify_ledger(book.folder).faults, verify_ledger(book.folder).notes) == ((), ())
        book.refresh()
