"""PixArt-Sigma: what the view says is what the real classes compute."""

import pytest
import torch

from tests import tiny
from unconcept.core.errors import ModelError, RequestError, SettingsError
from unconcept.core.request import RequestSpec
from unconcept.edits import TextMapEdit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.methods import methods
from unconcept.models import Conditioning, open_model
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.models.layouts.layout import ModelLayout
from unconcept.models.text.alignment import aligned_suffix_rows
from unconcept.models.text.state_rows import attended_rows, content_positions
from unconcept.training.parameter_groups import select_parameters

TEXTS = ["Dog Face", "", " a moon in the sky ", "x"]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_condition_is_the_pipelines() -> None:
    """Prompts are stripped and put into lower case; states come with their mask."""
    view = tiny.shared("pixart")
    states, mask, _, _ = view.pipeline.encode_prompt(TEXTS, do_classifier_free_guidance=False)
    given = view.condition(TEXTS)
    assert torch.equal(given.states, states)
    assert torch.equal(given.mask, mask)
    assert given.mask.sum(1).tolist() == [len(row) for row in view.tokenizer(TEXTS).ids]
    some = Conditioning.concatenate([given.rows(slice(2)), given.rows(slice(2, 4))])
    assert torch.equal(some.mask, mask)


@torch.no_grad()
def test_text_maps_read_what_embed_gives() -> None:
    """The inputs of all keys and values, recorded while denoising, are the states behind the caption projection."""
    view, seen = tiny.shared("pixart"), {}
    net, maps = view.modules("denoiser"), view.text_maps()
    assert len(maps) == 2 * len(net.transformer_blocks)
    handles = []
    for name, weight in maps.items():
        module = net.get_submodule(name.removeprefix("transformer.").removesuffix(".weight"))
        assert weight is module.weight
        handles.append(module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]})))
    view.denoise(random(2, *view.latent_shape), torch.tensor(700), ["a dog", "moon"])
    for handle in handles:
        handle.remove()
    for read in seen.values():
        assert torch.allclose(read, view.embed(["a dog", "moon"], at="all"), atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("at", ["last_subject", "first_eot"])
def test_named_positions_are_rows_of_the_whole(at) -> None:
    view = tiny.shared("pixart")
    index, whole = view.tokenizer(TEXTS).index(at), view.embed(TEXTS, at="all")
    assert torch.allclose(view.embed(TEXTS, at=at), whole[range(len(TEXTS)), index], atol=1e-12)
    assert view.tokenizer([""]).index(at) == [0]
    assert view.embed([]).shape == (0, view.width)


@torch.no_grad()
def test_the_live_projection_is_read() -> None:
    view = tiny.view("pixart")
    before = view.embed(TEXTS)
    view.modules("denoiser").caption_projection.linear_2.weight.mul_(2)
    assert not torch.allclose(view.embed(TEXTS), before)


@torch.no_grad()
def test_a_state_does_not_depend_on_its_neighbours() -> None:
    view = tiny.view("pixart", torch.float32)
    for at in ("last_subject", "all"):
        assert torch.equal(view.embed(TEXTS, at=at)[2:3], view.embed(TEXTS[2:3], at=at))


@torch.no_grad()
def test_padding_is_not_read() -> None:
    """Another state there changes no prediction, and methods leave its rows out."""
    view = tiny.shared("pixart")
    given, latents = view.condition(["a dog"]), random(1, *view.latent_shape)
    count = int(given.mask.sum())
    noisy = given.states.clone()
    noisy[:, count:] += 1
    said = [view.denoise(latents, torch.tensor([400]), Conditioning(s, mask=given.mask)) for s in (given.states, noisy)]
    assert torch.allclose(said[0], said[1], atol=1e-12)
    (rows,) = attended_rows(view, ["a dog"], view.embed(["a dog"], at="all"))
    assert len(rows) == count
    old, new = aligned_suffix_rows(view, ["a dog"], [""])[0]
    assert old.shape == new.shape == (2, view.width)  # Its last letter and the end.
    assert list(content_positions(view, "a dog")[0]) == list(range(count - 1))


@torch.no_grad()
def test_denoise_is_the_noise_without_its_variance() -> None:
    view = tiny.shared("pixart")
    latents, given = random(2, *view.latent_shape), view.condition(["a dog", "moon"])
    whole = view.pipeline.transformer(
        latents,
        encoder_hidden_states=given.states,
        encoder_attention_mask=given.mask,
        timestep=torch.tensor([500, 500]),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    assert whole.shape[1] == 8
    assert torch.equal(view.denoise(latents, torch.tensor(500), ["a dog", "moon"]), whole[:, :4])


@torch.no_grad()
def test_sample_is_the_pipeline() -> None:
    view, noise = tiny.view("pixart", torch.float32), random(2, 4, 8, 8, dtype=torch.float32)
    prompts, found = ["A dog", "moon"], {}
    for scale in (1.0, 5.0):
        theirs = view.pipeline(
            prompts,
            latents=noise,
            height=16,
            width=16,
            num_inference_steps=3,
            guidance_scale=scale,
            use_resolution_binning=False,
            clean_caption=False,
            output_type="pt",
        ).images
        found[scale] = view.sample(prompts, noise, 3, scale)
        assert torch.allclose(found[scale], theirs, atol=1e-5)
        assert torch.allclose(view.sample(view.condition(prompts), noise, 3, scale), theirs, atol=1e-5)
    assert not torch.allclose(found[1.0], found[5.0], atol=1e-4)
    assert view.sample(prompts, noise, 3, 5.0, "ddim").shape == (2, 3, 16, 16)


@torch.no_grad()
def test_folder_and_pipeline_agree_and_nothing_is_built(tmp_path) -> None:
    view = open_model(str(tiny.folder("pixart", tmp_path / "m")), "cpu", "float32")
    live = tiny.view("pixart", torch.float32)
    for at in ("all", "last_subject"):
        assert torch.allclose(view.embed(TEXTS, at=at), live.embed(TEXTS, at=at), atol=1e-5)
    maps, others = view.text_maps(), live.text_maps()
    assert list(maps) == list(others)
    assert all(torch.equal(maps[name], others[name]) for name in maps)
    assert view.pipeline is None
    assert view.latent_shape == live.latent_shape == (4, 8, 8)
    assert torch.allclose(view.condition(TEXTS).states, live.condition(TEXTS).states, atol=1e-6)
    with pytest.raises(ModelError, match="holds a PixArtSigmaPipeline, but the original layout is only known for"):
        ModelLayout.of(tmp_path / "m")


@torch.no_grad()
def test_edits_of_the_text_maps_run_by_weights_and_by_hooks() -> None:
    view = tiny.view("pixart")
    x, y = random(2, 3, view.width, seed=1) / view.width
    edit = TextMapEdit(x, y, tuple(view.text_maps()))
    latents = random(2, *view.latent_shape)

    def predicted() -> torch.Tensor:
        return view.denoise(latents, torch.tensor(500), ["a dog", ""])

    plain, found = predicted(), []
    for way in (edit.applied_by_hooks, edit.applied):
        with way(view):
            found.append(predicted())
    assert torch.allclose(found[0], found[1], atol=1e-12, rtol=0)
    assert not torch.allclose(found[0], plain, atol=1e-9)
    assert torch.equal(predicted(), plain)


def test_parameter_groups_leave_out_time_and_output() -> None:
    names = denoiser_parameters(tiny.shared("pixart"))
    found = select_parameters(names, "notime")
    left_out = {name.split(".")[1] for name in set(names) - set(found)}
    assert left_out == {"adaln_single", "proj_out", "scale_shift_table"}
    assert all(".attn2." in name for name in select_parameters(names, "xattn"))
    with pytest.raises(SettingsError, match="this model has none of them"):
        select_parameters(names, "xlayer")


def test_what_is_not_defined_is_refused_by_name() -> None:
    view = tiny.shared("pixart")
    with pytest.raises(ModelError, match="pixart models do not read pooled text"):
        view.embed(["a"], at="pooled")
    with pytest.raises(RequestError, match="the text encoder holds 300"):
        view.condition(["a" * 400])
    assert not methods["nag"].refusal("pixart").startswith("it steers"), "its reason is about joint attention"


@torch.no_grad()
def test_uce_reads_the_target_as_its_anchor() -> None:
    view = tiny.view("pixart")
    chosen = resolve_request(RequestSpec(("dog face",), ("goat",), ("cat",)), "tiny")
    edit = make_edit(view, chosen, "uce", {"lamb": 1e-6})
    old, new = view.embed(["dog face"]), view.embed(["goat"])
    before = {name: weight.detach().clone() for name, weight in view.text_maps().items()}
    with edit.applied(view):
        for name, weight in view.text_maps().items():
            assert (old @ weight.T - new @ before[name].T).norm() < 1e-2 * ((new - old) @ before[name].T).norm()
