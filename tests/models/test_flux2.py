"""FLUX.2: what the view says is what the real classes compute."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from unconcept.core.errors import ModelError, RequestError, SettingsError
from unconcept.core.request import RequestSpec
from unconcept.edits import TextMapEdit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.models import open_model
from unconcept.models.diffusion.sampler import Sampler
from unconcept.models.diffusion.vae import decode_latents, encode_images, picture_size
from unconcept.models.families.flux2 import SYSTEM_MESSAGE
from unconcept.models.family import TextTemplate
from unconcept.models.hooks.forward import record_inputs
from unconcept.models.text.tokenizer import TextTokenizer
from unconcept.training.token_search import FreeTokenSlots, all_vocabularies

TEXTS = ["dog face", "", "a moon in the sky"]
PROMPTS = ["a dog", "moon"]
TEXT_MAP = "transformer.context_embedder.weight"
families = pytest.mark.parametrize("family", ["flux2", "flux2_klein"])
once_read = pytest.mark.parametrize("family", ["flux2_klein", pytest.param("flux2", marks=pytest.mark.slow)])
"""What is asked once texts are read: dev differs from klein in its text encoder alone."""


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@families
@torch.no_grad()
def test_states_are_the_pipelines(family) -> None:
    """Three hidden states side by side, of the template, the prompt in it and padding."""
    view = tiny.shared(family)
    states, _ = view.pipeline.encode_prompt(TEXTS)
    given = view.condition(TEXTS)
    assert torch.equal(given.states, states)
    assert given.mask is None
    assert torch.allclose(view.embed(TEXTS, at="all"), states, atol=1e-12)
    for at in ("last_subject", "first_eot"):
        index = view.tokenizer(TEXTS).index(at)
        assert torch.allclose(view.embed(TEXTS, at=at), states[range(len(TEXTS)), index], atol=1e-9)
    assert view.embed([]).shape == (0, view.width)
    assert states.shape[-1] == view.width == 3 * view.modules("text_encoder").get_input_embeddings().embedding_dim


@once_read
@torch.no_grad()
def test_pictures_are_the_pipelines(family) -> None:
    view = tiny.view(family, torch.float32)
    noise, found = random(2, *view.latent_shape, dtype=torch.float32), []
    for scale in (1.0, 4.0):
        theirs = view.pipeline(
            prompt=PROMPTS, latents=noise, height=16, width=16, num_inference_steps=3, guidance_scale=scale,
            output_type="pt",
        ).images  # fmt: skip
        found.append(view.sample(PROMPTS, noise, 3, scale))
        assert torch.allclose(found[-1], theirs, atol=1e-5)
    assert not torch.allclose(*found, atol=1e-4)


def test_dev_s_prompts_stand_in_its_pipelines_template_on_the_right() -> None:
    """With one start token, in the pipeline's system message, behind padding; `[IMG]` is removed as there."""
    from diffusers.pipelines.flux2.pipeline_flux2 import SYSTEM_MESSAGE as THEIRS

    view = tiny.shared("flux2")
    tokens, plain = view.tokenizer, view.pipeline.tokenizer
    assert SYSTEM_MESSAGE == THEIRS
    (row,) = tokens(["a dog"]).padded()
    assert row[-1] == plain.convert_tokens_to_ids("[/INST]")
    assert row.count(plain.bos_token_id) == 1
    assert row[: tokens.length - len(tokens(["a dog"]).ids[0])].count(tokens.pad) == row.count(tokens.pad) > 0
    assert tokens(["a [IMG]dog"]).ids == tokens(["a dog"]).ids
    assert list(tokens.span("a {}", "dog")) == [508, 509, 510]
    template, bare = view.spec.first_encoder.template, deepcopy(plain)
    bare.chat_template = None
    processor = SimpleNamespace(tokenizer=bare, chat_template=plain.chat_template)
    assert TextTokenizer.of(processor, template).frame == tokens.frame
    with pytest.raises(ModelError, match="the tokenizer pads on the left"):
        TextTokenizer.of(plain, TextTemplate(system="Look.", cut=2))


@torch.no_grad()
def test_a_klein_of_few_steps_ignores_the_scale() -> None:
    """As its pipeline does, which draws without guidance."""
    view = tiny.view("flux2_klein", torch.float32, distilled=True)
    assert view.guide(PROMPTS, 4.0).scale is None
    with pytest.raises(SettingsError, match="60000 sampler steps"):
        Sampler(view, 60_000)


