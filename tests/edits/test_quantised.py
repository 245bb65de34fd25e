"""Edits that change no weight on quantised and offloaded copies of their base, and what is refused there."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from tests import tiny
from tests.edits.packed import EXACT, LIBRARIES, STORED, nf4
from tests.models.test_sampler import random, stock
from unconcept import Request, load_edit
from unconcept.core.errors import EditError, ModelError
from unconcept.edits import DenseEdit
from unconcept.edits.origin import origin_for
from unconcept.jobs.command_options import SamplingOptions
from unconcept.jobs.sample import sample
from unconcept.methods.adavd import AdaVD
from unconcept.methods.uce import UCE
from unconcept.models import open_model
from unconcept.models.layouts.layout import ModelLayout

REQUEST = Request(("dog face",), ("cat",), ("sun",))
PROMPTS = ["a dog face", "moon"]
ALL = {**EXACT, **STORED, **LIBRARIES}
QUICK = [("sd1", how) for how in (*EXACT, *STORED, *LIBRARIES)] + [("flux", "nf4"), ("pixart", "nf4"), ("sd3", "gguf")]
REST = [(family, how) for family in tiny.PIPELINES for how in ALL if (family, how) not in QUICK]


@cache
def made(family):
    return edit_of(tiny.view(family, torch.float32), UCE())


def edit_of(view, method):
    edit = method.erase(view, REQUEST)
    return edit.stamped(origin_for(edit, view, REQUEST, "uce", {}))


@pytest.mark.parametrize(("family", "how"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)])
def test_a_map_on_the_text_edits_a_quantised_copy(family, how) -> None:
    """It draws what the same packed network draws of mapped texts, and is off again bit for bit."""
    edit, pipe = made(family), tiny.pipeline(family)
    ALL[how](pipe)
    noise = random(1, *tiny.shared(family).latent_shape)
    before = stock(pipe, noise, 2, 2.0, prompts=PROMPTS[:1])
    handle = edit.apply_to(pipe)
    after = stock(pipe, noise, 2, 2.0, prompts=PROMPTS[:1])
    assert not torch.allclose(after, before, rtol=0, atol=1e-4)
    if how in EXACT:
        plain = tiny.pipeline(family)
        edit.apply_to(plain)
        assert torch.allclose(after, stock(plain, noise, 2, 2.0, prompts=PROMPTS[:1]), rtol=0, atol=1e-4)
        assert handle.note == ""
    else:
        assert "is a quantised copy of" in handle.note
        assert len(handle.note.splitlines()) == 1
    handle.remove()
    assert torch.equal(stock(pipe, noise, 2, 2.0, prompts=PROMPTS[:1]), before)


def test_edits_beside_the_weights_run_beside_packed_ones() -> None:
    """AdaVD reads its values from packed maps."""
    edit, pipe = edit_of(tiny.view("sd1", torch.float32), AdaVD()), tiny.pipeline("sd1")
    nf4(pipe)
    noise = random(1, 4, 8, 8)
    before = stock(pipe, noise, 2, 2.0, prompts=PROMPTS[:1])
    handle = edit.apply_to(pipe)
    assert not torch.allclose(stock(pipe, noise, 2, 2.0, prompts=PROMPTS[:1]), before, rtol=0, atol=1e-4)
    handle.remove()
    assert torch.equal(stock(pipe, noise, 2, 2.0, prompts=PROMPTS[:1]), before)


def test_the_sampler_draws_a_quantised_copy_as_its_pipeline_does() -> None:
    edit, pipe = made("sd1"), tiny.pipeline("sd1")
    nf4(pipe)
    view, noise = open_model(pipe, may_be_fixed=True), random(1, 4, 8, 8)
    assert view.fixed == "its unet has quantised weights"
    with edit.applied(view):
        ours = view.sample(PROMPTS[:1], noise, 2, 2.0)
    plain = view.sample(PROMPTS[:1], noise, 2, 2.0)
    edit.apply_to(pipe)
    theirs = pipe(PROMPTS[:1], latents=noise, num_inference_steps=2, guidance_scale=2.0, output_type="pt").images
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-4)
    assert not torch.allclose(ours, plain, rtol=0, atol=1e-5)


def test_files_of_a_quantised_copy(tmp_path) -> None:
    """A denoiser in GGUF beside the base's folder, drawn by `sample`; a format whose library does not load is named."""
    quants = pytest.importorskip("gguf")
    folder, edit = tiny.folder("sd3", tmp_path / "base"), made("sd3")
    edit.save(tmp_path / "e.safetensors")
    view = open_model(str(folder), "cpu", "float32")
    layout, file = ModelLayout.of(folder), quants.GGUFWriter(tmp_path / "base-Q8_0.gguf", "sd3")
    whole: dict[str, torch.Tensor] = {}
    for name, weight in view.modules("denoiser").state_dict().items():
        key, laid = layout.denoiser_tensor(name)
        _, count, parts = laid.rows
        rows = len(weight) * parts // count
        place = whole.setdefault(key, torch.zeros(rows, *weight.shape[1:]))
        place.narrow(0, *laid.span(rows)).copy_(laid.pack(weight.detach()))
    for key, weight in whole.items():
        packs = weight.ndim == 2 and weight.shape[1] % 32 == 0
        kind = quants.GGMLQuantizationType.Q8_0 if packs else quants.GGMLQuantizationType.F32
        file.add_tensor(key, quants.quantize(weight.numpy(), kind), raw_dtype=kind)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    told = {"model": str(tmp_path / "base-Q8_0.gguf"), "config": folder, "steps": 1, "guidance_scale": 2.0}
    drawn = sample(SamplingOptions(prompts="a dog", edits=tmp_path / "e.safetensors", out=tmp_path / "o", **told))
    assert drawn.count == 1
    assert "is a quantised copy of" in drawn.notes[0]
    with pytest.raises(ModelError, match="GGUF files are not read"):
        open_model(str(tmp_path / "base-Q8_0.gguf"), config=folder)
    (tmp_path / "bare.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match="give --config FOLDER"):
        open_model(str(tmp_path / "bare.gguf"), may_be_fixed=True)


def test_a_format_whose_library_is_not_there_is_one_line(tmp_path) -> None:
    folder = tiny.folder("flux", tmp_path / "m")
    config = folder / "transformer/config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps(told | {"quantization_config": {"quant_method": "nothing_known"}}))
    with pytest.raises(ModelError, match=r"cannot load its weights .nothing_known., which needs the library") as error:
        open_model(str(folder), "cpu", may_be_fixed=True)
    assert len(str(error.value).splitlines()) == 1


def test_a_half_type_of_the_text_encoder_is_the_same_text_side(tmp_path) -> None:
    """Saved and loaded; from a base in float32, a copy whose rest is in either half type."""
    made("sd1").save(tmp_path / "e.safetensors")
    edit = load_edit(tmp_path / "e.safetensors")
    for dtype in (torch.bfloat16, torch.float16):
        pipe = tiny.pipeline("sd1", dtype=dtype)
        nf4(pipe)
        assert "is a quantised copy of" in edit.apply_to(pipe).note


def test_what_a_quantised_base_cannot_do_is_one_line() -> None:
    """Another text encoder, another family, an edit of before, an edit of weights, a method."""
    edit, pipe = made("sd1"), tiny.pipeline("sd1")
    nf4(pipe)
    view = open_model(pipe, may_be_fixed=True)
    other = tiny.pipeline("sd1", seed=1)
    with torch.no_grad():
        other.text_encoder.get_parameter("final_layer_norm.weight").mul_(1.1)
    nf4(other)
    sister = tiny.pipeline("sdxl")
    nf4(sister)
    bare = edit.stamped(replace(edit.origin, text_side={}))
    faults = [
        (lambda: edit.apply_to(other), EditError, "no quantised copy of .*: their text encoders differ"),
        (lambda: edit.apply_to(sister), (EditError, ModelError), "another family|of sdxl"),
        (lambda: bare.apply_to(pipe), EditError, "does not tell its base's text encoders: make it anew"),
        (lambda: as_delta(edit).apply_to(pipe), EditError, "unet has quantised weights, and the edit changes"),
        (lambda: UCE().erase(view, REQUEST), ModelError, "erases from plain weights, and of .* its unet has quantised"),
        (lambda: open_model(pipe), ModelError, "has quantised weights: load the pipeline in float32"),
    ]
    for fault, kind, said in faults:
        with pytest.raises(kind, match=said) as error:
            fault()
        assert len(str(error.value).splitlines()) == 1


def as_delta(edit):
    """A change of whole weights, which nothing but weights can hold."""
    return DenseEdit({name: torch.zeros(16, 32) for name in edit.names[:1]})
