"""Chroma: what the view says is what the real classes compute."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from unconcept.core.errors import ModelError, RequestError, SettingsError
from unconcept.core.request import RequestSpec
from unconcept.edits import TextMapEdit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.models import Conditioning, open_model
from unconcept.models.hooks.attention_maps import record_attention, text_attentions
from unconcept.models.hooks.forward import record_inputs
from unconcept.models.text.alignment import aligned_suffix_rows
from unconcept.models.text.state_rows import attended_rows
from unconcept.training.token_search import FreeTokenSlots, TokenVocabulary, all_vocabularies, join_prompts

TEXTS = ["dog face", "", "a moon in the sky", "x"]
TEXT_MAP = "transformer.context_embedder.weight"


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_states_and_masks_are_the_pipelines() -> None:
    view = tiny.shared("chroma")
    states, _, mask, *_ = view.pipeline.encode_prompt(TEXTS, do_classifier_free_guidance=False)
    given = view.condition(TEXTS)
    assert torch.equal(given.states, states)
    assert torch.equal(given.mask, mask)
    assert given.mask.sum(1).tolist() == [len(row) + 1 for row in view.tokenizer(TEXTS).ids], "and one pad"
    assert torch.allclose(view.embed(TEXTS, at="all"), states, atol=1e-12)
    for at in ("last_subject", "first_eot"):
        index = view.tokenizer(TEXTS).index(at)
        assert torch.allclose(view.embed(TEXTS, at=at), states[range(len(TEXTS)), index], atol=1e-12)
    assert view.tokenizer([""]).index("last_subject") == [0]
    assert view.embed([]).shape == (0, view.width)


@torch.no_grad()
def test_the_text_map_reads_what_embed_gives_and_there_is_no_pooled_text() -> None:
    view = tiny.shared("chroma")
    assert (list(view.text_maps()), view.text_maps("pooled")) == ([TEXT_MAP], {})
    module = view.modules("denoiser").context_embedder
    assert view.text_maps()[TEXT_MAP] is module.weight
    with record_inputs({"": module}) as kept:
        view.denoise(random(2, *view.latent_shape), torch.tensor(700), ["a dog", "moon"])
    assert torch.allclose(kept[""][0], view.embed(["a dog", "moon"], at="all"), atol=1e-12)
    with pytest.raises(ModelError, match="chroma models do not read pooled text"):
        view.embed(["a"], at="pooled")


@torch.no_grad()
def test_padding_is_read_and_so_are_its_rows() -> None:
    """The stock pipeline's mask hides nothing, and the states of padding follow the text."""
    view = tiny.shared("chroma")
    given, latents = view.condition(["a dog"]), random(1, *view.latent_shape)
    noisy, own = given.states.clone(), int(given.mask.sum())
    noisy[:, own:] += 1
    said = [view.denoise(latents, torch.tensor([400]), replace(given, states=s)) for s in (given.states, noisy)]
    assert not torch.allclose(*said, atol=1e-6)
    assert not torch.allclose(given.states[:, own:], view.condition(["moon"]).states[:, own:], atol=1e-6)
    (rows,) = attended_rows(view, ["a dog"], view.embed(["a dog"], at="all"))
    assert len(rows) == view.tokenizer.length
    old, new = aligned_suffix_rows(view, ["a dog"], [""])[0]
    assert len(old) == len(new) == view.tokenizer.length - view.tokenizer(["a dog"]).index("last_subject")[0]


@torch.no_grad()
def test_recorded_attention_has_the_mask_in_it() -> None:
    """Probabilities times values are the attention's own output before its last map."""
    view = tiny.shared("chroma")
    ((name, attention),) = text_attentions(view).items()
    seen = {"out": attention.to_out[0], "v": attention.to_v, "text": attention.add_v_proj}
    latents, given = random(1, *view.latent_shape), view.condition(["a dog"])
    with record_attention(view, {name: attention}) as kept, record_inputs(seen) as inputs:
        view.denoise(latents, torch.tensor(400), given)
    weights = kept[name][0]
    plain = replace(given, mask=None)
    with record_attention(view, {name: attention}) as unmasked:
        view.denoise(latents, torch.tensor(400), plain)
    assert not torch.allclose(weights, unmasked[name][0], atol=1e-6)
    values = attention.add_v_proj(inputs["text"][0]).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    picture = attention.to_v(inputs["v"][0]).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    of_text = (weights.double() @ values).transpose(1, 2).flatten(2)
    rest = inputs["out"][0] - of_text
    # What is left is a mean of the picture's values, whose weights are the rest of each row.
    share = 1 - weights.sum(-1)
    left = rest.unflatten(-1, (attention.heads, -1)).transpose(1, 2) / share[..., None]
    assert (left <= picture.amax(2, keepdim=True) + 1e-9).all()
    assert (left >= picture.amin(2, keepdim=True) - 1e-9).all()


