"""SD3 and FLUX: what the view says is what the real classes compute."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import FluxPipeline
from torch import nn

from tests import tiny, toy_text
from unconcept.core.errors import ModelError, RequestError, SettingsError
from unconcept.edits import LowRankEdit, TextMapEdit
from unconcept.models import open_model
from unconcept.models.hooks.forward import record_inputs
from unconcept.models.hooks.modules import attention_linears, denoiser_parameters, text_stream_linears
from unconcept.models.model_view import SoftPrompts
from unconcept.models.text.vocabulary import encoder_kinds, vocabulary_of, word_ids
from unconcept.models.views import view_of_pipeline

TEXTS = ["dog face", "", "a moon in the sky", "x"]
families = pytest.mark.parametrize("family", tiny.MMDITS)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def stock(pipe, texts) -> tuple[torch.Tensor, torch.Tensor]:
    """States and pooled texts as the stock pipeline computes them."""
    if isinstance(pipe, FluxPipeline):
        return pipe.encode_prompt(texts)[:2]
    return pipe.encode_prompt(texts, None, None, do_classifier_free_guidance=False)[::2]


class Inputs:
    """What a module is given while the view denoises."""

    def __init__(self, module: nn.Module) -> None:
        self.seen: list[torch.Tensor] = []
        self.handle = module.register_forward_pre_hook(lambda _, args: self.seen.append(args[0]))

    def __enter__(self) -> list[torch.Tensor]:
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


@families
@torch.no_grad()
def test_states_are_the_pipelines(family) -> None:
    view = tiny.shared(family)
    states, pooled = stock(view.pipeline, TEXTS)
    given = view.condition(TEXTS)
    assert torch.equal(given.states, states)
    assert torch.equal(given.pooled, pooled)
    assert torch.allclose(view.embed(TEXTS, at="all"), states, atol=1e-12)
    assert torch.allclose(view.embed(TEXTS, at="pooled"), pooled, atol=1e-12)
    assert view.family == family


@pytest.mark.parametrize("is_file", [True, False])
def test_t5_is_padded_to_the_length_that_its_tokenizer_says(is_file, tmp_path) -> None:
    """Unmasked padding changes every state, so it must be as long as in training."""
    pipe = tiny.pipeline("flux")
    pipe.tokenizer_2.model_max_length = 32
    pipe.save_pretrained(tmp_path)
    view = open_model(str(tmp_path), "cpu") if is_file else view_of_pipeline(pipe, "tiny")
    states, pooled, _ = pipe.encode_prompt(TEXTS, None, max_sequence_length=32)
    found = view.condition(TEXTS)
    assert torch.allclose(found.states, states.to(found.states), atol=1e-6)
    assert torch.allclose(found.pooled, pooled.to(found.pooled), atol=1e-6)
    assert not view.tokenizers[1].can_hold("a moon in the sky" * 3)


@families
@pytest.mark.parametrize("at", ["last_subject", "first_eot"])
@torch.no_grad()
def test_named_positions_are_rows_of_the_whole(family, at) -> None:
    """A text's rows stand together: in SD3 CLIP's, then T5's."""
    view = tiny.shared(family)
    rows, whole = view.embed(TEXTS, at=at).view(len(TEXTS), view.streams, -1), view.embed(TEXTS, at="all")
    t5 = view.tokenizers[-1](TEXTS).index(at)
    starts = [(0, view.tokenizer(TEXTS).index(at))] + ([(toy_text.LENGTH, t5)] if family == "sd3" else [])
    assert view.streams == len(starts)
    for stream, (start, index) in enumerate(starts):
        assert torch.allclose(rows[:, stream], whole[range(len(TEXTS)), [start + i for i in index]], atol=1e-12)
    assert t5[1] == (view.spec.encoders[-1].length - 1 if at == "last_subject" else 0)


