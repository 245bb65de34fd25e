"""What a view says is what the real classes compute."""

import json
from pathlib import Path

import pytest
import torch

from tests import tiny
from unconcept.core.errors import DeviceError, ModelError, RequestError, SettingsError
from unconcept.evaluation.sampling import initial_noise
from unconcept.models import open_model
from unconcept.models.diffusion.schedulers import SAMPLERS
from unconcept.models.diffusion.vae import decode_latents, encode_images
from unconcept.models.loading import find_device
from unconcept.models.model_view import SoftPrompts
from unconcept.models.precision import dtype_policy
from unconcept.models.views.unet import UNetView

TEXTS = ["dog face", "", "a moon in the sky", "x"]
MATRICES = {"sd1": 6, "sd2": 6, "sdxl": 6}  # one cross-attention down, one in the middle, two up... times key and value


def stock_states(pipe, texts):
    """Prompt states as the stock pipeline computes them."""
    return pipe.encode_prompt(texts, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False)[0]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_states_are_the_pipelines(family) -> None:
    view = tiny.shared(family)
    assert view.family == family
    with torch.no_grad():
        stock = stock_states(view.pipeline, TEXTS)
        assert torch.allclose(view.embed(TEXTS, at="all"), stock, atol=1e-12)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("at", ["last_subject", "first_eot"])
def test_named_positions_are_rows_of_the_whole(family, at) -> None:
    """The cut text gives the same state as the padded one: the encoder is causal. "" has its start token as subject."""
    view = tiny.shared(family)
    index = view.tokenizer(TEXTS).index(at)
    whole = view.embed(TEXTS, at="all")
    assert torch.allclose(view.embed(TEXTS, at=at), whole[torch.arange(len(TEXTS)), index], atol=1e-12)
    assert view.tokenizer([""]).index("last_subject") == [0]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_where_a_word_stands_in_its_sentence(family) -> None:
    """One token a letter: the word is cut out of what the sentence as a whole is read as."""
    tokens = tiny.shared(family).tokenizer
    for form, front in (("{}", 1), ("a {}", 2), ("{} at sea", 1), ("an old {} at sea", 6)):
        assert list(tokens.span(form, "red fox")) == list(range(front, front + 6))
        (word,), (whole,) = (tokens([text]).ids for text in ("red fox", form.replace("{}", "red fox")))
        assert [whole[place] for place in tokens.span(form, "red fox")] == list(word[1:-1])


def test_no_texts_are_no_rows() -> None:
    assert tiny.shared("sd1").embed([]).shape == (0, 32)
    assert tiny.shared("sdxl").embed(()).shape == (0, 64)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("old", [False, True], ids=["new files", "old files"])
