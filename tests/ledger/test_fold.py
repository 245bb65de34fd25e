"""The state is a function of the set of requests in force: bytes, whatever the history."""

import os
import random

import pytest
import torch

from tests import tiny
from tests.ledger.desk import ask, ledger, model, request
from unconcept.core import Request
from unconcept.core.errors import LedgerError, RequestError
from unconcept.core.request import RequestSpec
from unconcept.edits import DenseEdit, TextMapEdit
from unconcept.edits.export.bake import bake
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.ledger.conflicts import find_conflicts
from unconcept.ledger.fold import empty_edit, fold_requests, merged_request, stored_text_states
from unconcept.ledger.ledger import EntryNote, Ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.uce_updates import UCEUpdates
from unconcept.methods.uce import UCE


@pytest.fixture(autouse=True)
def unsettled(monkeypatch) -> None:
    """That bytes reach the disk is for other tests: here thousands of requests are made."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def file_of(book: Ledger, tmp_path) -> bytes:
    fold_requests(book, model()).edit.save(tmp_path / "edit.safetensors")
    return (tmp_path / "edit.safetensors").read_bytes()


@pytest.mark.parametrize(("requests", "orders"), [(20, 2), pytest.param(100, 20, marks=pytest.mark.slow)])
def test_any_order_with_any_revocations_gives_the_same_bytes(requests, orders, tmp_path) -> None:
    """Each order with revocations of others, some of them asked again: one file."""
    files = set()
    for order in range(orders):
        rng = random.Random(order)
        numbers, book = rng.sample(range(requests), requests), ledger(tmp_path / str(order))
        for number in numbers:
            came = ask(book, number)
            if rng.random() < 0.15:
                passing = ask(book, requests + rng.randrange(50))
                revoke_request(book, passing.id, EntryNote())
            if rng.random() < 0.1:
                revoke_request(book, came.id, EntryNote())
                assert ask(book, number).came == "in force again"
        assert len(book.request_states.active) == requests
        files.add(file_of(Ledger.open(book.folder) if order % 2 else book, tmp_path))
    assert len(files) == 1


def test_add_then_revoke_is_never_added(tmp_path) -> None:
    never, taken_back = ledger(tmp_path / "never"), ledger(tmp_path / "taken")
    for book in (never, taken_back):
        for number in (3, 1):
            ask(book, number)
    revoke_request(taken_back, ask(taken_back, 8).id, EntryNote())
    assert file_of(never, tmp_path) == file_of(taken_back, tmp_path)


@pytest.mark.parametrize("method", ["uce", "speed"])
def test_the_ledger_and_erase_give_one_edit(method, tmp_path) -> None:
    """Three requests one by one, and one erasure of the three concepts as `unconcept erase` makes it."""
    view, concepts = model(), ("red car", "dog face", "tall moon")
    book = ledger(tmp_path / "l", method)
    for name in concepts:
        ask(book, resolve_request(RequestSpec((name,), ("goat",), ("cat", "sea")), "tiny").request, method)
    whole = make_edit(view, resolve_request(RequestSpec(concepts[::-1], ("goat",), ("sea", "cat")), "tiny"), method, {})
    state = fold_requests(book, view).edit
    assert state.hash == whole.hash
    assert all(a.equal(whole.tensors()[name]) for name, a in state.tensors().items())


def test_on_moji_too(tmp_path) -> None:
    """With the table's aliases, anchors and retain sets, of objects and a style."""
    from unconcept.models import open_model

    view, concepts = open_model("moji", "cpu", "float32"), ("pizza", "ink", "dog face")
    book = ledger(tmp_path / "l", view=view)
    for name in concepts:
        ask(book, resolve_request(RequestSpec((name,)), "moji").request, view=view)
    assert (
        fold_requests(book, view).edit.hash
        == make_edit(view, resolve_request(RequestSpec(concepts), "moji"), "uce", {}).hash
    )


def test_an_empty_ledger_is_the_base_bitwise(tmp_path) -> None:
    folder = tiny.folder("sd1", tmp_path / "model")
    edit = fold_requests(ledger(tmp_path / "l"), model()).edit
    bake(edit.stamped(None), folder, tmp_path / "baked")
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "baked" / file).read_bytes() == (folder / file).read_bytes()
    assert edit.hash == empty_edit(model()).hash


def test_the_state_is_uce_of_the_union(tmp_path) -> None:
    book = ledger(tmp_path / "l")
    for number in range(6):
        ask(book, number)
    asked = merged_request(book.request_states.active)
    edit, direct = fold_requests(book, model()).edit, UCE().erase(model(), asked)
    for name, w in model().text_maps().items():
        assert torch.allclose(edit.delta(name, w), direct.delta(name, w), atol=1e-5)
    assert edit.origin is not None
    assert edit.origin.settings["requests"] == sorted(one.id for one in book.request_states.active)
    assert edit.origin.report == {}


def test_preview_is_the_fold(tmp_path) -> None:
    """Along adds and revocations, more rows than dimensions included, to 1e-6 of the map's size."""
    book, sets = ledger(tmp_path / "l"), []
    for number in range(40):
        ask(book, number)
        if number % 5 == 4:
            revoke_request(book, book.request_states.active[number % 3].id, EntryNote())
        sets.append(book.request_states.active)
    known = stored_text_states(book, model(), list(book.request_states.by_id.values()))
    preview = UCEUpdates.of(book, known)
    for requests in sets:
        shown = preview.update_to(requests)
        edit = fold_requests(book, model(), requests).edit
        assert isinstance(edit, TextMapEdit)
        exact = edit.x.double().T @ edit.y.double()
        assert (shown - exact).norm() <= 1e-6 * exact.norm().clamp_min(1.0)