@torch.no_grad()
def test_clip_rows_are_padded_with_zeros_to_t5s_width() -> None:
    whole = tiny.shared("sd3").embed(TEXTS, at="all")
    assert whole.shape == (4, toy_text.LENGTH + 256, 80)
    assert not whole[:, : toy_text.LENGTH, 64:].any()
    assert whole[:, toy_text.LENGTH :, 64:].all()


@families
def test_no_texts_are_no_rows(family) -> None:
    view = tiny.shared(family)
    assert view.embed([]).shape == (0, view.width)
    assert view.embed([], at="pooled").shape == (0, view.embed(["a"], at="pooled").shape[1])


@families
@torch.no_grad()
def test_text_maps_read_what_embed_gives(family) -> None:
    """The inputs of the maps, recorded while denoising, are the states and the pooled
    text: nothing of time or picture.
    """
    view = tiny.shared(family)
    maps = {"all": view.text_maps(), "pooled": view.text_maps("pooled")}
    for at, found in maps.items():
        ((name, weight),) = found.items()
        module = view.modules("denoiser").get_submodule(name.removeprefix("transformer.").removesuffix(".weight"))
        with Inputs(module) as seen:
            view.denoise(random(2, *view.latent_shape), torch.tensor(700), ["a dog", "moon"])
        assert weight is module.weight
        assert torch.allclose(seen[0], view.embed(["a dog", "moon"], at=at), atol=1e-12)
        if at == "all":  # The bias is no part of the map.
            assert torch.allclose(module(seen[0]) - module.bias, seen[0] @ weight.T, atol=1e-12)


@families
def test_unets_have_no_maps_of_pooled_texts_and_sdxl_has_pooled_texts(family) -> None:
    sdxl = tiny.shared("sdxl")
    pooled = sdxl.pipeline.encode_prompt(TEXTS, device=sdxl.device, do_classifier_free_guidance=False)[2]
    assert torch.allclose(sdxl.embed(TEXTS, at="pooled"), pooled, atol=1e-12)
    assert sdxl.text_maps("pooled") == {}
    assert (sdxl.streams, tiny.shared(family).widths) == (1, (tiny.shared(family).width,))
    with pytest.raises(ModelError, match="sd1 models do not read pooled text"):
        tiny.shared("sd1").embed(TEXTS, at="pooled")


@families
@torch.no_grad()
def test_folder_and_pipeline_agree_and_nothing_is_built(family, tmp_path) -> None:
    folder = tiny.folder(family, tmp_path / "m")
    view, live = open_model(str(folder), "cpu", "float32"), view_of_pipeline(tiny.pipeline(family))
    assert view.family == family
    for at in ("all", "last_subject", "pooled"):
        assert torch.allclose(view.embed(TEXTS, at=at), live.embed(TEXTS, at=at), atol=1e-5)
    for reads in ("states", "pooled"):
        maps, others = view.text_maps(reads), live.text_maps(reads)
        assert sorted(maps) == sorted(others)
        assert all(torch.equal(maps[name], others[name]) for name in maps)
    assert view.pipeline is None
    assert view.latent_shape == live.latent_shape == (4, 8, 8)
    assert torch.allclose(view.condition(TEXTS).states, live.condition(TEXTS).states, atol=1e-6)
    assert view.pipeline is not None
    assert torch.allclose(view.embed(TEXTS), live.embed(TEXTS), atol=1e-6)


def test_reading_text_needs_torch_alone(tmp_path) -> None:
    code = "import sys\nfrom unconcept.models import open_model\n"
    for family in tiny.MMDITS:
        place = tiny.folder(family, tmp_path / family)
        code += f"view = open_model({str(place)!r}, 'cpu')\nview.embed(['a dog'])\nview.text_maps()\n"
    code += "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "['torch']"


