"""SD 1.4, SDXL, FLUX.1 and Z-Image in their own shapes, with random weights made on the device.

What `accelerator` does there.
"""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from benchmarks.shape_encoders import QWEN3_4B, T5_XXL
from benchmarks.shapes import FLUX
from tests import toy_text
from unconcept.core import Request
from unconcept.methods import methods
from unconcept.models.checkpoint.config import read_config
from unconcept.models.checkpoint.pipeline import packaged_tokenizers
from unconcept.models.checkpoint.published import VOCABULARIES
from unconcept.models.precision import dtype_policy
from unconcept.models.views import PipelineView, view_of_pipeline

SHAPE_NAMES = ("sd14", "sdxl", "flux", "zimage")
PACKAGED = VOCABULARIES["clip"].parent
FOLDERS = {"sd14": "stable-diffusion-1", "sdxl": "stable-diffusion-xl"}
REQUEST = Request(("dog face",), ("goat",), ("cat",))
STEPS, GUIDANCE = 4, 5.0
ESD = {"iterations": 3, "ddim_steps": 2, "pool": 1}
NARROW = ("flux", "zimage")  # published in bfloat16: FLUX.1 overflows in float16
FLOW_VAE = {
    "latent_channels": 16,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "sample_size": 1024,
}
ROOM = 1.25  # of the weights' size, for what is computed with them


def measure_shape(name: str, device: torch.device) -> Iterator[tuple[str, str, Callable[[], float | None]]]:
    """What is tried in a shape: first the device's own float32, then each data type beside it."""
    wanted: dict[str, Tensor] = {}
    for dtype in ("float32", "auto", "float16", "bfloat16"):
        if name in NARROW and dtype == "float16":
            continue
        model: dict[str, PipelineView] = {}
        yield "open", dtype, partial(_open, name, device, dtype, model)
        for what in ("draw", "uce", "esd"):
            if what != "esd" or dtype in ("float32", "auto"):
                yield what, dtype, partial(_tried, what, dtype, model, wanted)
        model.clear()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _open(name: str, device: torch.device, dtype: str, model: dict[str, PipelineView]) -> None:
    """Build the pipeline. `torch.OutOfMemoryError` if its weights would not fit, before any is made."""
    policy = dtype_policy(dtype, device)
    if device.type == "cuda":
        needed = sum(
            p.numel() for part in networks_of(name, "meta", policy.computing).values() for p in part.parameters()
        )
        free, _ = torch.cuda.mem_get_info(device)
        if needed * policy.computing.itemsize * ROOM > free:
            raise torch.OutOfMemoryError(
                f"{needed / 1e9:.1f} G weights in {policy.computing}, {free / 1e9:.0f} GB free"
            )
    view = view_of_pipeline(_pipeline(name, device, policy.computing), name)
    view.drawing_dtype = policy.drawing
    model[name] = view


def _tried(what: str, dtype: str, model: dict[str, PipelineView], wanted: dict[str, Tensor]) -> float | None:
    """How far from float32; None for float32 itself, and where it did not fit."""
    if not model:
        raise torch.OutOfMemoryError("the model was not built")
    (view,) = model.values()
    found = _drawn(view) if what == "draw" else _edited(view, what)
    if not bool(torch.isfinite(found).all()):
        raise FloatingPointError("NaN or infinity")
    if dtype == "float32":
        wanted[what] = found
    if dtype == "float32" or what not in wanted:
        return None
    if what == "draw":
        return float((found - wanted[what]).abs().max())
    return float((found - wanted[what]).norm() / wanted[what].norm())


def _drawn(view: PipelineView) -> Tensor:
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    return view.sample(["a dog face"], noise, STEPS, GUIDANCE)


def _edited(view: PipelineView, name: str) -> Tensor:
    """The first changed weight of an edit, as one number a row."""
    torch.manual_seed(0)
    edit = methods[name].settings(**(ESD if name == "esd" else {})).erase(view, REQUEST)
    first = edit.names[0]
    return edit.delta(first, view.reference([first])[first]).double().sum(1).cpu()


def networks_of(name: str, device: torch.device | str, dtype: torch.dtype) -> dict[str, nn.Module]:
    """All networks of a pipeline, with the random weights that their classes begin with."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            torch.manual_seed(0)
            own = {"flux": _flux_networks, "zimage": _z_image_networks}
            return own[name]() if name in own else _unet_networks(FOLDERS[name])
    finally:
        torch.set_default_dtype(before)


def _unet_networks(name: str) -> dict[str, nn.Module]:
    index = read_config(PACKAGED / name / "model_index.json")
    found: dict[str, nn.Module] = {}
    for part, (library, kind) in ((part, told) for part, told in index.items() if isinstance(told, list)):
        if part in ("unet", "vae"):
            found[part] = getattr(diffusers, kind).from_config(read_config(PACKAGED / name / part / "config.json"))
        elif library == "transformers" and part.startswith("text_encoder"):
            config = read_config(PACKAGED / name / part / "config.json")
            found[part] = getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
    return found


def _flux_networks() -> dict[str, nn.Module]:
    clip = read_config(PACKAGED / FOLDERS["sd14"] / "text_encoder/config.json")
    return {
        "transformer": diffusers.FluxTransformer2DModel(**FLUX),
        "vae": diffusers.AutoencoderKL(**FLOW_VAE),
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**clip)),
        "text_encoder_2": transformers.T5EncoderModel(transformers.T5Config(**T5_XXL)),
    }


def _z_image_networks() -> dict[str, nn.Module]:
    return {
        "transformer": diffusers.ZImageTransformer2DModel(),
        "vae": diffusers.AutoencoderKL(**FLOW_VAE),
        "text_encoder": transformers.Qwen3Model(transformers.Qwen3Config(**QWEN3_4B)),
    }


def _pipeline(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    networks = {part: network.eval() for part, network in networks_of(name, device, dtype).items()}
    if name == "flux":
        words = {
            "tokenizer": packaged_tokenizers(PACKAGED / FOLDERS["sd14"])["tokenizer"],
            "tokenizer_2": toy_text.t5(48)[1],
        }
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        return diffusers.FluxPipeline(scheduler=scheduler, **networks, **words)
    if name == "zimage":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        return diffusers.ZImagePipeline(scheduler=scheduler, tokenizer=toy_text.qwen3(8)[1], **networks)
    folder = PACKAGED / FOLDERS[name]
    index = read_config(folder / "model_index.json")
    scheduler = getattr(diffusers, index["scheduler"][1]).from_config(
        read_config(folder / "scheduler/scheduler_config.json")
    )
    more: dict[str, Any] = {"feature_extractor": None, "image_encoder": None}
    more |= {"add_watermarker": False} if name == "sdxl" else {"safety_checker": None, "requires_safety_checker": False}
    kind = getattr(diffusers, index["_class_name"])
    return kind(scheduler=scheduler, **networks, **packaged_tokenizers(folder), **more)
