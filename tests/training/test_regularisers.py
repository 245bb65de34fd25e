"""Regularisers by what must hold exactly, on every trained method of the registry."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.killed import Killed, dying
from tests.ledger.desk import ask, ledger, model
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK, family_for
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.request import RequestSpec
from unconcept.edits.merge import MergeSettings
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.ledger.fold import fold_requests
from unconcept.ledger.ledger import Ledger
from unconcept.ledger.policy import LedgerPolicy
from unconcept.linalg.null_space import dissimilar_rows, soft_projection_basis
from unconcept.methods import methods
from unconcept.prompts.captions import load_captions
from unconcept.training import Regularisers, TrainingSession, training_session, use_regularisers
from unconcept.training.regularisers import protected_rows
from unconcept.training.session import current_session

REQUEST = Request(("dog",), ("goat",), ("cat", "sea horse"))
STAGED = {  # closed forms with a trained second stage
    "trce": {"epochs": 1, "trajectories": 3, "null_batch": 1, "ddim_steps": 4, "lr": 1e-3},
    "realera": {"max_train_steps": 3, "pool": 1, "ddim_steps": 3, "lr": 1e-2, "rank": 2},
}
TRAINED = [*(name for name in methods if methods[name].mechanism == "trained"), *STAGED]
TOPK = 0.3
EXACT = {
    "selft": Regularisers(selft_topk=TOPK, selft_draws=2),
    "projection": Regularisers(projection="update"),
    "projection + selft": Regularisers(projection="update", selft_topk=TOPK, selft_draws=2),
    "projection + l1sp": Regularisers(projection="update", l1sp=0.75),
}


def view_of(family="sd1"):
    return tiny.view(family, torch.float32)


def erased(name, view, request=REQUEST, **settings):
    more = {"scope": "xattn"} if name == "kscu" else STAGED.get(name, {})  # KSCU's scope for objects reads no text
    return methods[name].settings(**QUICK.get(name, {}) | more | settings).erase(view, request)


@contextmanager
def recorded(trainings) -> Iterator[None]:
    """Puts (names, tensors before, the tensors themselves) of every training into the list."""
    outer = current_session()

    def rules(start):
        trainings.append(
            (list(start.tensors), [t.detach().clone() for t in start.tensors.values()], list(start.tensors.values()))
        )
        return outer.transforms(start)

    with training_session(replace(outer, transforms=rules)):
        yield


def trainings_of(name, chosen, view=None, **settings):
    """What the method trained, under regularisers."""
    found = []
    with use_regularisers(chosen, REQUEST), recorded(found):
        erased(name, view or view_of(family_for(name)), **settings)
    return found


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.slow
def test_neutral_settings_and_a_look_at_the_gradients_leave_no_trace(name) -> None:
    view, looked = view_of(family_for(name)), []
    plain = erased(name, view).hash
    with use_regularisers(Regularisers(l1sp=0.0, l2sp=0.0, selft_topk=1.0, projection="none"), REQUEST):
        assert erased(name, view).hash == plain
    with training_session(TrainingSession(transforms=lambda start: looked.extend(start.gradients(3)) or ())):
        assert erased(name, view).hash == plain
    assert any(g.any() for g in looked)


def exact_first(how: str) -> tuple[str, ...]:
    """The methods of which an exact property is asked with the fast tests."""
    return PENALISED_FIRST if "+ selft" in how else PENALISED_FIRST[:1]


# Plain descent steps as far as it is pulled: a weight that only Adam can bear would throw it about.
PULLS = {"noisy-gd": {"l1sp": 20.0, "l2sp": 6400.0}}
PENALISED = {
    "noisy-gd": {"iterations": 12},  # Such a pull shows in time.
    "gs-lora-plus": {"ema_decay": 0.0},  # Four fifths of the mean of three steps are the first, which is free.
}


# That every method trains under a session's rules is what the exact properties ask. Penalties are asked here of one
# method for each kind of trainable, and of those that need settings of their own.
PENALISED_FIRST = ("concept-ablation", "spm", "receler", "cpe", *PENALISED)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=() if (kind, name in PENALISED_FIRST) == ("l1sp", True) else pytest.mark.slow)
        for kind in ("l1sp", "l2sp")
        for name in TRAINED
    ],
)
def test_a_penalty_holds_back(kind, name) -> None:
    """The first step is free: at the reference the penalty's gradient is zero."""
    chosen, settings = Regularisers(**{kind: PULLS.get(name, {}).get(kind, 1e9)}), PENALISED.get(name, {})

    def drift(found):
        return sum(
            float((now.detach() - before).square().sum())
            for _, start, tensors in found
            for before, now in zip(start, tensors, strict=True)
        )

    free = drift(trainings_of(name, Regularisers(), **settings))
    assert 0 < drift(trainings_of(name, chosen, **settings)) < 0.6 * free


