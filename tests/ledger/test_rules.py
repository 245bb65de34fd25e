"""Trained requests: merged, retrained on the set, one on top of the other; and ledgers that mix methods."""

import tempfile
from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.ledger.desk import ask, ledger, model
from tests.methods.quick import QUICK
from unconcept.core import Request
from unconcept.core.errors import LedgerError, SettingsError
from unconcept.edits import DenseEdit, load_edit
from unconcept.edits.merge import MergeSettings, merge_edits, stack_edits, ties_merge
from unconcept.ledger.drift import measure_drift
from unconcept.ledger.drift_history import drift_history, retain_costs
from unconcept.ledger.fold import fold_requests, merged_request
from unconcept.ledger.ledger import EntryNote, Ledger, request_set_hash
from unconcept.ledger.materialize import materialize_ledger
from unconcept.ledger.operations import revoke_request
from unconcept.ledger.policy import LedgerPolicy
from unconcept.ledger.verify import numeric_environment, verify_ledger
from unconcept.methods import methods
from unconcept.models import open_model
from unconcept.training.session import current_session, training_session
from unconcept.training.trainables import TrainableWeights, with_pristine_weights
from unconcept.worlds.registry import worlds

DOG, CAR = Request(("dog",), ("cat",)), Request(("car",), ("bus",))
ESD = (
    {**QUICK["esd"], "train_method": "x"}
    if "train_method" in methods["esd"].settings.__dataclass_fields__
    else QUICK["esd"]
)


def trained(folder, rule: str, **more) -> Ledger:
    return ledger(folder, "esd", LedgerPolicy(rule, **more), ESD)


def test_a_merge_is_of_the_set_and_drops_what_is_revoked(tmp_path) -> None:
    books = [trained(tmp_path / name, "merge", merge=MergeSettings("ties", 1.5, 0.5)) for name in "ab"]
    for book, order in zip(books, ((DOG, CAR), (CAR, DOG)), strict=True):
        for one in order:
            ask(book, one, "esd")
    first, second = (fold_requests(book, model()).edit for book in books)
    assert first.hash == second.hash
    assert isinstance(first, DenseEdit)
    alone = trained(tmp_path / "c", "merge", merge=MergeSettings("ties", 1.5, 0.5))
    ask(alone, CAR, "esd")
    revoke_request(
        books[0], next(one.id for one in books[0].request_states.active if one.content.targets == ("dog",)), EntryNote()
    )
    assert fold_requests(books[0], model()).edit.hash == fold_requests(alone, model()).edit.hash
    assert verify_ledger(books[0].folder, model()).faults == ()


def test_recompute_trains_on_the_sorted_set_once(tmp_path) -> None:
    book, other = trained(tmp_path / "a", "recompute"), trained(tmp_path / "b", "recompute")
    for one in (DOG, CAR):
        ask(book, one, "esd")
    for one in (CAR, DOG):
        ask(other, one, "esd")
    card = materialize_ledger(book, model(), tmp_path / "out", False, False, EntryNote())
    assert (
        fold_requests(other, model()).edit.hash
        == card["edit"]["hash"]
        == load_edit(tmp_path / "out/edit.safetensors").hash
    )
    assert fold_requests(Ledger.open(book.folder), model()).edit.hash == card["edit"]["hash"]
    assert verify_ledger(book.folder, model()).faults == ()
    (kept,) = book.entry_log.bodies[-1]["trained"].values()
    assert book.artifacts.get_edit(kept["edit"]).hash == card["edit"]["hash"]


