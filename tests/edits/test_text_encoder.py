"""An edit of the text encoder goes wherever an edit can go: files of every layout, other models that share the encoder,
attacks.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tests import tiny
from tests.attacks.cases import QUICK, case
from tests.attacks.test_contract import state
from tests.edits.test_export import base, networks, parameters, picture, stock  # noqa: F401
from tests.fast_cases import fast_among
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK as SHORT
from unconcept.attacks import attacks
from unconcept.core.errors import EditError
from unconcept.core.request import RequestSpec
from unconcept.core.settings import build_settings
from unconcept.edits import load_edit
from unconcept.edits.export.bake import bake
from unconcept.edits.export.export import export_edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.models import open_model

FAMILIES = ("sd1", "sd2", "sdxl")


CHOSEN = resolve_request(RequestSpec(("dog",), ("cat",), ("fox",)), "tiny")


@cache
def made(source, method: str = "few-shot"):
    """As `unconcept erase` makes it, saved and loaded again."""
    edit = make_edit(open_model(str(source), "cpu", "float32"), CHOSEN, method, SHORT[method])
    path = source.parent / f"{method}.safetensors"
    edit.save(path)
    return load_edit(path)


@pytest.mark.parametrize("method", ["few-shot", pytest.param("advunlearn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_applied_baked_and_loaded_are_one_model(family, method, base, tmp_path) -> None:  # noqa: F811
    folder = base(family)
    edit = made(folder, method)
    bake(edit, folder, tmp_path / "baked")
    view = open_model(str(folder), "cpu", "float32")
    live = open_model(str(tmp_path / "baked"), "cpu", "float32")
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    plain = view.sample(["a dog"], noise, 2, 3.0)
    with edit.applied(view):
        inside = view.sample(["a dog"], noise, 2, 3.0)
    assert torch.equal(inside, live.sample(["a dog"], noise, 2, 3.0))
    assert not torch.allclose(inside, plain, atol=1e-4)
    before, after = (
        parameters(place, "unet", "vae", "text_encoder", "text_encoder_2") for place in (folder, tmp_path / "baked")
    )
    assert {name for name in before if not torch.equal(before[name], after[name])} <= {*edit.names}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_holds_it_however_it_comes_there(family, base, tmp_path) -> None:  # noqa: F811
    """Written from the folder, and baked into a single file of the unedited model."""
    folder = base(family)
    edit = made(folder)
    export_edit(edit, folder, "single-file", tmp_path / "edited.safetensors")
    export_edit(edit.scaled(0.0), folder, "single-file", tmp_path / "plain.safetensors")
    found, plain = (load_file(tmp_path / name) for name in ("edited.safetensors", "plain.safetensors"))
    changed = {name for name in found if not torch.equal(found[name], plain[name])}
    assert changed
    assert all(name.startswith(("cond_stage_model.", "conditioner.")) for name in changed)
    export_edit(edit, folder, "comfyui", tmp_path / "patch.safetensors")
    assert all(name.startswith("text_encoders.clip_") for name in load_file(tmp_path / "patch.safetensors"))
    assert len(load_file(tmp_path / "patch.safetensors")) == len(edit.names)
    if family == "sd1":
        single = StableDiffusionPipeline.from_single_file(
            str(tmp_path / "edited.safetensors"), config=str(folder), local_files_only=True
        )
        bake(edit, folder, tmp_path / "baked")
        assert torch.equal(picture(single), picture(stock(tmp_path / "baked")))


def test_a_lora_cannot_hold_biases_and_says_what_can(base, tmp_path) -> None:  # noqa: F811
    folder = base("sd1")
    for to, place in (("kohya", tmp_path / "l.safetensors"), ("peft", tmp_path / "p")):
        with pytest.raises(
            EditError, match=r"a LoRA cannot hold text_encoder.*export the edit --to comfyui, single-file or diffusers"
        ):
            export_edit(made(folder), folder, to, place)
        assert not place.exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_one_layer_of_matrices_is_a_lora(family, base, tmp_path) -> None:  # noqa: F811
    folder = base(family)
    view = open_model(str(folder), "cpu", "float32")
    edit = make_edit(view, CHOSEN, "slug", SHORT["slug"], planted_services(view))
    done = export_edit(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float32)
    assert done.error is not None
    assert done.error < 1e-6
    prefix = "lora_te" if family == "sdxl" else "lora_te_"
    assert all(name.startswith(prefix) for name in load_file(tmp_path / "l.safetensors"))


def test_it_fits_every_model_with_the_same_encoder_and_no_other(base, tmp_path) -> None:  # noqa: F811
    """Plug and play: another denoiser beside the very encoder draws the target otherwise;
    another encoder is refused.
    """
    folder = base("sd1")
    edit, other = made(folder), tiny.pipeline("sd1", seed=5)
    foreign = tmp_path / "foreign"
    other.save_pretrained(foreign)
    with pytest.raises(EditError, match="made for"):
        bake(edit, foreign, tmp_path / "no")
    other.text_encoder = stock(folder).text_encoder
    other.save_pretrained(tmp_path / "shared")
    bake(edit, tmp_path / "shared", tmp_path / "edited")
    before, after = networks(stock(tmp_path / "shared")), networks(stock(tmp_path / "edited"))
    assert {name for name in before if not torch.equal(before[name], after[name])} <= {*edit.names}
    assert not torch.allclose(picture(stock(tmp_path / "edited")), picture(stock(tmp_path / "shared")), atol=1e-4)


@cache
def attacked(family):
    """The edit that every attack searches against."""
    return make_edit(case(family).model, CHOSEN, "few-shot", SHORT["few-shot"])


# Those that search among pictures and latents leave the text encoder as it is: one of each rung stands for the others.
SEARCHES = fast_among(
    [(name, family) for family in FAMILIES for name in attacks],
    [(name, "sd1") for name in attacks if attacks[name].rung not in ("picture", "latent")]
    + [("sdedit", "sd1"), ("trajectory-noise", "sd1")],
)


@pytest.mark.parametrize(("name", "family"), SEARCHES)
def test_attacks_search_against_it_and_leave_no_trace(name, family) -> None:
    asked = replace(case(family), edit=attacked(family))
    before, found = state(asked.model), []
    for attempt in build_settings(attacks[name].settings, QUICK[name]).search(asked):
        assert state(asked.model) == before
        found.append(attempt)
    assert len(found) > 1
    assert all(attempt.loss is None or attempt.loss == attempt.loss for attempt in found)