@pytest.mark.parametrize(
    ("how", "name"),
    [
        # Each property is asked of one method here, two together of one for each kind of trainable, the others slowly.
        pytest.param(how, name, marks=() if name in exact_first(how) else pytest.mark.slow)
        for how in EXACT
        for name in TRAINED
    ],
)
def test_exact_properties(how, name) -> None:
    """At most the floor of the share moves; what is read of protected texts stays. Together both hold.

    Where no map that reads texts is trained, nor an adapter beside one, protection is refused and the share holds.
    """
    view, chosen = view_of(family_for(name)), EXACT[how]
    refused = ""
    try:
        found = trainings_of(name, chosen, view)
    except SettingsError as error:
        refused = str(error)
    if refused:
        assert chosen.projection != "none"
        assert "none of the trained parameters takes text states" in refused
        chosen = replace(chosen, projection="none")
        found = trainings_of(name, chosen, view)
        trained = {full.removesuffix(".down") for names, _, _ in found for full in names}
        assert trained.isdisjoint(view.text_maps())
    rows = protected_rows(view, REQUEST.retain)
    for names, start, tensors in found:
        moved = [now.detach() != before for before, now in zip(start, tensors, strict=True)]
        assert any(m.any() for m in moved)
        if chosen.selft_topk < 1:
            maps = [i for i, each in enumerate(names) if not (each.endswith(".down") and chosen.projection != "none")]
            count = sum(t.numel() for t in tensors)
            assert sum(int(moved[i].sum()) for i in maps) <= int(TOPK * count)
        if chosen.projection != "none":
            read = [i for i, each in enumerate(names) if each.removesuffix(".down") in view.text_maps()]
            assert read
            for i in read:
                held = tensors[i].detach() if names[i].endswith(".down") else tensors[i].detach() - start[i]
                # The rounding of float32 weights.
                assert (held.double() @ rows.T).norm() < 1e-6 * tensors[i].norm() * rows.norm()
                assert tensors[i].any()
    assert found


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_protected_in_other_families(family) -> None:
    view = view_of(family)
    with use_regularisers(Regularisers(projection="update"), REQUEST):
        edit = erased("concept-ablation", view)
    rows = protected_rows(view, REQUEST.retain).float()
    assert all(
        (edit.delta(name, w) @ rows.T).abs().max() < 1e-6 < edit.delta(name, w).abs().max()
        for name, w in view.text_maps().items()
    )


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_joint_transformer_reads_no_text_states_in_its_blocks(family) -> None:
    with (
        pytest.raises(SettingsError, match="none of the trained parameters"),
        use_regularisers(Regularisers(projection="update"), REQUEST),
    ):
        erased("esd", view_of(family))


def test_the_authors_form_lets_adam_move_what_is_protected() -> None:
    view = view_of()
    rows = protected_rows(view, REQUEST.retain).float()
    with use_regularisers(Regularisers(projection="gradient"), REQUEST):
        edit = erased("concept-ablation", view)
    assert max((edit.delta(name, w) @ rows.T).abs().max() for name, w in view.text_maps().items()) > 1e-4


