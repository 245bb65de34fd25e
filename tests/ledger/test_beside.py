"""Requests whose edits change no weight: they stand beside those that do, none is lost, and each can be taken off."""

from contextlib import ExitStack

import pytest
import torch

from tests.fast_cases import fast_among
from tests.ledger.desk import ask, ledger, model
from tests.methods.quick import QUICK, family_for
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.edits import DenseEdit, GatedEdit, load_edit
from unconcept.ledger.audit import audit_requests
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.ledger import EntryNote
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.refold import refold_on_current_weights
from unconcept.ledger.verify import verify_ledger
from unconcept.methods import methods

DOG, CAR = Request(("dog",), ("cat",)), Request(("car",), ("bus",))
ADAPTERS = {
    "receler": QUICK["receler"],
    "spm": QUICK["spm"],
    "cpe": QUICK["cpe"] | {"pal": 0.0},  # The requests retain nothing.
}


# Those of the one become a single edit, those of the others stand side by side.
EACH = pytest.mark.parametrize("method", [pytest.param("receler", marks=pytest.mark.slow), "spm", "cpe"])


@torch.no_grad()
def seen(edits) -> torch.Tensor:
    """What the denoiser says of one x_t while all of them are on, in their order."""
    x = torch.randn(2, *model().latent_shape, generator=torch.Generator().manual_seed(0))
    with ExitStack() as on:
        for edit in edits:
            on.enter_context(edit.applied(model()))
        return model().denoise(x, torch.tensor([400, 400]), ["a dog", "a car"])


def book_of(folder, method, *requests, rule="merge"):
    book = ledger(folder, method, LedgerPolicy(rule), ADAPTERS[method])
    return book, [ask(book, one, method).id for one in requests]


@EACH
def test_adapters_of_each_request_are_all_on_and_each_can_be_taken_off(method, tmp_path) -> None:
    book, ids = book_of(tmp_path / "l", method, DOG, CAR)
    alone = {id_: book.artifacts.get_edit(book.request_states.by_id[id_].edit) for id_ in ids}
    wanted = seen([alone[id_] for id_ in sorted(ids)])
    card = materialize_ledger(book, model(), tmp_path / "out", False, False, EntryNote())
    files = ["edit.safetensors", *card["beside"]]
    assert len(files) == (1 if method == "spm" else 3)
    assert torch.allclose(seen([load_edit(tmp_path / "out" / name) for name in files]), wanted, atol=1e-5)
    assert (wanted - seen([alone[ids[0]]])).abs().max() > 1e-4 < (wanted - seen([alone[ids[1]]])).abs().max()
    assert verify_ledger(book.folder, model()).faults == ()
    revoke_request(book, ids[0], EntryNote())
    left = fold_requests(book, model())
    assert left.hash == fold_requests(book_of(tmp_path / "m", method, CAR)[0], model()).hash
    assert torch.equal(seen([left.edit]), seen([alone[ids[1]]]))


@EACH
def test_trained_together_they_are_one_edit_with_its_own_base(method, tmp_path) -> None:
    book, _ = book_of(tmp_path / "l", method, CAR, DOG, rule="recompute")
    card = materialize_ledger(book, model(), tmp_path / "out", False, False, EntryNote())
    edit = load_edit(tmp_path / "out/edit.safetensors")
    assert card["beside"] == {}
    assert edit.origin.settings["requests"] == sorted(one.id for one in book.request_states.active)
    both = methods[method].settings(**ADAPTERS[method]).erase(model(), Request(("car", "dog"), ("bus", "cat")))
    assert torch.equal(seen([edit]), seen([both]))


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(("uce",), marks=pytest.mark.slow),
        pytest.param(("concept-ablation",), marks=pytest.mark.slow),
        ("concept-ablation", "uce", "nag"),
    ],
)
def test_no_request_is_lost_among_those_of_other_methods(others, tmp_path) -> None:
    """Weights as without adapters, and the adapters beside them."""
    book = ledger(tmp_path / "l", "spm", None, QUICK["spm"])
    plain = ledger(tmp_path / "m", "uce")
    ask(book, DOG, "spm")
    for which, method in enumerate(others):
        for each in (book, plain):
            ask(each, Request((f"sun {which}",), ("moon",)), method, settings=QUICK.get(method, {}))
    state, without = fold_requests(book, model()), fold_requests(plain, model())
    assert state.edit.tensors().keys() == without.edit.tensors().keys()
    assert all(torch.equal(tensor, without.edit.tensors()[name]) for name, tensor in state.edit.tensors().items())
    assert isinstance(state.runtime_edits["adapter-spm"], GatedEdit)
    assert len(state.runtime_edits) == 1 + ("nag" in others)
    assert isinstance(state.edit, DenseEdit) == ("concept-ablation" in others)
    assert (seen([state.edit, *state.runtime_edits.values()]) - seen([state.edit])).abs().max() > 1e-4
    assert verify_ledger(book.folder, model()).faults == ()


def test_an_audit_looks_at_all_that_runs_together(tmp_path) -> None:
    """With everything on; the weights alone are folded anew, and what stands beside them stays."""
    book = ledger(tmp_path / "l", "spm", None, QUICK["spm"])
    for one, method in ((DOG, "spm"), (CAR, "uce"), (Request(("sun",), ("moon",)), "adavd")):
        ask(book, one, method)
    state = fold_requests(book, model())
    wanted, found = seen([state.edit, *state.runtime_edits.values()]), []

    class Look:
        settings = {"steps": 0}  # noqa: RUF012

        def __call__(self, view, edit, concept, erased, refold):
            with edit.applied(view):
                found.append(seen([]))
                with refold():
                    found.append(seen([]))
            return {"pictures": 1, "unedited": 1, "edited": 0, "tuned": 1, "refolded": 0}

    told = audit_requests(book, model(), Look(), EntryNote())
    assert {one["state"] for one in told.values()} == {state.hash}
    assert len(told) == 3
    assert torch.equal(found[0], wanted)
    # UCE's map on the text, laid over itself, moves the target's reading once more: the adapters are still on.
    with state.edit.applied(model()), refold_on_current_weights(book, model()):
        weights = {name: w.detach().clone() for name, w in model().text_maps().items()}
    twice = DenseEdit({name: weights[name] - w for name, w in model().text_maps().items()})
    assert torch.allclose(found[1], seen([twice, *state.runtime_edits.values()]), atol=1e-5)


ERASING = [name for name in methods if methods[name].does == "erase" and not methods[name].uses]
BESIDE = [name for name in ERASING if name in ADAPTERS or methods[name].mechanism == "steering"]


@pytest.mark.parametrize("method", fast_among(ERASING, [*BESIDE, "uce", "esd"]))
def test_what_runs_beside_is_refused_by_a_sequence_before_it_is_trained(method, tmp_path) -> None:
    if method not in BESIDE:
        ledger(tmp_path / "l", method, LedgerPolicy("sequential"), view=model(family_for(method)))
        return
    book = ledger(tmp_path / "l", "uce", LedgerPolicy("sequential"))
    for asks in (lambda: ledger(tmp_path / "m", method, LedgerPolicy("sequential")), lambda: ask(book, DOG, method)):
        with pytest.raises(
            SettingsError,
            match=f"{method} changes no weight, it runs beside the model, and a sequential ledger takes only edits of",
        ):
            asks()
    assert not (tmp_path / "m").exists()
