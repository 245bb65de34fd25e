"""What is computed in which data type. No accelerator is needed: the narrow type is asked for on the CPU."""

import pytest
import torch

from tests import tiny
from tests.methods.quick import QUICK
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.methods import methods
from unconcept.models.precision import DtypePolicy, dtype_policy

FAMILIES = (*tiny.FAMILIES, *tiny.MMDITS, "pixart")


@pytest.mark.parametrize(
    ("name", "device", "computing", "drawing", "said"),
    [
        ("auto", "cpu", torch.float32, torch.float32, "float32"),
        ("auto", "mps", torch.float32, torch.float32, "float32"),
        ("auto", "cuda", torch.float32, torch.float16, "float32, pictures in float16"),
        ("auto", "cuda:1", torch.float32, torch.float16, "float32, pictures in float16"),
        ("float16", "cuda", torch.float16, torch.float16, "float16"),
        ("bfloat16", "cpu", torch.bfloat16, torch.bfloat16, "bfloat16"),
    ],
)
def test_the_policy_of_a_device(name, device, computing, drawing, said) -> None:
    policy = dtype_policy(name, torch.device(device))
    assert (policy, str(policy)) == (DtypePolicy(computing, drawing), said)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(SettingsError, match="'int8': allowed are auto, float64"):
        dtype_policy("int8", torch.device("cpu"))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_denoiser_and_autoencoder_draw_in_the_narrow_type(family) -> None:
    """Text encoders stay wide, pictures move by rounding alone, and nothing of it is left on the networks."""
    view = tiny.view(family, torch.float32)
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    steps = 2 if family != "pixart" else 5  # DPM-Solver's first steps say little
    wide = view.sample(["a dog"], noise, steps, 3.0)
    seen: dict[str, set[torch.dtype]] = {}
    parts = {"denoiser": view.modules("denoiser"), "vae": view.modules("vae").decoder}
    parts |= {encoder.part: view.modules(encoder.part) for encoder in view.spec.encoders}
    for part, module in parts.items():
        layer = next(inner for inner in module.modules() if isinstance(inner, torch.nn.Linear))
        layer.register_forward_hook(lambda _, __, out, part=part: seen.setdefault(part, set()).add(out.dtype))
    view.modules("vae").register_to_config(force_upcast=False)
    view.drawing_dtype = torch.bfloat16
    narrow = view.sample(["a dog"], noise, steps, 3.0)
    assert seen == {part: {torch.bfloat16 if part in ("denoiser", "vae") else torch.float32} for part in parts}
    assert 0 < (narrow - wide).abs().max() < 0.1
    assert {p.dtype for module in parts.values() for p in module.parameters()} == {torch.float32}
    assert not {"forward", "decode"} & {*vars(view.modules("denoiser")), *vars(view.modules("vae"))}
    view.drawing_dtype = None
    assert torch.equal(view.sample(["a dog"], noise, steps, 3.0), wide)


def test_an_autoencoder_that_overflows_stays_wide() -> None:
    """SDXL's own pipeline upcasts it, where its config says so."""
    view = tiny.view("sdxl", torch.float32)
    view.drawing_dtype = torch.bfloat16
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    for force, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        view.modules("vae").register_to_config(force_upcast=force)
        seen = []
        layer = next(m for m in view.modules("vae").decoder.modules() if isinstance(m, torch.nn.Linear))
        handle = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.dtype))
        view.sample(["a dog"], noise, 1, 3.0)
        handle.remove()
        assert seen == [dtype]


@pytest.mark.parametrize("name", ["uce", "esd"])
def test_edits_do_not_depend_on_the_type_of_pictures(name) -> None:
    """Closed forms and trainings compute wide: the same bits, whatever is drawn in."""
    request = Request(("dog",), ("cat",))
    edits = []
    for drawing in (None, torch.bfloat16):
        view = tiny.view("sd1", torch.float32)
        view.drawing_dtype = drawing
        edits.append(methods[name].settings(**QUICK.get(name, {})).erase(view, request))
    assert edits[0].hash == edits[1].hash