@pytest.mark.parametrize(
    ("method", "settings"), [("esd", {**QUICK["esd"], "train_method": "noxattn"}), ("few-shot", QUICK["few-shot"])]
)
def test_a_closed_form_on_other_weights_than_the_trained_ones_folds_after_it_was_written(
    method, settings, tmp_path
) -> None:
    """What was trained is kept with the origin of its own requests, not of the whole state."""
    book = ledger(tmp_path / "l", method, None, settings)
    own = ask(book, DOG, method).id
    ask(book, CAR, "uce")
    card = materialize_ledger(book, model(), tmp_path / "out", False, False, EntryNote())
    (kept,) = book.entry_log.bodies[-1]["trained"].values()
    edit = book.artifacts.get_edit(kept["edit"])
    assert edit.origin.settings["requests"] == [own]
    assert edit.origin.targets == ("dog",)
    with edit.applied(model()):
        pass
    assert fold_requests(Ledger.open(book.folder), model()).edit.hash == card["edit"]["hash"]
    assert verify_ledger(book.folder, model()).faults == ()


def test_a_trained_edit_that_was_kept_with_the_origin_of_the_whole_state_is_read_on(tmp_path) -> None:
    """As version 0.1 kept it."""
    book = ledger(tmp_path / "l", "esd", None, {**QUICK["esd"], "train_method": "noxattn"})
    ids = [ask(book, DOG, "esd").id, ask(book, CAR, "uce").id]
    state = fold_requests(book, model())
    old = book.artifacts.put_edit(state.trained_edits["esd"].stamped(state.edit.origin))
    with book.write_lock():
        trained = {"esd": {"requests": request_set_hash(ids[:1]), "edit": old}}
        about = {"requests": request_set_hash(ids), "state": state.hash, "libraries": numeric_environment()}
        book.append("materialize", EntryNote(), **about, trained=trained)
    assert fold_requests(Ledger.open(book.folder), model()).hash == state.hash
    assert verify_ledger(book.folder, model()).faults == ()


@pytest.mark.parametrize("teacher", ["previous", "pretrained"])
def test_sequential_goes_on_from_what_it_left_and_takes_nothing_back(teacher, tmp_path) -> None:
    book = trained(tmp_path / "l", "sequential", teacher=teacher)
    came = [ask(book, one, "esd") for one in (DOG, CAR)]
    assert ask(book, DOG, "esd").came == "in force"
    view = tiny.view("sd1", torch.float32)
    eraser = methods["esd"].settings(**ESD)
    first = eraser.erase(view, DOG)
    with (
        first.applied(view),
        training_session(
            current_session() if teacher == "previous" else replace(current_session(), teacher=with_pristine_weights)
        ),
    ):
        second = eraser.erase(view, CAR)
    state = fold_requests(book, model()).edit
    wanted = stack_edits(view, first, second)
    assert all(
        torch.allclose(state.delta(name, w), wanted.delta(name, w), atol=1e-6)
        for name, w in view.reference(state.names).items()
    )
    with pytest.raises(LedgerError, match="a sequential ledger cannot revoke a request: later edits were made on top"):
        revoke_request(book, came[0].id, EntryNote())
    assert verify_ledger(book.folder, model()).faults == ()


def test_the_teacher_of_a_sequence_is_asked_without_the_edits() -> None:
    view = tiny.view("sd1", torch.float32)
    name = next(iter(view.text_maps()))
    own = view.text_maps()[name].detach().clone()
    edit = DenseEdit({name: torch.ones_like(own)})
    with edit.applied(view):
        student = TrainableWeights(view, (name,))
        with student.student():
            with student.teacher():
                assert torch.equal(view.text_maps()[name], own + 1)
            with training_session(replace(current_session(), teacher=with_pristine_weights)), student.teacher():
                assert torch.equal(view.text_maps()[name], own)
            assert torch.equal(view.text_maps()[name], own + 1)
    assert torch.equal(view.text_maps()[name], own)


def test_naive_sequence_of_a_closed_form_depends_on_the_order(tmp_path) -> None:
    """Offered to reproduce papers: what the fold is there to avoid."""
    edits = []
    for name, order in (("a", (1, 2, 3)), ("b", (3, 2, 1))):
        book = ledger(tmp_path / name, "uce", LedgerPolicy("sequential"))
        for number in order:
            ask(book, number)
        edits.append(fold_requests(book, model()).edit)
    weight = next(iter(model().text_maps().items()))
    first, second = (edit.delta(*weight) for edit in edits)
    assert (first - second).norm() > 1e-3 * first.norm()