@torch.no_grad()
def test_sd3_without_t5_reads_zeros(tmp_path) -> None:
    pipe = tiny.pipeline("sd3")
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path / "m")
    live, view = view_of_pipeline(pipe), open_model(str(tmp_path / "m"), "cpu", "float32")
    states, pooled = stock(pipe, TEXTS)
    for one in (live, view):
        assert torch.allclose(one.embed(TEXTS, at="all"), states, atol=1e-5)
        assert not one.embed(TEXTS).view(4, 2, -1)[:, 1].any()
        assert torch.equal(one.condition(TEXTS).states, states)
        assert torch.equal(one.condition(TEXTS).pooled, pooled)
    noise = random(1, 4, 8, 8, dtype=torch.float32)
    assert torch.equal(live.sample(["a dog"], noise, 2, 4.0), view.sample(["a dog"], noise, 2, 4.0))


def soft_prompts(view, texts) -> SoftPrompts:
    """The texts with the rows of their first two tokens given, for each kind of encoder."""
    found = []
    for kind in encoder_kinds(view):
        tokenizer, tables = vocabulary_of(view, kind)
        ids = torch.tensor(tokenizer(texts).padded())
        at = torch.tensor([[0, 1] if kind == "t5" else [1, 2]] * len(texts))
        rows = tuple(table[ids.gather(1, at)].clone().requires_grad_() for table in tables)
        found.append(SoftPrompts(ids.scatter(1, at, 0), at, rows))
    clip, t5 = found
    return replace(clip, t5=t5)


@families
def test_soft_prompts_are_read_by_the_real_encoders(family) -> None:
    """Rows of plain tokens in their own places are what the pipeline encodes; gradients reach all of them."""
    view, texts = tiny.shared(family), ["a dog", "moon in the sky"]
    soft = soft_prompts(view, texts)
    given = view.condition(soft)
    states, pooled = stock(view.pipeline, texts)
    assert torch.equal(given.states, states)
    assert torch.equal(given.pooled, pooled)
    rows = (*soft.rows, *soft.t5.rows)
    assert len(rows) == len(view.spec.encoders)
    prediction = view.denoise(random(2, *view.latent_shape), torch.tensor(300), given)
    gradients = torch.autograd.grad(prediction.square().sum(), rows)
    assert all(g.abs().sum() > 0 for g in gradients)
    assert torch.equal(view.condition(texts).states, states)


def test_clips_rows_reach_flux_through_the_pooled_text_alone() -> None:
    view = tiny.shared("flux")
    soft = soft_prompts(view, ["a dog"])
    clip, t5 = (
        view.condition(replace(soft, **change))
        for change in (
            {"rows": tuple(row.flip(-1) for row in soft.rows)},
            {"t5": replace(soft.t5, rows=tuple(row.flip(-1) for row in soft.t5.rows))},
        )
    )
    plain = view.condition(["a dog"])
    assert torch.equal(clip.states, plain.states)
    assert not torch.allclose(clip.pooled, plain.pooled)
    assert torch.equal(t5.pooled, plain.pooled)
    assert not torch.allclose(t5.states, plain.states)


@families
def test_each_kind_of_encoder_has_its_vocabulary(family) -> None:
    view = tiny.shared(family)
    assert encoder_kinds(view) == ("clip", "t5")
    clip, tables = vocabulary_of(view, "clip")
    assert (len(tables), word_ids(clip, "")) == (len(view.spec.encoders) - 1, ())
    t5, (table,) = vocabulary_of(view, "t5")
    assert word_ids(t5, "") == ()
    assert len(word_ids(t5, "dog")) == 4  # with the one before a word
    assert len(table) == len(view.modules(view.spec.encoders[-1].part).shared.weight)


@families
def test_what_is_not_defined_is_refused_by_name(family) -> None:
    view = tiny.shared(family)
    ids = torch.zeros(1, 24, dtype=torch.long)
    alone = SoftPrompts(ids, ids[:, :1], tuple(torch.zeros(1, 1, 32) for _ in range(len(view.spec.encoders) - 1)))
    with pytest.raises(ModelError, match=f"{family} need the rows of {view.spec.encoders[-1].part}"):
        view.condition(alone)
    with pytest.raises(SettingsError, match=f"sampler 'ddim' is not defined for {family}"):
        view.sample(["a"], random(1, 4, 8, 8), 2, 1.0, "ddim")
    with pytest.raises(RequestError, match="the text encoder holds 24"):
        view.condition(["a" * 30])
    with pytest.raises(ModelError, match="another family"):
        view.reference(["unet.mid_block.weight"])


