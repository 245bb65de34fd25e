"""Z-Image: what the view says is what the real classes compute."""

import pytest
import torch

from tests import tiny
from unconcept.core.errors import ModelError, RequestError
from unconcept.models import Conditioning, open_model
from unconcept.models.text.state_rows import attended_rows, content_positions

TEXTS = ["Dog Face", "", " a moon in the sky ", "x"]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_states_are_the_pipelines() -> None:
    """A list of states of any length there, of one length with a mask here; `embed` adds the transformer's own norm."""
    view = tiny.shared("zimage")
    stock, _ = view.pipeline.encode_prompt(list(TEXTS), do_classifier_free_guidance=False)
    given, whole = view.condition(TEXTS), view.embed(TEXTS, at="all")
    assert given.states.shape == (len(TEXTS), 512, view.width)
    assert len({len(states) for states in stock}) == len(TEXTS)
    for i, states in enumerate(stock):
        assert torch.allclose(given.states[i][given.mask[i].bool()], states, atol=1e-6)
        assert not given.states[i][len(states) :].any()
        read = view.modules("denoiser").cap_embedder[0](states)
        assert torch.allclose(whole[i, : len(states)], read, atol=1e-6)
        assert not whole[i, len(states) :].any()
    rows = attended_rows(view, TEXTS, whole)[0]
    assert len(rows) == sum(map(len, stock))
    some = Conditioning.concatenate([given.rows(slice(2)), given.rows(slice(2, 4))])
    assert torch.equal(some.mask, given.mask)


@torch.no_grad()
def test_the_text_map_reads_what_embed_gives() -> None:
    """The input of the map, recorded while denoising: every caption's rows, and last rows again as padding."""
    view, seen, texts = tiny.shared("zimage"), [], ["a dog", "moon"]
    (name,) = view.text_maps()
    assert name == "transformer.cap_embedder.1.weight"
    module = view.modules("denoiser").cap_embedder[1]
    assert view.text_maps()[name] is module.weight
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    view.denoise(random(2, *view.latent_shape, dtype=torch.float64), torch.tensor(700), texts)
    handle.remove()
    whole, counts = view.embed(texts, at="all"), view.condition(texts).mask.sum(1).tolist()
    for rows, own, count in zip(seen[0].split([n + -n % 32 for n in counts]), whole, counts, strict=True):
        assert torch.allclose(rows[:count], own[:count], atol=1e-6)
    for at in ("last_subject", "first_eot"):
        index = view.tokenizer(TEXTS).index(at)
        every = view.embed(TEXTS, at="all")
        assert torch.allclose(view.embed(TEXTS, at=at), every[range(len(TEXTS)), index], atol=1e-6)
    assert list(content_positions(view, "dog")[0]) == [3, 4, 5]
    assert view.embed([]).shape == (0, view.width)
    with pytest.raises(ModelError, match="do not read pooled text"):
        view.embed(TEXTS, at="pooled")


@torch.no_grad()
def test_latents_are_the_pipelines() -> None:
    """Its prediction is negated, and its guidance scale is ours less one; at 1 there is none."""
    view, noise, prompts = tiny.view("zimage", torch.float32), random(2, 4, 8, 8), ["A dog", "a longer moon"]
    found = {}
    for scale in (1.0, 5.0):
        given = {"latents": noise, "height": 16, "width": 16, "num_inference_steps": 3, "output_type": "pt"}
        theirs = view.pipeline(list(prompts), **given, guidance_scale=scale - 1).images
        found[scale] = view.sample(prompts, noise, 3, scale)
        assert torch.allclose(found[scale], theirs, atol=1e-5)
        assert torch.allclose(view.sample(view.condition(prompts), noise, 3, scale), theirs, atol=1e-5)
    assert not torch.allclose(found[1.0], found[5.0], atol=1e-4)


@torch.no_grad()
def test_folder_and_pipeline_agree_and_nothing_is_built(tmp_path) -> None:
    view = open_model(str(tiny.folder("zimage", tmp_path / "m")), "cpu", "float32")
    live = tiny.view("zimage", torch.float32)
    for at in ("all", "last_subject"):
        assert torch.allclose(view.embed(TEXTS, at=at), live.embed(TEXTS, at=at), atol=1e-6)
    maps, others = view.text_maps(), live.text_maps()
    assert all(torch.equal(maps[name], others[name]) for name in others)
    assert view.pipeline is None
    assert view.latent_shape == live.latent_shape == (4, 8, 8)
    assert torch.allclose(view.condition(TEXTS).states, live.condition(TEXTS).states, atol=1e-6)


def test_missing_shards_and_tokenizers_of_the_language_model(tmp_path) -> None:
    """One line that names the file; shards of layers that are never read too, for they are part of the model."""
    tiny.pipeline("zimage").save_pretrained(tmp_path / "m", max_shard_size="20KB")
    shards = sorted((tmp_path / "m/text_encoder").glob("*.safetensors"))
    assert len(shards) > 2
    shards[0].unlink()
    with pytest.raises(ModelError, match=shards[0].name) as told:
        open_model(str(tmp_path / "m"), "cpu", "float32").embed(TEXTS)
    assert "\n" not in str(told.value)
    (tmp_path / "m/tokenizer/tokenizer.json").unlink()
    with pytest.raises(
        ModelError, match=r"tokenizer .*vocabulary is missing: give a complete diffusers folder"
    ) as told:
        open_model(str(tmp_path / "m"), "cpu", "float32").tokenizer(TEXTS)
    assert "\n" not in str(told.value)


def test_prompts_that_do_not_fit_or_lack_a_mask_are_refused() -> None:
    view = tiny.shared("zimage")
    with pytest.raises(RequestError, match="tokens long, the text encoder holds 512"):
        view.condition(["x" * 600])
    with pytest.raises(ModelError, match="have no mask"):
        view.guide(Conditioning(torch.zeros(1, 3, view.width)), 2.0)