def test_trained_below_closed_form(tmp_path) -> None:
    """A closed form is solved on the merged weights; the set alone counts."""
    books = [trained(tmp_path / name, "merge") for name in "ab"]
    for book, order in zip(books, (("esd", "uce"), ("uce", "esd")), strict=True):
        for method in order:
            ask(book, DOG if method == "esd" else CAR, method)
    first, second = (fold_requests(book, model()).edit for book in books)
    assert first.hash == second.hash
    view = tiny.view("sd1", torch.float32)
    below = fold_requests(
        books[0], model(), [one for one in books[0].request_states.active if one.content.method == "esd"]
    ).edit
    with below.stamped(None).applied(view):
        uce = methods["uce"].settings().erase(view, CAR)
        for name, w in view.text_maps().items():
            assert torch.allclose(
                w + uce.delta(name, w), view.reference([name])[name] + first.delta(name, w), atol=1e-5
            )


def test_steering_stands_beside_the_weights(tmp_path) -> None:
    book = ledger(tmp_path / "l")
    ask(book, DOG)
    ask(book, CAR, "adavd")
    state = fold_requests(book, model())
    assert len(state.runtime_edits) == 1
    assert merged_request([one for one in book.request_states.active if one.content.method == "uce"]).targets == (
        "dog",
    )
    materialize_ledger(book, model(), tmp_path / "out", False, False, EntryNote())
    assert len(list((tmp_path / "out").glob("steering-*.safetensors"))) == 1
    with pytest.raises(LedgerError, match="a checkpoint cannot hold the ledger's edits"):
        materialize_ledger(book, model(), tmp_path / "other", True, False, EntryNote())
    assert not (tmp_path / "other").exists()


def test_what_a_ledger_does_not_take(tmp_path) -> None:
    with pytest.raises(SettingsError, match="uce-debias does not erase, and a ledger takes only requests to erase"):
        ledger(tmp_path / "l", "uce-debias")
    with pytest.raises(
        SettingsError,
        match="slug needs a CLIP vision tower or a judge, and a ledger takes only methods that need texts",
    ):
        ledger(tmp_path / "l", "slug")
    with pytest.raises(SettingsError, match="uce-unified counts pictures of the edit of all requests"):
        ledger(tmp_path / "l", "uce-unified")
    book = ledger(tmp_path / "m")
    with pytest.raises(SettingsError, match="above 0 and at most 1, got 0"):
        MergeSettings(topk=0)
    with pytest.raises(LedgerError, match="no request of this ledger ever changed a weight"):
        drift_history(book, model())


def test_drift_of_nothing_and_of_requests(tmp_path) -> None:
    book = ledger(tmp_path / "l")
    assert measure_drift(book, model()).total == 0.0
    ids = [ask(book, number).id for number in range(3)]
    revoke_request(book, ids[1], EntryNote())
    found = measure_drift(book, model())
    assert set(found.layers) == set(model().text_maps())
    assert found.total > 0
    assert found.retained[0].share >= found.retained[-1].share
    assert max(found.targets.values()) < 1
    steps = drift_history(book, model())
    assert [step.in_force for step in steps] == [1, 2, 3, 2]
    assert set(retain_costs(book, model())) == {ids[0], ids[2]}


