"""The probe on tiny real networks: what it reads, that it leaves no trace, and that it refuses an edited model."""

import pytest
import torch
from PIL import Image

from tests.tiny import folder, shared, view
from unconcept.core.errors import DataError, ModelError, SettingsError
from unconcept.edits import LowRankEdit
from unconcept.evaluation.judging.judge import Judge, open_scorer
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.metrics.score_policies import argmax
from unconcept.models.hooks.forward import record_outputs
from unconcept.scorers import scorers
from unconcept.scorers.probe import ActivationTap, DiffusionProbe, activations, usual_tap

TAP = ActivationTap(timesteps=(25, 200), draws=2)


def flats(n: int, seed: int, shuffled: bool = False) -> tuple[torch.Tensor, list[str]]:
    """Red and blue pictures, 16 x 16, with a little noise."""
    rng = torch.Generator().manual_seed(seed)
    labels = ["red" if i % 2 else "blue" for i in range(n)]
    colours = torch.tensor([[0.9, 0.1, 0.1] if label == "red" else [0.1, 0.1, 0.9] for label in labels])
    pictures = (colours[:, :, None, None] + 0.03 * torch.randn(n, 3, 16, 16, generator=rng)).clamp(0, 1)
    return pictures, [labels[i] for i in torch.randperm(n, generator=rng)] if shuffled else labels


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_two_colours_are_told_apart(family) -> None:
    probe = DiffusionProbe(shared(family), *flats(32, 0), TAP)
    assert probe.accuracy.value == 1
    assert probe.accuracy.n == 8
    assert probe.is_trusted
    fresh, labels = flats(8, 1)
    rows = probe.score(fresh, ["whole"] * 8)
    assert [argmax(row["labels"], probe.labels) for row in rows] == labels


def test_shuffled_labels_are_not_learned() -> None:
    probe = DiffusionProbe(shared("sd1"), *flats(60, 0, shuffled=True), TAP, held_out=0.5)
    assert probe.accuracy.low < 0.5 < probe.accuracy.high
    assert not probe.is_trusted


@pytest.mark.parametrize(
    ("layer", "channels"),
    [("up_blocks.1", 8), ("mid_block", 16), ("down_blocks.0", 8), ("up_blocks.1.attentions.0.transformer_blocks.0", 8)],
)
def test_a_vector_is_the_layers_channels_at_each_timestep(layer, channels) -> None:
    found = activations(shared("sd1"), flats(3, 0)[0], ActivationTap(layer, (10, 20, 30), draws=1))
    assert found.shape == (3, 3 * channels)


