"""Steering edits are edits: applied, left, saved, refused; and a row knows neither its neighbours nor its side of the
batch.
"""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.fast_cases import fast_among
from unconcept.core.errors import EditError, UnconceptError
from unconcept.core.request import RequestSpec
from unconcept.edits import SteeringEdit, load_edit
from unconcept.edits.export.bake import bake
from unconcept.edits.steering_rules import Decomposition
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.linalg.gated_projection import component_along
from unconcept.models import Conditioning
from unconcept.models.hooks.cross_attention import cross_attentions

CHOSEN = resolve_request(RequestSpec(("dog face", "car"), ("goat",), ("cat",)), "tiny")
METHODS = ("adavd", "nasa", "nag")
# Far from the defaults, so that all tokens of a random model are steered.
STRONG = {"adavd": {"token_sim": False}, "nasa": {"alpha": 0.5}, "nag": {}}
# Every rule on one UNet, one of them on another: what a rule computes knows nothing of the model.
CROSS = fast_among(
    [(name, family) for name in METHODS for family in tiny.FAMILIES],
    [*((name, "sd1") for name in METHODS), ("nag", "sdxl")],
)
CASES = [*CROSS, *(("nag", family) for family in tiny.MMDITS)]


def made(view, name) -> SteeringEdit:
    return make_edit(view, CHOSEN, name, STRONG[name])


def rows(given: Conditioning, which) -> Conditioning:
    return Conditioning(
        *(None if part is None else part[which] for part in (given.states, given.pooled, given.time_ids))
    )


@pytest.mark.parametrize(("name", "family"), CASES)
def test_a_row_is_steered_alike_in_every_batch(name, family) -> None:
    """Alone, beside the empty text before or behind it, among others, as text and as states."""
    view = tiny.shared(family)
    texts, noise = (
        ["a dog face", "", "red car", "a fox"],
        torch.randn(1, *view.latent_shape, dtype=view.dtype, generator=torch.Generator().manual_seed(0)),
    )
    t, edit = torch.tensor([500]), made(view, name)
    with torch.no_grad():
        plain = [view.denoise(noise, t, [text]) for text in texts]
        with edit.applied(view):
            alone = [view.denoise(noise, t, [text]) for text in texts]
            given = view.condition(texts)
            for order in ([0, 1], [1, 0], [1, 1, 0, 3], [0, 3, 1, 1], [2], [3, 2, 1, 0]):
                found = view.denoise(noise.expand(len(order), -1, -1, -1), t, rows(given, order))
                assert torch.allclose(found, torch.cat([alone[i] for i in order]), atol=1e-12)
    assert torch.equal(alone[1], plain[1])
    assert all((alone[i] - plain[i]).abs().max() > 1e-6 for i in (0, 2, 3))


@pytest.mark.parametrize(("name", "family"), CROSS)
def test_guided_pictures_are_the_guidance_of_steered_and_unsteered(name, family) -> None:
    """eps = eps(empty) + g (eps_steered(prompt) - eps(empty)), as text, as states, and with a neighbour."""
    view = tiny.shared(family)
    noise, edit = (
        torch.randn(2, *view.latent_shape, dtype=view.dtype, generator=torch.Generator().manual_seed(0)),
        made(view, name),
    )
    with edit.applied(view):
        both = view.sample(["a dog face", "a fox"], noise, 2, 3.0)
        assert torch.allclose(view.sample(["a dog face"], noise[:1], 2, 3.0), both[:1], atol=1e-6)
        assert torch.allclose(view.sample(view.condition(["a dog face", "a fox"]), noise, 2, 3.0), both, atol=1e-6)
    assert not torch.allclose(view.sample(["a dog face", "a fox"], noise, 2, 3.0), both, atol=1e-4)
    assert torch.allclose(guided(view, edit, "a dog face", noise[:1]), both[:1], atol=1e-6)


