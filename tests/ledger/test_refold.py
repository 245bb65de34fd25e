"""Folding a ledger once more on a model that was fine-tuned: exact on tiny models, for every rule."""

from contextlib import nullcontext
from functools import cache
from pathlib import Path
from shutil import copytree

import pytest
import torch

from tests.ledger.desk import ask, ledger, model
from tests.methods.quick import QUICK
from unconcept.core import Request
from unconcept.edits import DenseEdit
from unconcept.edits.merge import MergeSettings
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.ledger import Ledger
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.refold import refold_on_current_weights
from unconcept.training import TrainingSession, training_session

REQUESTS = (Request(("dog",), ("goat",), ("cat",)), Request(("car",), ("bus",), ("cat",)))
BOOKS = {
    "uce": ("uce", LedgerPolicy(), None),
    "speed": ("speed", LedgerPolicy(), None),
    "recompute": ("concept-ablation", LedgerPolicy(), QUICK["concept-ablation"]),
    "merge": ("concept-ablation", LedgerPolicy("merge", MergeSettings("uniform")), QUICK["concept-ablation"]),
    "sequential": ("concept-ablation", LedgerPolicy("sequential"), QUICK["concept-ablation"]),
}


def weights() -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in model().text_maps().items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a ledger, written once; no test may touch it."""

    @cache
    def write(name) -> Path:
        method, policy, settings = BOOKS[name]
        book = ledger(tmp_path_factory.mktemp("written") / name, method, policy, settings)
        for one in REQUESTS:
            ask(book, one, method)
        return book.folder

    return write


@pytest.fixture
def book_of(written, tmp_path):
    """Makes a copy of a ledger."""
    return lambda name: Ledger.open(copytree(written(name), tmp_path / "l"))


@pytest.mark.parametrize("name", list(BOOKS))
def test_on_the_base_it_is_the_fold(name, book_of) -> None:
    book, before = book_of(name), weights()
    with fold_requests(book, model()).edit.applied(model()):
        wanted = weights()
    with refold_on_current_weights(book, model()):
        found = weights()
    assert all(torch.allclose(found[key], wanted[key], atol=1e-6) for key in wanted)
    assert any((found[key] - before[key]).abs().max() > 1e-5 for key in wanted)
    assert all(torch.equal(now, before[key]) for key, now in weights().items())


def test_a_closed_form_maps_what_the_fine_tune_made(book_of) -> None:
    """W_tuned (I + M), M the fold's map on the text: not W_tuned + W_0 M, and whatever was done to a target's reading
    is gone.
    """
    book, rng = book_of("uce"), torch.Generator().manual_seed(0)
    edit = fold_requests(book, model()).edit
    tuned = DenseEdit({name: 0.1 * torch.randn(w.shape, generator=rng) for name, w in weights().items()})
    with edit.applied(model()), tuned.applied(model()):
        before = weights()
        with refold_on_current_weights(book, model()):
            found = weights()
        assert all(torch.equal(now, before[name]) for name, now in weights().items())
    for name, w in before.items():
        assert torch.allclose(found[name], w + w @ edit.x.T @ edit.y, atol=1e-5)
        assert not torch.allclose(found[name], w + edit.delta(name, model().reference([name])[name]), atol=1e-3)


def test_a_training_begins_at_the_fine_tuned_weights(book_of) -> None:
    """A second training is not the first one's change once more."""
    book = book_of("recompute")
    edit = fold_requests(book, model()).edit
    with edit.applied(model()):
        before = weights()
        with refold_on_current_weights(book, model()):
            found = weights()
    assert any(
        not torch.allclose(found[name] - before[name], edit.delta(name, before[name]), atol=1e-4) for name in before
    )
    assert all(not torch.equal(found[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["recompute", "merge", "sequential"])
def test_states_of_its_trainings_do_not_meet(name, book_of, tmp_path) -> None:
    """Folded in one sitting on two models, the base among them: each training finds no state but its own, and a second
    look finds that.
    """
    book = book_of(name)
    tuned = DenseEdit({name: 0.1 * torch.ones_like(w) for name, w in weights().items()})
    found = []
    with training_session(TrainingSession(folder=tmp_path / "states")):
        for edit in (None, tuned, tuned):
            with edit.applied(model()) if edit else nullcontext(), refold_on_current_weights(book, model()):
                found.append(weights())
    assert all(torch.equal(found[1][key], found[2][key]) for key in found[1])
    assert any(not torch.equal(found[0][key], found[1][key]) for key in found[0])
