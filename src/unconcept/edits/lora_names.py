"""What each tool calls the modules of a model: the names of kohya's LoRAs, ComfyUI's patches, PEFT and diffusers.

Exports write by these names, and an import looks them up the other way round.
"""

from collections.abc import Iterator

from ..core.errors import EditError, require
from ..models.original_names import TEXT, Layout

COMFYUI_CLIP = {"sd1": ("clip_l",), "sd2": ("clip_h",), "sdxl": ("clip_l", "clip_g")}


def kohya_name(name: str, layout: Layout) -> str:
    """As kohya's trainer names it: after diffusers for SD 1.x and 2.x, after the original network for SDXL.

    A1111, Forge, ComfyUI and diffusers read these. `name` is a weight's full name.
    """
    part, module = _module(name)
    if part == "unet":
        return "lora_unet_" + (layout.unet_module(module) if layout.family == "sdxl" else module).replace(".", "_")
    number = _encoder(name, part, layout)
    prefix = f"lora_te{number + 1}_" if layout.family == "sdxl" else "lora_te_"
    return prefix + _text_module(module).replace(".", "_")


def comfyui_name(name: str, layout: Layout) -> str:
    """As ComfyUI's own networks name it. `name` is the full name of a weight or a bias."""
    part, module = _module(name)
    if part == "unet":
        return f"diffusion_model.{layout.unet_module(module)}"
    clip = COMFYUI_CLIP[layout.family][_encoder(name, part, layout)]
    return f"text_encoders.{clip}.transformer.{_text_module(module)}"


def known_names(name: str, layout: Layout | None) -> Iterator[str]:
    """Every name under which a LoRA may mean a parameter; families without an original layout go by diffusers' alone."""
    part, module = _module(name)
    yield f"{part}.{module}"
    yield module
    if layout is None or part == "vae":
        return
    if part == "unet":
        flat = module.replace(".", "_")
        yield from (f"lora_unet_{flat}", f"lycoris_{flat}", kohya_name(name, layout), comfyui_name(name, layout))
        yield "lora_unet_" + layout.unet_module(module).replace(".", "_")
        return
    text, number = _text_module(module), _encoder(name, part, layout)
    yield from (f"{part}.{text}", kohya_name(name, layout), comfyui_name(name, layout), f"lora_te{number + 1}_{text.replace('.', '_')}")


def _module(name: str) -> tuple[str, str]:
    part, _, rest = name.partition(".")
    return part, rest.removesuffix(".weight").removesuffix(".bias")


def _text_module(module: str) -> str:
    """With the `text_model.` that older libraries and all other tools put before it."""
    inner = module.removeprefix("text_model.")
    return inner if inner == "text_projection" else f"text_model.{inner}"


def _encoder(name: str, part: str, layout: Layout) -> int:
    """0 for the first text encoder, 1 for the second."""
    parts = list(TEXT[layout.family])
    require(part in parts, f"{name}: these tools load no patch of a {part}; export --to single-file or diffusers", EditError)
    return parts.index(part)