def test_what_the_text_alone_decides_is_solved_once_a_picture(monkeypatch) -> None:
    """AdaVD's values: however many steps, once an attention, and never for the unconditioned side."""
    view, asked = tiny.shared("sd1"), []
    noise, edit = (
        torch.randn(2, *view.latent_shape, dtype=view.dtype, generator=torch.Generator().manual_seed(0)),
        made(view, "adavd"),
    )
    monkeypatch.setattr(
        "unconcept.edits.steering_rules.component_along",
        lambda values, *others: asked.append(len(values)) or component_along(values, *others),
    )
    with edit.applied(view):
        view.sample(["a dog face", "a fox"], noise, 3, 3.0)
        assert asked == [2] * len(cross_attentions(view, edit.maps))
        other = view.sample(["red car", "a fox"], noise, 3, 3.0)
    with edit.applied(view):
        assert torch.equal(view.sample(["red car", "a fox"], noise, 3, 3.0), other)


@torch.no_grad()
def guided(view, edit, text, noise):
    """The sampler's loop written out: the two sides are asked apart, the empty one without the edit."""
    pipe = view.pipeline
    pipe.scheduler.set_timesteps(2)
    x, prompt, empty = noise, view.condition([text]), view.condition([""])
    if view.family == "sdxl":
        empty = Conditioning(torch.zeros_like(empty.states), torch.zeros_like(empty.pooled), empty.time_ids)
    for t in pipe.scheduler.timesteps:
        with edit.applied(view):
            one = view.denoise(x, t[None], prompt)
        none = view.denoise(x, t[None], empty)
        x = pipe.scheduler.step(none + 3.0 * (one - none), t, x).prev_sample
    return (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1).float()


@pytest.mark.parametrize("name", METHODS)
def test_strength_leads_from_nothing_to_the_edit(name) -> None:
    view = tiny.shared("sd1")
    edit, noise, t = made(view, name), torch.randn(1, *view.latent_shape, dtype=view.dtype), torch.tensor([500])

    @torch.no_grad()
    def said(strength):
        with edit.scaled(strength).applied(view):
            return view.denoise(noise, t, ["a dog face"])

    at = {strength: said(strength) for strength in (0.0, 1e-3, 0.5, 1.0)}
    with torch.no_grad():
        assert torch.equal(at[0.0], view.denoise(noise, t, ["a dog face"]))
    assert (at[1e-3] - at[0.0]).abs().max() < 0.01 * (at[1.0] - at[0.0]).abs().max()
    assert edit.scaled(0.5).scaled(0.5).strength == 0.25
    assert edit.scaled(0.5).hash != edit.hash


@pytest.mark.parametrize("name", METHODS)
def test_the_prediction_is_differentiable_in_the_states_and_in_the_weights(name) -> None:
    """Attacks search text states, and train weights under the edit."""
    view = tiny.view("sd1")
    edit = made(view, name)
    given = view.condition(["a dog face"])
    states = given.states.detach().requires_grad_()
    with edit.applied(view):
        weight = view.text_maps()[edit.maps[-1]]
        said = view.denoise(
            torch.randn(1, *view.latent_shape, dtype=view.dtype), torch.tensor([500]), Conditioning(states)
        )
        gradients = torch.autograd.grad(said.square().sum(), [states, weight])
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize(("name", "family"), CASES)
def test_save_and_load_draws_the_same(name, family, tmp_path) -> None:
    view = tiny.shared(family)
    edit = made(view, name).scaled(0.5)
    edit.save(tmp_path / "e.safetensors")
    loaded = load_edit(tmp_path / "e.safetensors")
    assert (loaded.hash, loaded.origin, loaded.names, loaded.parameters) == (
        edit.hash,
        edit.origin,
        (),
        edit.parameters,
    )
    assert loaded.rule.__class__ is edit.rule.__class__
    noise, said = torch.randn(1, *view.latent_shape, dtype=view.dtype), []
    for one in (edit, loaded):
        with torch.no_grad(), one.applied(view):
            said.append(view.denoise(noise, torch.tensor([500]), ["a dog face"]))
    assert torch.equal(*said)


