"""Names of a model's modules in other tools: kohya's LoRAs, ComfyUI's patches, PEFT and diffusers.

An export writes these names, an import looks them up in reverse.
"""

from collections.abc import Iterator

from ...core.errors import EditError
from ...models.family import TextEncoderSpec
from ...models.layouts.clip import with_text_model
from ...models.layouts.layout import ModelLayout
from ...models.layouts.packing import Packing

# ComfyUI's suffix of a patch for each kind of tensor; others keep their full names and get `.diff`.
_PATCH_SUFFIXES = {".weight": ".diff", ".bias": ".diff_b"}


def kohya_name(name: str, layout: ModelLayout) -> tuple[str, Packing]:
    """Return kohya's name for the module of a weight, and the weight's packing in it.

    The names follow diffusers for SD 1.x and 2.x and the original network otherwise. A1111, Forge, ComfyUI and
    diffusers read them. `name` is a weight's full name.
    """
    part, module = _module(name)
    if part == layout.denoiser:
        key, laid = (
            (f"{module}.weight", Packing())
            if layout.spec.has_diffusers_loras
            else layout.denoiser_tensor(name.partition(".")[2])
        )
        return "lora_unet_" + key.removesuffix(".weight").replace(".", "_"), laid
    encoder = _encoder(name, layout)
    return encoder.kohya + _text_module(module, encoder).replace(".", "_"), Packing()


def comfyui_name(name: str, layout: ModelLayout) -> tuple[str, Packing]:
    """Return the tensor's name in ComfyUI's networks, and the parameter's packing in it.

    `name` is the full name of a parameter.
    """
    part, module = _module(name)
    if part == layout.denoiser:
        key, laid = layout.denoiser_tensor(name.partition(".")[2])
        return f"diffusion_model.{key}", laid
    encoder, kind = _encoder(name, layout), name[len(part) + 1 + len(module) :]
    return f"text_encoders.{encoder.comfyui}.transformer.{_text_module(module, encoder)}{kind}", Packing()


def comfyui_patch(name: str, layout: ModelLayout) -> tuple[str, Packing]:
    """Return the name of the full patch of a tensor, and the parameter's packing in it."""
    key, laid = comfyui_name(name, layout)
    end = next((end for end in _PATCH_SUFFIXES if key.endswith(end)), "")
    return f"{key.removesuffix(end)}{_PATCH_SUFFIXES.get(end, '.diff')}", laid


def lora_name_candidates(name: str, layout: ModelLayout | None) -> Iterator[tuple[str, Packing]]:
    """Yield every name that a LoRA may use for a parameter's module, with the parameter's packing in it.

    Without a layout it yields only the names of diffusers.
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
    encoder = _encoder(name, layout)
    text, number = _text_module(module, encoder), layout.spec.encoders.index(encoder) + 1
    yield from ((f"{part}.{text}", whole), (f"lora_te{number}_{text.replace('.', '_')}", whole))


def _module(name: str) -> tuple[str, str]:
    part, _, rest = name.partition(".")
    return part, rest.removesuffix(".weight").removesuffix(".bias")


def _text_module(module: str, encoder: TextEncoderSpec) -> str:
    """Add to a CLIP module the prefix `text_model.` that older libraries and all other tools use."""
    return module if encoder.kind == "t5" else with_text_model(module)


def _encoder(name: str, layout: ModelLayout) -> TextEncoderSpec:
    part = name.partition(".")[0]
    encoder = layout.spec.encoder(part)
    if encoder is None:
        raise EditError(f"{name}: the chosen tool loads no patch of a {part}; export --to single-file or diffusers")
    return encoder
