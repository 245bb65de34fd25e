"""Applies an edit to ComfyUI's model and text encoder patchers, through their public methods alone.

A change of weights becomes patches `("diff", (delta,))`. A map on the text changes no weight: it is put around the
denoiser's call, or around the layer that reads the text where another layer stands before, so it works on fp8 and
GGUF models as on any other.
"""

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from .edit_file import StoredEdit, weight_changes

_DENOISERS = ("unet.", "transformer.")
_ENCODERS = {"text_encoder": ("lora_te_", "lora_te1_"), "text_encoder_2": ("lora_te2_",)}
_TEXT_MAPS = (".attn2.to_k.weight", ".attn2.to_v.weight", ".context_embedder.weight", ".txt_in.weight")
# Families whose text maps read the conditioning itself.
_TEXT_AS_GIVEN = ("sd1", "sd2", "sdxl", "sd3", "flux", "chroma", "flux2", "flux2_klein")


def add_edit(
    edit: StoredEdit, model: Any, clip: Any, strength: float, keys: Callable[[Any, Any], tuple[Mapping[str, Any], ...]]
) -> tuple[Any, Any]:
    """Return copies of the patchers with the edit. `keys` gives the tables of LoRA names of model and text encoder."""
    if edit.kind == "text_map":
        return add_text_map(edit, model, strength), clip
    of_model, of_clip = keys(model, clip)
    changes = weight_changes(edit)
    denoiser = {name: delta for name, delta in changes.items() if name.startswith(_DENOISERS)}
    encoders = {name: delta for name, delta in changes.items() if name not in denoiser}
    if encoders and clip is None:
        raise ValueError(f"{edit.name} changes text encoders too: connect CLIP")
    if denoiser:
        patches = _patches(edit, denoiser, of_model, model.model.state_dict())
        model = model.clone()
        model.add_patches(patches, strength)
    if encoders:
        patches = _patches(edit, encoders, of_clip, clip.cond_stage_model.state_dict())
        clip = clip.clone()
        clip.add_patches(patches, strength)
    return model, clip


def _patches(
    edit: StoredEdit, changes: Mapping[str, Tensor], keys: Mapping[str, Any], state: Mapping[str, Any]
) -> dict[Any, tuple[str, tuple[Tensor]]]:
    """The patches of changes, by place; `ValueError` names the first weight that is missing or of another shape.

    ComfyUI itself only tells its log of either, and draws without the patch.
    """
    found = {}
    for name, delta in changes.items():
        # Its key; where it is a slice of a fused weight, with dimension, start and length.
        place = next((keys[known] for known in lora_names(name) if known in keys), None)
        key, offset = (place[0], place[1]) if isinstance(place, tuple) else (place, None)
        shape = list(state[key].shape) if key in state else []
        if shape and offset is not None:
            shape[offset[0]] = offset[2]
        if not shape or prod(shape) != delta.numel():
            has = f"has {name} as {tuple(shape)}" if shape else f"has no {name}"
            raise ValueError(f"{edit.name} is for {edit.family}, and this model {has}: load a model of its own")
        found[place] = ("diff", (delta.reshape(shape),))
    return found


def lora_names(name: str) -> Iterable[str]:
    """Names that a LoRA gives the module of a weight, by the weight's full name in a diffusers folder."""
    part, _, rest = name.partition(".")
    if not rest.endswith(".weight"):
        return
    module = rest.removesuffix(".weight")
    flat = module.replace(".", "_")
    if part == "unet":
        yield f"lora_unet_{flat}"
    elif part == "transformer":
        yield from (f"transformer.{module}", f"lora_transformer_{flat}", f"diffusion_model.{module}")
    for prefix in _ENCODERS.get(part, ()):
        yield f"{prefix}text_model_{flat.removeprefix('text_model_')}"


def add_text_map(edit: StoredEdit, model: Any, strength: float) -> Any:
    """A copy of a model patcher whose denoiser reads s + strength (s y^T) x in place of each text state s."""
    if edit.family not in _TEXT_AS_GIVEN:
        return _add_to_layers(edit, model, strength)
    own = [key for key in model.model.state_dict() if f".{key}".endswith(_TEXT_MAPS)]
    if len(own) != len(edit.maps):
        raise ValueError(
            f"{edit.name} is for {edit.family}: it maps the text of {len(edit.maps)} weights, and this model has"
            f" {len(own)}: load a model of its own, or export the edit"
        )
    copied = model.clone()
    before = copied.model_options.get("model_function_wrapper")

    def mapped(apply_model: Callable[..., Any], given: dict[str, Any]) -> Any:
        moved = _mapped_states(edit, given["c"]["c_crossattn"], strength)
        given = {**given, "c": {**given["c"], "c_crossattn": moved}}
        if before is not None:
            return before(apply_model, given)
        return apply_model(given["input"], given["timestep"], **given["c"])

    copied.set_model_unet_function_wrapper(mapped)
    return copied


def _add_to_layers(edit: StoredEdit, model: Any, strength: float) -> Any:
    """The same, put before the layers that read the text."""
    copied = model.clone()
    for name in edit.maps:
        place = f"diffusion_model.{name.partition('.')[2].removesuffix('.weight')}.forward"
        try:
            read = copied.get_model_object(place)
        except AttributeError:
            raise ValueError(f"{edit.name} is for {edit.family}, and this model has no {place}") from None
        copied.add_object_patch(place, _reading_mapped_states(edit, read, strength))
    return copied


def _reading_mapped_states(
    edit: StoredEdit, read: Callable[[Tensor], Tensor], strength: float
) -> Callable[[Tensor], Tensor]:
    return lambda states: read(_mapped_states(edit, states, strength))


def _mapped_states(edit: StoredEdit, states: Tensor, strength: float) -> Tensor:
    """s + strength (s y^T) x of states (..., d)."""
    x, y = edit.tensors["x"], edit.tensors["y"]
    if states.shape[-1] != x.shape[1]:
        raise ValueError(f"{edit.name} maps texts of width {x.shape[1]}, and this model's have {states.shape[-1]}")
    wide = torch.promote_types(states.dtype, x.dtype)
    own_x, own_y = (side.to(states.device, wide) for side in (x, y))
    return (states.to(wide) + strength * (states.to(wide) @ own_y.T) @ own_x).to(states.dtype)