def test_edits_nest_and_reversed_rules_share_the_values() -> None:
    """A weight edit around or inside a steering edit, and two steering edits in either order."""
    view = tiny.view("sd1")
    noise, t = torch.randn(1, *view.latent_shape, dtype=view.dtype), torch.tensor([500])

    @torch.no_grad()
    def said(*edits):
        from contextlib import ExitStack

        with ExitStack() as stack:
            for edit in edits:
                stack.enter_context(edit.applied(view))
            return view.denoise(noise, t, ["a dog face"])

    adavd, nasa, uce = made(view, "adavd"), made(view, "nasa"), make_edit(view, CHOSEN, "uce", {})
    assert torch.allclose(said(adavd, nasa), said(nasa, adavd), atol=1e-12)
    assert torch.allclose(said(adavd, uce), said(uce, adavd), atol=1e-12)
    assert not torch.allclose(said(adavd, nasa), said(adavd), atol=1e-6)
    assert not torch.allclose(said(adavd, uce), said(uce), atol=1e-6)


def test_another_base_is_refused_with_both_hashes() -> None:
    edit = made(tiny.view("sd1"), "adavd")
    with (
        pytest.raises(EditError, match=rf"made for tiny-sd1 \({edit.origin.base_hash[:12]}\), not for tiny-sd1"),
        edit.applied(tiny.view("sd1", seed=1)),
    ):
        pass
    with pytest.raises(UnconceptError), edit.applied(tiny.shared("sdxl")):
        pass
    assert edit.bound_names == tuple(sorted(tiny.shared("sd1").text_maps()))


def test_there_is_nothing_to_bake(tmp_path) -> None:
    edit = made(tiny.shared("sd1"), "nasa")
    with pytest.raises(EditError, match="changes no weight"):
        bake(edit, tiny.folder("sd1", tmp_path / "base"), tmp_path / "baked")
    assert not (tmp_path / "baked").exists()
    with pytest.raises(EditError, match="no delta of unet"):
        edit.delta("unet.conv_in.weight", torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rule": "loud"}, "no steering rule 'loud'"),
        ({"rule": ["decomposition"]}, "no rule and settings"),
        ({"settings": {}}, "has the fields"),
        ({"settings": {"s": "much"}}, "its s is 'much'"),
        ({"settings": {"s": True}}, "its s is True"),
        ({"settings": {"p": float("nan")}}, "its p is nan"),
        ({"settings": {"joint_cfg": 1.0}}, "its joint_cfg is 1.0"),
        ({"strength": None}, "its strength is None"),
        ({"maps": "unet"}, "not a list of texts"),
        ({"maps": []}, "steers nothing"),
        ({"null": torch.zeros(4, 3)}, "not text states of one width"),
        ({"more": torch.zeros(4, 3)}, "has the fields"),
    ],
)
def test_damaged_files_are_refused(change, said, tmp_path) -> None:
    import json

    path = tmp_path / "e.safetensors"
    made(tiny.shared("sd1"), "adavd").save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors, details = load_file(path), json.loads(metadata["details"])
    for key, value in change.items():
        if isinstance(value, torch.Tensor):
            tensors[key] = value
        elif key == "settings":
            details[key] = {**details[key], **value} if value else {}
        else:
            details[key] = value
    del metadata["tensors_sha256"]  # As in a file of another program, which has none.
    save_file(tensors, path, metadata={**metadata, "details": json.dumps(details)})
    with pytest.raises(UnconceptError, match=said):
        load_edit(path)


def test_figures_without_a_picture() -> None:
    view = tiny.shared("sd1")
    report = make_edit(view, CHOSEN, "adavd", {}).origin.report
    assert report["moved"] > 1.9
    assert report["drift"] < report["moved"]
    shut = make_edit(view, CHOSEN, "adavd", {"s": 0.0}).origin.report
    assert (shut["moved"], shut["drift"]) == (0.0, 0.0)
    assert isinstance(make_edit(view, CHOSEN, "adavd", {}).rule, Decomposition)
    assert set(make_edit(view, CHOSEN, "nasa", {}).origin.report) == {"parameters"}