def test_conflicts_are_settled_alike_and_told(tmp_path) -> None:
    """Erased by one and retained by another; two anchors; the same twice; paraphrases."""
    wanted = (
        Request(("dog",), ("cat",), ("fox",)),
        Request(("dog",), ("bus",), ("sun",)),
        Request(("fox",), ("car",), ("dog",)),
        Request(("the dogs",), ("car",), ()),
    )
    books = [ledger(tmp_path / name) for name in "ab"]
    for book, order in zip(books, (wanted, wanted[::-1]), strict=True):
        for one in order:
            ask(book, one)
    told = [find_conflicts(book) for book in books]
    assert told[0] == told[1]
    assert [(one["conflict"], one["text"]) for one in told[0]] == [
        ("erased and retained", "dog"),
        ("erased and retained", "fox"),
        ("several anchors", "dog"),
        ("paraphrases", "dog, the dogs"),
    ]
    assert fold_requests(books[0], model()).edit.hash == fold_requests(books[1], model()).edit.hash
    assert merged_request(books[0].request_states.active) == Request(
        ("dog", "fox", "the dogs"), ("bus", "car", "car"), ("sun",)
    )


def test_a_retained_text_counts_again_when_its_erasure_is_taken_back(tmp_path) -> None:
    book = ledger(tmp_path / "l")
    ask(book, Request(("dog",), ("cat",), ("fox",)))
    before = fold_requests(book, model()).edit.hash
    came = ask(book, Request(("fox",), ("car",)))
    assert merged_request(book.request_states.active).retain == ()
    revoke_request(book, came.id, EntryNote())
    assert fold_requests(book, model()).edit.hash == before


def test_another_base_or_text_encoder_is_refused(tmp_path) -> None:
    book, other = ledger(tmp_path / "l"), tiny.view("sd1", torch.float32, seed=1)
    ask(book, 1)
    with pytest.raises(LedgerError, match="text encoder"):
        ask(book, 2, view=other)
    own = tiny.view("sd1", torch.float32)
    with torch.no_grad():
        own.modules("denoiser").get_parameter(next(iter(own.text_maps())).partition(".")[2])[0, 0] += 1
    with pytest.raises(LedgerError, match="with base"):
        fold_requests(book, own)
    assert len(Ledger.open(book.folder).request_states.active) == 1


def test_another_policy_is_refused(tmp_path) -> None:
    book = ledger(tmp_path / "l")
    with pytest.raises(LedgerError, match=r"lamb = 0.5 here, 0.1 asked for"):
        ask(book, 1, settings={"lamb": 0.1})
    ask(book, 1, settings={"lamb": 0.5})


def test_another_version_of_a_method_is_refused(tmp_path, monkeypatch) -> None:
    from dataclasses import replace

    from unconcept.methods import methods

    book = ledger(tmp_path / "l")
    ask(book, 1)
    monkeypatch.setitem(methods._known, "uce", replace(methods["uce"], version=2))
    with pytest.raises(LedgerError, match="was made for version 1 of uce, this library has 2"):
        fold_requests(book, model())


def test_what_cannot_be_erased_is_refused_before_it_is_written(tmp_path) -> None:
    book = ledger(tmp_path / "l", "speed")
    with pytest.raises(RequestError, match="each of the 1 retained texts names a target"):
        ask(book, Request(("dog",), ("cat",), ("dog face",)), "speed")
    assert not book.request_states.by_id


def test_closed_forms_on_top_of_one_another(tmp_path) -> None:
    """Two methods in one ledger: each is solved on the weights that the one before leaves,
    in the order of their names.
    """
    book, again = ledger(tmp_path / "l"), ledger(tmp_path / "m")
    for one, order in ((book, ("uce", "speed")), (again, ("speed", "uce"))):
        for method in order:
            ask(one, 1 if method == "uce" else 2, method)
    edit = fold_requests(book, model()).edit
    assert isinstance(edit, DenseEdit)
    assert edit.hash == fold_requests(again, model()).edit.hash
    view = tiny.view("sd1", torch.float32)
    speed = fold_requests(
        book, model(), [one for one in book.request_states.active if one.content.method == "speed"]
    ).edit
    with speed.stamped(None).applied(view):
        uce = UCE().erase(
            view, merged_request([one for one in book.request_states.active if one.content.method == "uce"])
        )
        for name, w in view.text_maps().items():
            wanted = w.detach() + uce.delta(name, w)
            assert torch.allclose(view.reference([name])[name] + edit.delta(name, w), wanted, atol=1e-5)


def test_policy_survives_the_disk() -> None:
    from unconcept.edits.merge import MergeSettings

    for policy in (
        LedgerPolicy(),
        LedgerPolicy("merge", MergeSettings("ties", 1.75, 0.4)),
        LedgerPolicy("sequential", teacher="pretrained"),
    ):
        assert LedgerPolicy.of(policy.data()) == policy
    assert request(1) == request(1)