def test_soft_rows_are_read_by_t5_alone() -> None:
    view = tiny.shared("chroma")
    (vocabulary,) = all_vocabularies(view).values()
    assert isinstance(vocabulary, TokenVocabulary)
    ids = vocabulary.tokenizer(["a dog"]).ids[0][:-1]
    slots = [FreeTokenSlots(tuple(ids), (1, 2))]
    rows = tuple(row[None].clone().requires_grad_() for row in vocabulary.rows(torch.tensor(ids[1:3])))
    prompts = vocabulary.prompts(slots, rows)
    given = view.condition(join_prompts({"t5": vocabulary}, {"t5": prompts}, ["a dog"]))
    plain = view.condition(["a dog"])
    assert torch.equal(given.states, plain.states)
    assert torch.equal(given.mask, plain.mask)
    said = view.denoise(random(1, *view.latent_shape), torch.tensor(300), given)
    (gradient,) = torch.autograd.grad(said.square().sum(), rows)
    assert gradient.abs().sum() > 0


@torch.no_grad()
def test_folder_and_pipeline_agree_and_nothing_is_built(tmp_path) -> None:
    view = open_model(str(tiny.folder("chroma", tmp_path / "m")), "cpu", "float32")
    live = tiny.view("chroma", torch.float32)
    for at in ("all", "last_subject"):
        assert torch.allclose(view.embed(TEXTS, at=at), live.embed(TEXTS, at=at), atol=1e-5)
    assert torch.equal(view.text_maps()[TEXT_MAP], live.text_maps()[TEXT_MAP])
    assert view.pipeline is None
    assert view.latent_shape == live.latent_shape == (4, 8, 8)
    noise = random(1, *view.latent_shape, dtype=torch.float32)
    assert torch.allclose(view.sample(["a"], noise, 2, 3.0), live.sample(["a"], noise, 2, 3.0), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("method", ["uce", "speed"])
def test_a_closed_form_edits_the_text_map_and_nothing_that_the_picture_passes(method) -> None:
    """The target reads as its anchor, and the model's weights but that one are bitwise the same."""
    view = tiny.view("chroma")
    chosen = resolve_request(RequestSpec(("dog face",), ("goat",), ("cat",)), "tiny")
    settings = {"lamb": 1e-6} if method == "uce" else {"aug_num": 0, "retain_scale": 1e-6}
    edit = make_edit(view, chosen, method, settings)
    assert list(edit.names) == [TEXT_MAP]
    old, new = view.embed(["dog face"]), view.embed(["goat"])
    before = {name: p.clone() for name, p in view.modules("denoiser").named_parameters()}
    weight = before["context_embedder.weight"]
    with edit.applied(view):
        edited = view.text_maps()[TEXT_MAP]
        assert (old @ edited.T - new @ weight.T).norm() < 1e-2 * ((new - old) @ weight.T).norm()
        others = dict(view.modules("denoiser").named_parameters())
        moved = [name for name in before if not torch.equal(others[name], before[name])]
        assert moved == ["context_embedder.weight"]
        latents = random(1, *view.latent_shape)
        baked = view.denoise(latents, torch.tensor(500), ["dog face"])
    assert isinstance(edit, TextMapEdit)
    with edit.applied_by_hooks(view):
        assert torch.allclose(view.denoise(latents, torch.tensor(500), ["dog face"]), baked, atol=1e-12)


def test_what_is_not_defined_is_refused_by_name() -> None:
    view = tiny.shared("chroma")
    with pytest.raises(RequestError, match="the text encoder holds 512"):
        view.condition(["a" * 600])
    with pytest.raises(ModelError, match="text states for chroma have no mask"):
        view.guide(Conditioning(view.condition(["a"]).states), 3.0)
    with pytest.raises(SettingsError, match="sampler 'ddim' is not defined for chroma"):
        view.sample(["a"], random(1, 4, 8, 8), 2, 1.0, "ddim")
    chosen = resolve_request(RequestSpec(("dog face",), ("goat",), ("cat",)), "tiny")
    with pytest.raises(SettingsError, match=r"rece is not defined for chroma models, .*: its only map on the text has"):
        make_edit(view, chosen, "rece", {})
