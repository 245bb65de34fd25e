"""What is told of requests that meet is what happens to them under the ledger's rule."""

import torch

from tests.ledger.desk import ask, ledger, model
from tests.methods.quick import QUICK
from unconcept.core import Request
from unconcept.edits.merge import MergeSettings, merge_edits
from unconcept.ledger.conflicts import find_conflicts
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.policy import LedgerPolicy

MEET = (
    Request(("dog",), ("cat",), ("fox",)),
    Request(("dog",), ("bus",), ("sun",), "style"),
    Request(("fox",), ("dog",)),
)


def told(book) -> dict[tuple[str, str], str]:
    return {(one["conflict"], one["text"]): one["policy"] for one in find_conflicts(book)}


def book_of(folder, method, policy, requests=MEET, settings=None):
    book = ledger(folder, method, policy, settings)
    return book, [ask(book, one, method).id[:8] for one in requests]


def test_merged_trainings_stay_as_each_was_asked(tmp_path) -> None:
    book, (first, second, third) = book_of(
        tmp_path / "l", "esd", LedgerPolicy("merge", MergeSettings("uniform")), settings=QUICK["esd"]
    )
    how = "each is solved alone on the base, then merged (uniform)"
    names = sorted((f"esd {second}", f"esd {first}"))
    anchors = {f"esd {first}": "'cat'", f"esd {second}": "'bus'"}
    assert told(book) == {
        ("erased and retained", "fox"): f"esd {third} erases it and esd {first} retains it: {how}",
        ("several anchors", "dog"): f"{', '.join(f'{anchors[name]} by {name}' for name in names)} is used: {how}",
        ("erased and an anchor", "dog"): "targets are mapped to the anchor as the unedited model encodes it",
        ("several kinds", "object, style"): "each is solved as its own kind",
    }
    edits = [book.artifacts.get_edit(one.edit) for one in book.request_states.active]
    wanted, state = merge_edits(model(), edits, MergeSettings("uniform")), fold_requests(book, model()).edit
    assert all(torch.equal(state.deltas[name], delta) for name, delta in wanted.deltas.items())
    alone = ledger(tmp_path / "m", "esd", LedgerPolicy("merge"), QUICK["esd"])
    ask(alone, MEET[0], "esd")
    assert alone.artifacts.get_edit(alone.request_states.active[0].edit).hash in {edit.hash for edit in edits}, (
        "its anchor is its own, and it retains the fox"
    )


def test_a_sequence_makes_each_on_what_the_last_one_left(tmp_path) -> None:
    book, _ = book_of(
        tmp_path / "l", "uce", LedgerPolicy("sequential"), (*MEET, Request(("fox",), ("dog",), ("moon",)))
    )
    found, how = told(book), "each is solved on the model that the one before left"
    assert all(
        found[key].endswith(f": {how}")
        for key in (("erased and retained", "fox"), ("several anchors", "dog"), ("asked for twice", "fox"))
    )
    assert found["asked for twice", "fox"].startswith("it is erased 2 times, by uce ")
    assert (
        found["erased and an anchor", "dog"]
        == "targets are mapped to the anchor as the model encodes it after the requests before them"
    )


def test_closed_forms_are_one_request_and_methods_are_not(tmp_path) -> None:
    """Under the rule merge too: no training, nothing to merge."""
    book, _ = book_of(tmp_path / "l", "uce", LedgerPolicy("merge"))
    assert told(book)["several anchors", "dog"] == "'bus' is used, which sorts first of ['bus', 'cat']"
    assert told(book)["erased and retained", "fox"] == "it is erased, and left out of every retain set meanwhile"
    assert told(book)["several kinds", "object, style"].startswith("folded as the kind that comes first")
    ask(book, Request(("dog",), ("cat",), ("fox",)), "speed")
    found = told(book)
    assert (
        found["several anchors", "dog"]
        == "'cat' by speed, 'bus' by uce is used: each is solved separately, and all are in force"
    )
    assert (
        found["erased and retained", "fox"]
        == "uce erases it and speed retains it: each is solved separately, and all are in force"
    )
    assert (
        found["erased and an anchor", "dog"]
        == "targets of uce are mapped to the anchor as the weights encode it after speed"
    )


def test_adapters_are_not_merged(tmp_path) -> None:
    book, ids = book_of(
        tmp_path / "l", "spm", LedgerPolicy("merge"), (*MEET[:1], Request(("dog",), ("cat",))), QUICK["spm"]
    )
    said = (
        f"it is erased 2 times, by {', '.join(sorted(f'spm {id_}' for id_ in ids))}: each is solved separately, and all"
        " are in force"
    )
    assert told(book) == {("asked for twice", "dog"): said}