def test_a_request_does_not_pay_for_what_it_protects(tmp_path) -> None:
    """The costs are those of its targets, with all retained texts held; solved the slow way.

    `goat` is held by the second request alone.
    """
    book = ledger(tmp_path / "l")
    first, second = Request(("dog",), ("cat",), ("sea",)), Request(("car",), ("bus",), ("goat", "sea"))
    ids = [ask(book, one).id for one in (first, second)]
    found = retain_costs(book, model())
    both = merged_request(book.request_states.active)
    with torch.no_grad():
        e = model().embed(both.retain).double()
        maps = [
            methods["uce"].settings().erase(model(), Request(targets, anchors, both.retain))
            for targets, anchors in ((both.targets, both.anchors), (("car",), ("bus",)), (("dog",), ("cat",)))
        ]
        whole, *without = (e @ edit.y.double().T @ edit.x.double() for edit in maps)
    for id_, left in zip(ids, without, strict=True):
        shares = (whole - left).norm(dim=1) / e.norm(dim=1)
        assert found[id_][0] == both.retain[int(shares.argmax())]
        assert found[id_][1] == pytest.approx(float(shares.max()), rel=1e-3)


def test_without_a_temporary_folder_verify_says_so(tmp_path, monkeypatch) -> None:
    """Where the state has to be trained again, diffusers is loaded, and torch's compiler with it."""
    base = tiny.folder("sd1", tmp_path / "base")
    book = ledger(tmp_path / "l", "esd", LedgerPolicy(), ESD, open_model(str(base), "cpu", "float32"))
    ask(book, DOG, "esd", open_model(str(base), "cpu", "float32"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    found = verify_ledger(book.folder, open_model(str(base), "cpu", "float32"))
    said = "no temporary folder can be written to, and diffusers needs one to load: set TMPDIR to a writable folder"
    assert found.faults == (f"the state cannot be built: {said}",)


def test_a_ledger_of_another_version_is_refused_in_one_line(tmp_path, monkeypatch) -> None:
    """`tiny` plays an embedded model that had other weights when the ledger was begun."""
    old = replace(worlds["moji"], name="tiny", version="1")
    monkeypatch.setitem(worlds._known, "tiny", old)
    begun, now = (replace(tiny.view("sd1", torch.float32, seed), name=f"tiny@{seed + 1}") for seed in (0, 1))
    book = ledger(tmp_path / "l", "uce", LedgerPolicy(), {}, begun)
    monkeypatch.setitem(worlds._known, "tiny", replace(old, version="2"))
    told = "tiny@1 is not in this package, which has tiny@2 with other words and weights"
    with pytest.raises(LedgerError, match=f": {told}; begin a new ledger and add the requests there$"):
        ask(book, DOG, "uce", now)


def test_ties_by_hand() -> None:
    """Trim to the two largest, elect by the sum, and average those that agree."""
    changes = torch.tensor([[3.0, -2.0, 0.1, 0.0], [-1.0, -4.0, 0.2, 0.3]])
    assert torch.allclose(ties_merge(changes, 1.0, 0.5), torch.tensor([3.0, -3.0, 0.0, 0.0]))
    assert torch.allclose(ties_merge(changes, 2.0, 0.5), torch.tensor([6.0, -6.0, 0.0, 0.0]))


@pytest.mark.parametrize("how", ["uniform", "task-arithmetic", "ties"])
def test_merges_are_symmetric_and_one_alone_is_itself(how) -> None:
    rng = torch.Generator().manual_seed(0)
    view = tiny.shared("sd1")
    weights = dict(list(view.text_maps().items())[:3])
    edits = [
        DenseEdit({name: torch.randn(w.shape, generator=rng, dtype=w.dtype) for name, w in weights.items()})
        for _ in range(3)
    ]
    whole = merge_edits(view, edits, MergeSettings(how, topk=0.6))
    for name, delta in merge_edits(view, edits[::-1], MergeSettings(how, topk=0.6)).deltas.items():
        assert torch.allclose(whole.deltas[name], delta, atol=1e-12)
    alone = merge_edits(view, edits[:1], MergeSettings(how, 1.0, 1.0))
    assert all(torch.equal(alone.deltas[name], delta) for name, delta in edits[0].deltas.items())