@torch.no_grad()
def test_latents_are_patches_normalised_as_the_pipeline_does() -> None:
    view = tiny.shared("flux2_klein")
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert picture_size(view) == (16, 16)
    latents = encode_images(view, picture)
    assert torch.allclose(latents, view.pipeline._encode_vae_image(picture * 2 - 1, None), atol=1e-12)
    vae = view.pipeline.vae
    cells = vae.encode(picture * 2 - 1).latent_dist.mode()
    assert torch.allclose(decode_latents(view, latents), (vae.decode(cells).sample / 2 + 0.5).clamp(0, 1), atol=1e-9)
    assert F.pixel_unshuffle(cells, 2).shape == latents.shape


@once_read
@torch.no_grad()
@pytest.mark.parametrize("method", ["uce", "speed"])
def test_a_closed_form_edits_the_text_map_and_nothing_that_the_picture_passes(family, method) -> None:
    """The map reads nothing but the text; the target is read as its anchor; no other weight is changed."""
    view = tiny.view(family)
    assert (list(view.text_maps()), view.text_maps("pooled")) == ([TEXT_MAP], {})
    chosen = resolve_request(RequestSpec(("dog face",), ("goat",), ("cat",)), "tiny")
    settings = {"lamb": 1e-9} if method == "uce" else {"aug_num": 0, "retain_scale": 1e-9}
    edit = make_edit(view, chosen, method, settings)
    assert list(edit.names) == [TEXT_MAP]
    old, new = view.embed(["dog face"]), view.embed(["goat"])
    before = {name: p.clone() for name, p in view.modules("denoiser").named_parameters()}
    weight, latents = before["context_embedder.weight"], random(1, *view.latent_shape)
    with edit.applied(view):
        edited = view.text_maps()[TEXT_MAP]
        assert (old @ edited.T - new @ weight.T).norm() < 1e-2 * ((new - old) @ weight.T).norm()
        after = dict(view.modules("denoiser").named_parameters())
        assert [name for name in before if not torch.equal(after[name], before[name])] == ["context_embedder.weight"]
        with record_inputs({"": view.modules("denoiser").context_embedder}) as kept:
            baked = view.denoise(latents, torch.tensor(500), ["dog face"])
    assert torch.allclose(kept[""][0], view.embed(["dog face"], at="all"), atol=1e-12)
    assert isinstance(edit, TextMapEdit)
    with edit.applied_by_hooks(view):
        assert torch.allclose(view.denoise(latents, torch.tensor(500), ["dog face"]), baked, atol=1e-9)


@once_read
def test_soft_rows_are_read_by_the_language_model(family) -> None:
    view = tiny.shared(family)
    (vocabulary,) = all_vocabularies(view).values()
    front, back = vocabulary.tokenizer.around
    ids = vocabulary.tokenizer(["a dog"]).ids[0][len(front) : -len(back)]
    rows = tuple(row[None].clone().requires_grad_() for row in vocabulary.rows(torch.tensor(ids[1:3])))
    given = view.condition(vocabulary.prompts([FreeTokenSlots(tuple(ids), (1, 2))], rows))
    assert torch.equal(given.states, view.condition(["a dog"]).states)
    said = view.denoise(random(1, *view.latent_shape), torch.tensor(300), given)
    (gradient,) = torch.autograd.grad(said.square().sum(), rows)
    assert gradient.abs().sum() > 0


@families
@torch.no_grad()
def test_folder_and_pipeline_agree_and_nothing_is_built(family, tmp_path) -> None:
    view = open_model(str(tiny.folder(family, tmp_path / "m")), "cpu", "float32")
    live = tiny.view(family, torch.float32)
    assert torch.allclose(view.embed(TEXTS), live.embed(TEXTS), atol=1e-5)
    assert torch.equal(view.text_maps()[TEXT_MAP], live.text_maps()[TEXT_MAP])
    assert view.pipeline is None
    assert view.latent_shape == live.latent_shape == (16, 4, 4)
    noise = random(1, *view.latent_shape, dtype=torch.float32)
    assert torch.allclose(view.sample(["a"], noise, 2, 3.0), live.sample(["a"], noise, 2, 3.0), atol=1e-5)


@families
def test_what_is_not_defined_is_refused_by_name(family) -> None:
    view = tiny.shared(family)
    with pytest.raises(ModelError, match=f"{family} models do not read pooled text"):
        view.embed(["a"], at="pooled")
    with pytest.raises(RequestError, match="the text encoder holds 512"):
        view.condition(["a" * 600])
    chosen = resolve_request(RequestSpec(("dog face",), ("goat",), ("cat",)), "tiny")
    with pytest.raises(SettingsError, match=rf"rece is not defined for {family} models, .*: its only map on the text"):
        make_edit(view, chosen, "rece", {})