def test_folder_and_pipeline_agree(family, old, tmp_path) -> None:
    folder = tiny.folder(family, tmp_path / "m", old)
    view, live = open_model(str(folder), "cpu", "float32"), UNetView.from_pipeline(tiny.pipeline(family))
    assert view.family == family
    assert torch.allclose(view.embed(TEXTS, at="all"), live.embed(TEXTS, at="all"), atol=1e-6)
    maps, others = view.text_maps(), live.text_maps()
    assert sorted(maps) == sorted(others)
    assert all(torch.equal(maps[name], others[name]) for name in maps)
    assert view.pipeline is None
    assert view.latent_shape == live.latent_shape == (4, 8, 8)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_text_maps_read_nothing_but_text(family) -> None:
    view = tiny.shared(family)
    maps = view.text_maps()
    assert len(maps) == 2 * sum("attn2.to_k" in name for name in maps)
    assert {w.shape[1] for w in maps.values()} == {view.width}
    attentions = [m for m in view.modules("denoiser").modules() if getattr(m, "is_cross_attention", False)]
    assert len(maps) == 2 * len(attentions)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_denoise_is_the_unet(family) -> None:
    view = tiny.shared(family)
    latents = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = view.denoise(latents, torch.tensor(500), ["a dog", "moon"])
        states, pipe = stock_states(view.pipeline, ["a dog", "moon"]), view.pipeline
        added = {}
        if family == "sdxl":
            pooled = pipe.encode_prompt(["a dog", "moon"], device=pipe.device, do_classifier_free_guidance=False)[2]
            side = 8 * pipe.vae_scale_factor
            added = {
                "added_cond_kwargs": {
                    "text_embeds": pooled,
                    "time_ids": torch.tensor([[side, side, 0, 0, side, side]] * 2, dtype=torch.float64),
                }
            }
        assert torch.equal(ours, pipe.unet(latents, torch.tensor(500), states, **added).sample)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_soft_prompts_are_read_by_the_real_encoders(family) -> None:
    """Rows of the token table in their own places change nothing; other rows do, and gradients reach them."""
    view = tiny.shared(family)
    tokens = view.tokenizer(["a dog", "moon"])
    ids = torch.tensor(tokens.padded())
    at = torch.tensor([[1, 2], [1, 2]])
    parts = ["text_encoder", "text_encoder_2"][: 2 if family == "sdxl" else 1]
    tables = [view.modules(part).get_input_embeddings().weight.detach() for part in parts]
    rows = tuple(table[ids.gather(1, at)].clone().requires_grad_() for table in tables)
    plain, soft = view.condition(["a dog", "moon"]), view.condition(SoftPrompts(ids, at, rows))
    assert torch.equal(soft.states, plain.states)
    assert family != "sdxl" or torch.equal(soft.pooled, plain.pooled)
    moved = view.condition(SoftPrompts(ids, at, tuple(row.flip(-1) for row in rows)))
    assert not torch.allclose(moved.states, plain.states)
    prediction = view.denoise(torch.randn(2, *view.latent_shape, dtype=torch.float64), torch.tensor(300), moved)
    gradients = torch.autograd.grad(prediction.square().sum(), rows)
    assert all(g.abs().sum() > 0 for g in gradients)
    assert torch.equal(view.condition(["a dog", "moon"]).states, plain.states)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_finished_states_draw_what_their_prompts_draw(family) -> None:
    view = tiny.view(family, torch.float32)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        given = view.condition(["a dog", "moon"])
    assert (view.sample(given, noise, 3, 4.0) - view.sample(["a dog", "moon"], noise, 3, 4.0)).abs().max() <= 1 / 255


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_latents_are_the_autoencoders(family) -> None:
    view = tiny.shared(family)
    pictures = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vae = view.modules("vae")
    with torch.no_grad():
        latents = encode_images(view, pictures)
        assert torch.equal(latents, vae.encode(pictures * 2 - 1).latent_dist.mean * vae.config.scaling_factor)
        again = vae.decode(latents / vae.config.scaling_factor).sample
        assert torch.equal(decode_latents(view, latents), (again / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_pictures_do_not_know_their_neighbours(family) -> None:
    view = tiny.view(family, torch.float32)
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    together = view.sample(["a", "b c", "d"], noise, 3, 4.0)
    alone = torch.cat([view.sample([text], noise[i : i + 1], 3, 4.0) for i, text in enumerate(["a", "b c", "d"])])
    assert together.shape == (3, 3, 16, 16)
    assert 0 <= together.min() <= together.max() <= 1
    assert (together - alone).abs().max() <= 1 / 255


@pytest.mark.slow
def test_named_samplers_solve_the_same_equation_and_leave_the_models_own() -> None:
    """On moji, in 25 steps, all that add no noise on their way draw nearly the same picture, and no other does."""
    view = open_model("moji")
    own, start = view.modules("scheduler"), initial_noise(7, view.latent_shape)[None]
    reference = view.sample(["a pizza"], start, 25, 4.0)
    for name in SAMPLERS:
        apart = (view.sample(["a pizza"], start, 25, 4.0, name) - reference).abs().mean()
        assert (apart < 0.02) == (name not in ("euler-ancestral", "lcm")), (name, apart)
        assert view.modules("scheduler") is own


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(RequestError, match="tokens long, the text encoder holds 24"):
        tiny.shared("sd1").embed(["a" * 30])


def broken(folder: Path, how: str) -> None:
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    if how == "no index":
        (folder / "model_index.json").unlink()
    elif how == "other pipeline":
        (folder / "model_index.json").write_text('{"_class_name": "AudioPipeline"}')
    elif how == "no weights":
        unet.unlink()
    elif how == "pickle":
        unet.rename(unet.with_name("diffusion_pytorch_model.bin"))
    elif how == "cut short":
        unet.write_bytes(unet.read_bytes()[:5000])
    elif how == "no tokenizer":
        for path in (folder / "tokenizer").iterdir():
            path.unlink()
    elif how == "odd activation":
        path = folder / "text_encoder/config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "wave"}))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no index", "not a diffusers folder"),
        ("other pipeline", "holds a AudioPipeline; supported are .*looked for .*txt_in.* its denoiser has attn2.to_k$"),
        ("no weights", "no .safetensors weights"),
        ("pickle", "can run code when loaded"),
        ("cut short", "cut short or damaged"),
        ("no tokenizer", "tokenizer"),
        ("odd activation", "'wave' is unknown"),
    ],
)
def test_broken_folders(tmp_path, how, said) -> None:
    folder = tiny.folder("sd1", tmp_path / "m")
    broken(folder, how)
    with pytest.raises(ModelError, match=said):
        read_everything(folder)


def read_everything(folder: Path) -> None:
    view = open_model(str(folder), "cpu")
    view.text_maps()
    view.embed(["a"])


def test_nan_in_weights_is_named(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny.folder("sd1", tmp_path / "m")
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = next(n for n in weights if "attn2.to_v" in n)
    weights[name][0, 0] = float("nan")
    save_file(weights, path)
    with pytest.raises(ModelError, match=name):
        dict(open_model(str(folder), "cpu").text_maps())


def test_paths_and_devices_that_are_not_there(tmp_path) -> None:
    with pytest.raises(ModelError, match="neither 'moji', 'moji-flow' nor an existing path"):
        open_model(str(tmp_path / "no"))
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(ModelError, match="can run code"):
        open_model(str(tmp_path / "model.ckpt"))
    with pytest.raises(DeviceError, match="device 'tpu' does not exist on this machine: choose one of auto, cpu"):
        find_device("tpu")
    with pytest.raises(DeviceError, match="cuda:99"):
        find_device("cuda:99")
    with pytest.raises(SettingsError, match="dtype 'int8'"):
        dtype_policy("int8", torch.device("cpu"))


@pytest.mark.parametrize("sampler", [None, "ddim", "dpm"])
def test_more_steps_than_timesteps_are_refused(sampler) -> None:
    """diffusers' own answers are an error in one scheduler and an index out of range in another."""
    view = tiny.shared("sd1")
    for steps in (0, 1001):
        with pytest.raises(
            SettingsError, match=f"{steps} sampler steps: give 1 to 1000, the model's number of timesteps"
        ):
            view.sample(["a dog"], torch.zeros(1, *view.latent_shape), steps, 1.0, sampler)