@families
def test_parts_have_their_full_names(family) -> None:
    view = tiny.shared(family)
    found, net = attention_linears(view), view.modules("denoiser")
    assert all(net.get_parameter(name.removeprefix("transformer.")) is module.weight for name, module in found.items())
    # FLUX: 8 maps in the double block, 3 in the single one. SD3: 8 and 4 more in the first, 7 in the last, whose text
    # goes no further.
    assert len(found) == {"flux": 11, "sd3": 19}[family]
    assert set(found) <= set(denoiser_parameters(view))


@families
@torch.no_grad()
def test_streams_are_recorded_block_by_block(family) -> None:
    """Keys and values of a block share their input; it moves with the timestep and the picture, so no text alone gives
    it.
    """
    view = tiny.shared(family)
    maps, latents = text_stream_linears(view), random(2, *view.latent_shape)
    assert len(maps) == 2 * len(view.modules("denoiser").transformer_blocks)
    with record_inputs(maps) as kept:
        for t, seen in ((200, latents), (800, latents), (200, latents.flip(0))):
            view.denoise(seen, torch.tensor(t), ["a dog", "moon"])
    for name, inputs in kept.items():
        assert [i.shape for i in inputs] == [(2, view.embed(["a"], at="all").shape[1], maps[name].in_features)] * 3
        assert torch.equal(inputs[0], kept[name.replace("add_k_proj", "add_v_proj")][0])
        assert not torch.allclose(inputs[0], inputs[1])
    last = max(kept)
    # FLUX's toy has one block, which no picture has reached.
    assert torch.equal(kept[last][0], kept[last][2]) == (family == "flux")
    assert not any(module._forward_pre_hooks for module in maps.values())
    assert text_stream_linears(tiny.shared("sdxl")) == {}


@families
def test_edits_of_the_text_map_run_three_ways(family) -> None:
    view = tiny.view(family)
    ((name, weight),) = view.text_maps().items()
    x, y = random(2, 3, view.width, seed=1) / view.width
    edit = TextMapEdit(x, y, (name,))
    pairs = LowRankEdit({name: (weight.detach() @ x.T, y)})
    latents, found = random(2, *view.latent_shape), []

    def predicted() -> torch.Tensor:
        with torch.no_grad():
            return view.denoise(latents, torch.tensor(500), ["a dog", ""])

    plain = predicted()
    for way in (edit.applied_by_hooks, edit.applied, pairs.applied):
        with way(view):
            found.append(predicted())
            assert not view.original_weights or torch.equal(view.reference([name])[name], view.original_weights[name])
    assert all(torch.allclose(one, found[0], atol=1e-12, rtol=0) for one in found)
    assert not torch.allclose(found[0], plain, atol=1e-9)
    assert torch.equal(predicted(), plain)


@families
def test_a_folder_of_another_pipeline_is_refused(family, tmp_path) -> None:
    path = tiny.folder(family, tmp_path / "m") / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "FluxControlPipeline"}))
    with pytest.raises(
        ModelError, match=r"holds a FluxControlPipeline; supported are .*FluxPipeline, .*StableDiffusion3Pipeline"
    ):
        open_model(str(tmp_path / "m"), "cpu")


@families
def test_methods_of_other_families_are_refused_by_name(family) -> None:
    from unconcept.core.request import RequestSpec
    from unconcept.erasing.make_edit import make_edit
    from unconcept.erasing.request_defaults import resolve_request

    chosen = resolve_request(RequestSpec(("dog face",), ("goat",), ("cat",)), "tiny")
    with pytest.raises(SettingsError, match=f"rece is not defined for {family} models"):
        make_edit(tiny.shared(family), chosen, "rece", {})
