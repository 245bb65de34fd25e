"""What each tool calls the modules of a model: the names of kohya's LoRAs, ComfyUI's patches, PEFT and diffusers.

Exports write by these names, and an import looks them up the other way round.
"""

from collections.abc import Iterator

from ...core.errors import EditError, require
from ...models.family import Family
from ...models.layouts.layout import SINGLE_FILE_ENCODERS, ModelLayout
from ...models.layouts.packing import Packing

_COMFYUI_ENCODERS = {
    "sd1": ("clip_l",),
    "sd2": ("clip_h",),
    "sdxl": ("clip_l", "clip_g"),
    "sd3": ("clip_l", "clip_g", "t5xxl"),
    "flux": ("clip_l", "t5xxl"),
}
_KOHYA_ENCODERS: dict[Family, tuple[str, ...]] = {  # kohya calls T5 the third encoder in FLUX too
    **dict.fromkeys(("sd1", "sd2"), ("lora_te_",)),
    "sdxl": ("lora_te1_", "lora_te2_"),
    "sd3": ("lora_te1_", "lora_te2_", "lora_te3_"),
    "flux": ("lora_te1_", "lora_te3_"),
}
_DIFFUSERS_NAMED_UNETS = ("sd1", "sd2")  # whose LoRAs go by diffusers' names
# What ComfyUI calls the patch of each; of other tensors by their full names.
_PATCH_SUFFIXES = {".weight": ".diff", ".bias": ".diff_b"}


def kohya_name(name: str, layout: ModelLayout) -> tuple[str, Packing]:
    """As kohya's trainer names a weight's module, after diffusers for SD 1.x and 2.x, else after the original network;
    and where the weight lies in it.

    A1111, Forge, ComfyUI and diffusers read these. `name` is a weight's full name.
    """
    part, module = _module(name)
    if part == layout.denoiser:
        key, laid = (
            (f"{module}.weight", Packing())
            if layout.family in _DIFFUSERS_NAMED_UNETS
            else layout.denoiser_tensor(name.partition(".")[2])
        )
        return "lora_unet_" + key.removesuffix(".weight").replace(".", "_"), laid
    return (
        _KOHYA_ENCODERS[layout.family][_encoder(name, part, layout)]
        + _text_module(module, part, layout).replace(".", "_"),
        Packing(),
    )


def comfyui_name(name: str, layout: ModelLayout) -> tuple[str, Packing]:
    """As ComfyUI's own networks name a tensor, and where in that it lies. `name` is the full name of a parameter."""
    part, module = _module(name)
    if part == layout.denoiser:
        key, laid = layout.denoiser_tensor(name.partition(".")[2])
        return f"diffusion_model.{key}", laid
    clip = _COMFYUI_ENCODERS[layout.family][_encoder(name, part, layout)]
    return (
        f"text_encoders.{clip}.transformer.{_text_module(module, part, layout)}{name[len(part) + 1 + len(module) :]}",
        Packing(),
    )


def comfyui_patch(name: str, layout: ModelLayout) -> tuple[str, Packing]:
    """The name of a full patch of a tensor."""
    key, laid = comfyui_name(name, layout)
    end = next((end for end in _PATCH_SUFFIXES if key.endswith(end)), "")
    return f"{key.removesuffix(end)}{_PATCH_SUFFIXES.get(end, '.diff')}", laid


def lora_name_candidates(name: str, layout: ModelLayout | None) -> Iterator[tuple[str, Packing]]:
    """Every name under which a LoRA may mean a parameter's module, and where in that it lies; without a layout
    diffusers' alone.
    """
    part, module = _module(name)
    whole = Packing()
    yield from ((f"{part}.{module}", whole), (module, whole))
    if layout is None or part == "vae":
        return
    native, laid = comfyui_name(name, layout)
    native = native.removesuffix(".weight").removesuffix(".bias")
    yield from ((native, laid), kohya_name(name, layout))
    if part == layout.denoiser:
        flat = module.replace(".", "_")
        yield from ((f"{start}_{flat}", whole) for start in ("lora_unet", "lycoris", "lora_transformer"))
        yield f"lora_unet_{native.removeprefix('diffusion_model.').replace('.', '_')}", laid
        return
    text, number = _text_module(module, part, layout), _encoder(name, part, layout)
    yield from ((f"{part}.{text}", whole), (f"lora_te{number + 1}_{text.replace('.', '_')}", whole))


def _module(name: str) -> tuple[str, str]:
    part, _, rest = name.partition(".")
    return part, rest.removesuffix(".weight").removesuffix(".bias")


def _text_module(module: str, part: str, layout: ModelLayout) -> str:
    """A CLIP's with the `text_model.` that older libraries and all other tools put before it."""
    if SINGLE_FILE_ENCODERS[layout.family][part][1] == "t5":
        return module
    inner = module.removeprefix("text_model.")
    return inner if inner == "text_projection" else f"text_model.{inner}"


def _encoder(name: str, part: str, layout: ModelLayout) -> int:
    """0 for the first text encoder."""
    parts = list(SINGLE_FILE_ENCODERS[layout.family])
    require(
        part in parts, f"{name}: these tools load no patch of a {part}; export --to single-file or diffusers", EditError
    )
    return parts.index(part)