def test_the_authors_projector_written_out() -> None:
    rows = torch.randn(4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([rows, 2 * rows[:1] + 1e-3])
    c = dissimilar_rows(rows, 0.95).T
    assert c.shape == (12, 4)
    r = max(1e-4, 1e-6 * float(torch.trace(c.T @ c)) / 4)
    wanted = (
        torch.eye(12, dtype=torch.float64) - c @ torch.linalg.inv(c.T @ c + r * torch.eye(4, dtype=torch.float64)) @ c.T
    )
    taken = soft_projection_basis(c.T)
    p = torch.eye(12, dtype=torch.float64) - taken @ taken.T
    assert torch.allclose(p, wanted, atol=1e-10)
    assert (p @ p - p).norm() < 1e-3
    assert (p @ c).norm() < 1e-3 * c.norm()


@pytest.mark.parametrize("name", ["kscu", "receler", "sculpting-memory"])
def test_killed_and_gone_on_is_the_same_edit(name, tmp_path) -> None:
    """Their losses have a state of their own, which the look at the gradients must hand back."""
    view, chosen = view_of(), Regularisers(selft_topk=0.5, selft_draws=2, l2sp=10.0)

    def run(tell, folder):
        with training_session(TrainingSession(tell, folder, 0.0)), use_regularisers(chosen, REQUEST):
            return erased(name, view).hash

    whole = run(lambda progress: None, tmp_path / "whole")
    with pytest.raises(Killed):
        run(dying(2), tmp_path / "cut")
    assert run(lambda progress: None, tmp_path / "cut") == whole


@pytest.mark.parametrize(
    "name", [name for name in methods if methods[name].mechanism != "trained" and methods[name].does == "erase"]
)
def test_a_method_that_is_not_trained_is_refused_before_it_runs(name, monkeypatch) -> None:
    monkeypatch.setattr(methods[name].settings, "erase", lambda *given: pytest.fail("it ran"))
    chosen = resolve_request(RequestSpec(("dog",), ("goat",), ("cat",)), "tiny")
    with pytest.raises(
        SettingsError,
        match=f"^{name} is {methods[name].mechanism}: regularisers act on trained methods alone; leave them out$",
    ):
        make_edit(view_of(), chosen, name, QUICK.get(name, {}), regularisers=Regularisers(l2sp=1.0))


def test_an_erasing_without_steps_is_refused() -> None:
    view = view_of()
    with (
        pytest.raises(SettingsError, match="need a training step by step, and this method has none"),
        use_regularisers(Regularisers(l2sp=1.0), REQUEST),
    ):
        methods["slug"].settings(**QUICK["slug"]).erase(view, REQUEST, planted_services(view))


def test_the_header_says_how_it_was_regularised() -> None:
    chosen = resolve_request(RequestSpec(("dog",), ("goat",), ("cat",)), "tiny")
    edit = make_edit(view_of(), chosen, "esd", QUICK["esd"], regularisers=Regularisers(l2sp=5.0, projection="update"))
    assert edit.origin.settings["regularisers"] == {"l2sp": 5.0, "projection": "update"}
    assert "regularisers" not in make_edit(view_of(), chosen, "esd", QUICK["esd"]).origin.settings


def sequence(folder, chosen: Regularisers, rule="sequential") -> tuple[Ledger, list]:
    """Two requests, and the state after each."""
    book, states = (
        ledger(
            folder,
            "concept-ablation",
            LedgerPolicy(rule, MergeSettings("uniform"), regularisers=chosen),
            QUICK["concept-ablation"],
        ),
        [],
    )
    for one in (Request(("dog",), ("goat",), ("cat",)), Request(("car",), ("bus",), ("cat",))):
        ask(book, one, "concept-ablation")
        states.append(fold_requests(book, model()).edit)
    return book, states


def test_a_sequence_protects_what_it_erased_before(tmp_path) -> None:
    """And the ledger that is read again has the same policy."""
    book, (first, second) = sequence(tmp_path / "l", Regularisers(projection="update", l2sp=2.5))
    assert Ledger.open(book.folder).policy == book.policy
    before, held = (protected_rows(model(), texts).float() for texts in (["dog"], ["dog", "cat"]))
    for name, w in model().text_maps().items():
        change = second.delta(name, w) - first.delta(name, w)
        assert change.abs().max() > 1e-5
        assert (change @ held.T).abs().max() < 1e-6 < (first.delta(name, w) @ before.T).abs().max()


@pytest.mark.parametrize("reference", ["previous", "pretrained"])
def test_drift_is_from_the_weights_before_the_request_or_before_all(reference) -> None:
    view = view_of()
    own = {name: w.detach().clone() for name, w in view.text_maps().items()}
    seen = []
    with erased("esd", view).applied(view):
        live = {name: w.detach().clone() for name, w in view.text_maps().items()}
        with use_regularisers(Regularisers(l2sp=1.0, reference=reference), REQUEST):
            inner = current_session().transforms
            with training_session(
                replace(
                    current_session(),
                    transforms=lambda start: seen.append((list(start.tensors), rules := inner(start))) or rules,
                )
            ):
                erased("concept-ablation", view)
    ((names, (drift,)),) = seen
    wanted = live if reference == "previous" else own
    assert any(not torch.equal(live[name], own[name]) for name in own)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in zip(names, drift.start, strict=True))