def test_features_are_the_pooled_output_written_out() -> None:
    model, pictures = shared("sd1"), flats(2, 0)[0]
    vae, unet = model.modules("vae"), model.modules("denoiser")
    with torch.no_grad():
        latents = vae.encode(pictures.double() * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        a, s = model.schedule.alpha[25], model.schedule.sigma[25]
        seen: list[torch.Tensor] = []
        handle = unet.up_blocks[1].register_forward_hook(lambda module, args, out: seen.append(out))
        model.denoise(a * latents + s * noise, torch.tensor([25, 25]), ["", ""])
        handle.remove()
    assert torch.allclose(
        activations(model, pictures, ActivationTap("up_blocks.1", (25,), draws=1)), seen[0].mean((2, 3)), atol=1e-10
    )


def test_rows_do_not_mix_and_a_seed_is_a_seed() -> None:
    pictures = flats(20, 0)[0]
    found = activations(shared("sd1"), pictures, TAP)
    assert torch.equal(found, activations(shared("sd1"), pictures, TAP))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(activations(shared("sd1"), pictures[order], TAP), found[order], atol=1e-10)
    assert torch.allclose(activations(shared("sd1"), pictures[17:18], TAP)[0], found[17], atol=1e-10)
    other = activations(shared("sd1"), pictures, ActivationTap(timesteps=(25, 200), draws=2, seed=7))
    assert not torch.allclose(other, found)


def test_hooks_change_nothing_and_are_gone_afterwards() -> None:
    model = shared("sd1")
    latents, t, unet = torch.randn(2, 4, 8, 8).double(), torch.tensor([5, 5]), model.modules("denoiser")
    with torch.no_grad():
        before = model.denoise(latents, t, ["", ""])
        with record_outputs(unet.up_blocks[1]) as outputs:
            during = model.denoise(latents, t, ["", ""])
        after = model.denoise(latents, t, ["", ""])
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert len(outputs) == 1
    assert not any(module._forward_hooks for module in unet.modules())


def test_an_edited_model_is_refused() -> None:
    model = view("sd1")
    pictures, labels = flats(12, 0)
    probe = DiffusionProbe(model, pictures, labels, TAP)
    name, weight = next(iter(model.text_maps().items()))
    edit = LowRankEdit(
        {name: (torch.ones(len(weight), 1, dtype=torch.float64), torch.ones(1, weight.shape[1], dtype=torch.float64))}
    )
    with edit.applied(model), pytest.raises(ModelError, match="unedited"):
        probe.score(pictures, ["whole"] * 12)
    with edit.applied(model), pytest.raises(ModelError, match="unedited"):
        DiffusionProbe(model, pictures, labels, TAP)
    assert probe.score(pictures[:1], ["whole"])


def test_an_edit_that_hangs_on_a_hook_is_refused() -> None:
    """Adapters and steering change no weight: the model's prediction gives them away."""
    model = view("sd1")
    probe = DiffusionProbe(model, *flats(12, 0), TAP)
    handle = model.modules("denoiser").mid_block.register_forward_hook(lambda module, args, out: out * 1.5)
    with pytest.raises(ModelError, match="has moved by"):
        probe.score(flats(2, 1)[0], ["whole"] * 2)
    handle.remove()
    assert probe.score(flats(2, 1)[0], ["whole"] * 2)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: activations(shared("sd1"), flats(1, 0)[0], ActivationTap("up_blocks.9")),
            ModelError,
            "up_blocks.0, up_blocks.1",
        ),
        (
            lambda: activations(shared("sd1"), flats(1, 0)[0], ActivationTap(timesteps=(1000,))),
            SettingsError,
            "schedule has 1000",
        ),
        (lambda: ActivationTap(timesteps=()), SettingsError, "give one or more"),
        (lambda: ActivationTap(draws=0), SettingsError, "give 1 or more"),
        (lambda: DiffusionProbe(shared("sd1"), flats(3, 0)[0], ["a"] * 3), SettingsError, "two or more to tell apart"),
        (
            lambda: DiffusionProbe(shared("sd1"), flats(3, 0)[0], ["a", "a", "b"]),
            SettingsError,
            "2 or more of every label",
        ),
        (lambda: DiffusionProbe(shared("sd1"), flats(3, 0)[0], ["a", "b"]), SettingsError, "2 labels for 3 images"),
    ],
)
def test_refusals(call, error, match) -> None:
    with pytest.raises(error, match=match):
        call()


def drawn_folder(place, shuffled: bool = False):
    """A folder of red and one of blue pictures."""
    pictures, labels = flats(16, 0, shuffled)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        (place / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).save(place / label / f"{i}.png")
    return place


def test_a_folder_of_labelled_pictures_is_a_judge(tmp_path) -> None:
    """By its name and path, as `--judge` gives it; a probe that knows nothing may not judge."""
    judge = Judge.parse(f"diffusion-probe={drawn_folder(tmp_path / 'two')}")
    opened = open_scorer(
        judge.scorer, judge.path, (), (), ("red",), EditedModel(str(folder("sd1", tmp_path / "model")))
    )
    fresh, labels = flats(4, 1)
    rows = opened.score(fresh, ["red"] * 4)
    assert [judge.reader.read(opened, row, None) for row in rows] == labels
    assert opened.seconds_per_picture() > 0
    build = scorers["diffusion-probe"].build
    for place, targets, kind, said in (
        (tmp_path / "none", (), DataError, "one folder of pictures for each label"),
        (tmp_path / "two", ("green",), SettingsError, "has no folder 'green'"),
        (drawn_folder(tmp_path / "mixed", shuffled=True), (), SettingsError, "give more pictures of each label"),
    ):
        with pytest.raises(kind, match=said) as error:
            build(place, shared("sd1"), targets=targets)
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(SettingsError, match="give diffusion-probe=FOLDER with"):
        Judge.parse("diffusion-probe")


def test_a_transformer_is_tapped_in_the_middle() -> None:
    assert usual_tap(shared("sd3")).layer == "transformer_blocks.1"
    assert usual_tap(shared("sd1")).layer == "up_blocks.1"
