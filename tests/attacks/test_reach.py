"""Every attack on the edits of every method: one that has a rate acts on the edit, and one that cannot is n/a."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from tests.attacks.cases import QUICK, case
from tests.attacks.test_contract import state
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK as METHODS
from unconcept.attacks import AttackCase, AttackInput, attacks, why_out_of_reach
from unconcept.core.request import Request, RequestSpec
from unconcept.core.settings import build_settings
from unconcept.edits.registry import edit_kinds
from unconcept.erasing.request_defaults import resolve_request
from unconcept.methods import methods
from unconcept.models.diffusion.procedures.registry import SamplingRequest

EXACT = {"derived-embedding": {"lamb": 1e-9}}  # Without a ridge, the inverse of no change is no change.
ACTS = 1e-3  # relative change from which an attack counts as acting on an edit
ONE_OF_EACH_KIND = {
    "low_rank": "speed",
    "text_map": "uce",
    "dense": "few-shot",
    "gated": "spm",
    "adapter": "receler",
    "steering": "adavd",
    "residual-gate": "cpe",
}
ERASES_NOTHING = {"latent-steering"}  # There is nothing that an attack could bring back.
OF_GUIDANCE = {"guidance"}  # Acts between two predictions, which one call of the denoiser does not show.
MORE = {"cpe": {"pal": 0.0}}  # Its gate opens on a toy if nothing holds it shut.
REST = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in methods
    if name not in {*ONE_OF_EACH_KIND.values(), "negative-prompt", "sld"} and methods[name].does != "keep"
]


def edit_of(name: str, asked: AttackCase):
    """The method's edit, trained for a moment; a change of weights is made strong."""
    request = Request(("dog",), ("cat",), ("fox",))
    if methods[name].does != "erase":
        request = resolve_request(RequestSpec(("dog",), None, ("fox",)), "tiny", methods[name].does).request
    made = (
        methods[name]
        .settings(**METHODS.get(name, {}) | MORE.get(name, {}))
        .erase(asked.model, request, planted_services(asked.model))
    )
    return made.scaled(20) if made.names else made


def inputs_of(name: str, asked: AttackCase) -> list[AttackInput]:
    """All inputs of the first prompt, after a search that left the model as it was."""
    before, found = state(asked.model), []
    for attempt in build_settings(attacks[name].settings, QUICK[name] | EXACT.get(name, {})).search(asked):
        assert state(asked.model) == before
        assert attempt.loss is None or attempt.loss == attempt.loss
        found += [attempt.inputs[0]] if 0 in attempt.inputs and attempt.control is None else []
    return found


@torch.no_grad()
def effect(asked: AttackCase, given: AttackInput) -> torch.Tensor:
    """What the edit adds to the prediction for an input."""
    model, sides = asked.model, []
    for edit in (asked.edit, None):
        with ExitStack() as applied:
            for one in filter(None, (edit, given.weights)):
                applied.enter_context(one.applied(model))
            text = given.states or model.condition(given.soft or [given.text])
            start = (asked.noise[0] if given.noise is None else given.noise)[None]
            if given.sampling is None:
                sides.append(model.denoise(start, torch.tensor([500]), text))
            else:
                wanted = SamplingRequest(text, start, asked.steps, asked.guidance_scale)
                sides.append(given.sampling.sample(model, wanted))
    return sides[0] - sides[1]


def readings(maps: Mapping[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """What the text maps make of text states."""
    return torch.cat([(states[0] @ w.T).flatten() for w in maps.values()]).detach()


@pytest.mark.parametrize("method", [*ONE_OF_EACH_KIND.values(), *REST])
@pytest.mark.slow
def test_an_attack_that_has_a_rate_acts_on_the_edit(method) -> None:
    asked = case("sd1")
    asked = replace(asked, edit=edit_of(method, asked))
    plain = AttackInput(asked.prompts[0])
    for name in attacks:
        if attacks[name].lever == "own training":
            continue  # The harness says which edits have one.
        tried = inputs_of(name, asked)[-1]
        if why_out_of_reach(attacks[name], asked.edit, asked.model) is None:
            after = effect(asked, tried)
            if tried.sampling is not None:  # A picture, which the edit must reach.
                assert float(after.abs().max()) > 0, f"{method} does not reach what {name} draws"
                continue
            before = effect(asked, plain)
            assert float((after - before).norm() / before.norm()) > ACTS, f"{name} does not act on {method}"
        elif attacks[name].lever == "weights":
            assert not asked.edit.names, f"{name} could act on {method}"
        else:
            maps, own = asked.model.text_maps(), asked.model.condition([asked.prompts[0]])
            assert tried.states is not None, f"{name} could act on {method}"
            before, after = readings(maps, own.states), readings(maps, tried.states.states)
            assert float((after - before).norm() / before.norm()) < ACTS, f"{name} acts on {method}"


def test_every_kind_of_edit_is_tried() -> None:
    """A kind that no method makes, such as a plug-in's, has no row; those of this package have one each."""
    own = {name for name in edit_kinds if edit_kinds[name].__module__.startswith("unconcept.")}
    assert own == ONE_OF_EACH_KIND.keys() | ERASES_NOTHING | OF_GUIDANCE


@pytest.mark.parametrize("method", ["kscu", "spm", "nag"])
def test_the_reason_names_the_mechanism(method) -> None:
    asked = case("sd1")
    edit = edit_of(method, asked)
    reason = why_out_of_reach(attacks["derived-embedding"], edit, asked.model)
    assert edit.describe() in reason
    assert why_out_of_reach(attacks["p4d"], edit, asked.model) is None
