"""Qwen-Image: what the view says is what the real classes compute."""

import pytest
import torch
from diffusers import QwenImagePipeline

from tests import tiny
from unconcept.core.errors import ModelError, RequestError
from unconcept.models import Conditioning, open_model
from unconcept.models.diffusion.packed_latents import pack_latents
from unconcept.models.diffusion.vae import decode_latents, encode_images, picture_size
from unconcept.models.families import families
from unconcept.models.text.state_rows import attended_rows, content_positions

TEXTS = ["Dog Face", "", " a moon in the sky ", "x"]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_states_are_the_pipelines() -> None:
    """Without the template's first 34; `embed` adds the transformer's own norm, and leaves padding zero."""
    view = tiny.shared("qwenimage")
    template = families["qwenimage"].encoders[0].template
    assert template.text == view.pipeline.prompt_template_encode
    assert len(view.tokenizer.cut) == template.cut == view.pipeline.prompt_template_encode_start_idx
    stock, mask = view.pipeline.encode_prompt(TEXTS)
    given, whole, longest = view.condition(TEXTS), view.embed(TEXTS, at="all"), stock.shape[1]
    assert given.states.shape == whole.shape == (len(TEXTS), 512, view.width)
    assert torch.equal(given.mask[:, :longest], mask)
    assert not given.mask[:, longest:].any()
    assert torch.allclose(given.states[:, :longest], stock, atol=1e-6)
    own = given.mask.bool()
    assert torch.allclose(whole[own], view.modules("denoiser").txt_norm(given.states)[own], atol=1e-6)
    assert not given.states[~own].any()
    assert not whole[~own].any()
    assert len(attended_rows(view, TEXTS, whole)[0]) == own.sum()
    for at in ("last_subject", "first_eot"):
        index = view.tokenizer(TEXTS).index(at)
        assert torch.allclose(view.embed(TEXTS, at=at), whole[range(len(TEXTS)), index], atol=1e-6)
    assert list(content_positions(view, "dog")[0]) == [0, 1, 2]
    with pytest.raises(ModelError, match="do not read pooled text"):
        view.embed(TEXTS, at="pooled")


@torch.no_grad()
def test_the_text_map_reads_what_embed_gives() -> None:
    view, seen, texts = tiny.shared("qwenimage"), [], ["a dog", "moon"]
    ((name, weight),) = view.text_maps().items()
    assert name == "transformer.txt_in.weight"
    module = view.modules("denoiser").txt_in
    assert weight is module.weight
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    view.denoise(random(2, *view.latent_shape, dtype=torch.float64), torch.tensor(700), texts)
    handle.remove()
    assert torch.allclose(seen[0], view.embed(texts, at="all")[:, : seen[0].shape[1]], atol=1e-6)


@torch.no_grad()
def test_latents_are_the_pipelines() -> None:
    """Guidance is rescaled token by token; prompts of different lengths are told apart by the mask."""
    view, noise, prompts = tiny.view("qwenimage", torch.float32), random(2, 4, 8, 8), ["A dog", "a longer moon"]
    found = {}
    for scale in (1.0, 5.0):
        negative = [" "] * 2 if scale > 1 else None
        given = {"latents": pack_latents(noise), "height": 16, "width": 16, "num_inference_steps": 3}
        theirs = view.pipeline(prompts, negative, scale, **given, output_type="pt").images
        found[scale] = view.sample(prompts, noise, 3, scale)
        assert torch.allclose(found[scale], theirs, atol=1e-5)
        assert torch.allclose(view.sample(view.condition(prompts), noise, 3, scale), theirs, atol=1e-5)
    assert not torch.allclose(found[1.0], found[5.0], atol=1e-4)
    empty, said = random(1, 4, 8, 8), noise[:1]
    guided = view.guide(["a dog"], 3.0).combine(empty, said)
    lengths = [pack_latents(each).norm(dim=-1) for each in (guided, said)]
    assert torch.allclose(*lengths, atol=1e-6)


@torch.no_grad()
def test_latents_have_the_mean_and_deviation_of_each_channel() -> None:
    view = tiny.shared("qwenimage")
    latents, config = random(1, 4, 8, 8, dtype=torch.float64), view.modules("vae").config
    mean, deviation = (
        torch.tensor(each, dtype=torch.float64).view(1, 4, 1, 1, 1)
        for each in (config.latents_mean, config.latents_std)
    )
    pixels = view.modules("vae").decode(latents[:, :, None] * deviation + mean).sample[:, :, 0]
    assert torch.allclose(decode_latents(view, latents), (pixels / 2 + 0.5).clamp(0, 1), atol=1e-9)
    pictures = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    wanted = (view.modules("vae").encode(pictures[:, :, None] * 2 - 1).latent_dist.mode() - mean) / deviation
    assert torch.allclose(encode_images(view, pictures), wanted[:, :, 0], atol=1e-9)
    assert picture_size(view) == (16, 16)


@torch.no_grad()
def test_folder_and_pipeline_agree_and_nothing_is_built(tmp_path) -> None:
    view = open_model(str(tiny.folder("qwenimage", tmp_path / "m")), "cpu", "float32")
    live = tiny.view("qwenimage", torch.float32)
    for at in ("all", "last_subject"):
        assert torch.allclose(view.embed(TEXTS, at=at), live.embed(TEXTS, at=at), atol=1e-6)
    maps, others = view.text_maps(), live.text_maps()
    assert all(torch.equal(maps[name], others[name]) for name in others)
    assert view.pipeline is None
    assert (view.latent_shape, live.latent_shape) == ((4, 128, 128), (4, 8, 8))
    assert isinstance(view.checkpoint.built_pipeline, QwenImagePipeline)
    assert torch.allclose(view.condition(TEXTS).states, live.condition(TEXTS).states, atol=1e-6)


def test_prompts_that_do_not_fit_or_lack_a_mask_are_refused() -> None:
    view = tiny.shared("qwenimage")
    with pytest.raises(RequestError, match="tokens long, the text encoder holds 512"):
        view.condition(["x" * 600])
    with pytest.raises(ModelError, match="have no mask"):
        view.guide(Conditioning(torch.zeros(1, 3, view.width)), 2.0)