def test_what_two_phases_train_keeps_to_the_weights_before_the_request() -> None:
    """And to one mask: two of them would let twice the share move."""
    seen = []
    with use_regularisers(Regularisers(l2sp=1.0, selft_topk=TOPK, selft_draws=2), REQUEST):
        outer = current_session()

        def rules(start):
            seen.append(([t.detach().clone() for t in start.tensors.values()], found := outer.transforms(start)))
            return found

        with training_session(replace(outer, transforms=rules)):
            erased("stochastic-teacher", view_of())
    (before, (_, mask)), (between, (drift, same)) = seen
    assert same is mask
    assert any(not torch.equal(old, new) for old, new in zip(before, between, strict=True))
    assert all(torch.equal(old, held) for old, held in zip(before, drift.start, strict=True))


@pytest.mark.parametrize("rule", ["merge", "recompute"])
def test_projection_and_merging_together(rule, tmp_path) -> None:
    """A mean of protected edits protects. TIES does not: it trims."""
    _, (_, both) = sequence(tmp_path / "l", Regularisers(projection="update"), rule)
    rows = protected_rows(model(), ["cat"]).float()
    assert all(
        (both.delta(name, w) @ rows.T).abs().max() < 1e-6 < both.delta(name, w).abs().max()
        for name, w in model().text_maps().items()
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"l1sp": -1.0}, "l1sp must be >= 0 and finite, got -1.0"),
        ({"selft_topk": 0.0}, "selft_topk must be a share, above 0 and at most 1, got 0.0"),
        ({"selft_topk": 0.5, "selft_draws": 0}, "selft_draws must be > 0, got 0"),
        ({"reference": "pretrained"}, "reference would change nothing"),
        ({"projection_prompts": "everyday"}, "projection_prompts would change nothing"),
        ({"projection": "update", "projection_count": 50}, "projection_count would change nothing"),
        (
            {"projection": "update", "projection_prompts": "everyday", "projection_count": 0},
            "projection_count must be > 0, got 0",
        ),
    ],
)
def test_settings_out_of_range(values, said) -> None:
    with pytest.raises(SettingsError, match=said):
        Regularisers(**values)


def test_as_many_captions_are_protected_as_are_asked_for() -> None:
    """The first of the set, beside the retained texts."""
    chosen = Regularisers(projection="update", projection_prompts="everyday", projection_count=3)
    with use_regularisers(chosen, REQUEST):
        protected = current_session().about["protected"]
        erased("concept-ablation", model())
    assert protected == (*REQUEST.retain, *load_captions("everyday")[:3])
