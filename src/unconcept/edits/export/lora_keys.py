"""What each tool calls the modules of a model: the names of kohya's LoRAs, ComfyUI's patches, PEFT and diffusers.

Exports write by these names, and an import looks them up the other way round.
"""

from collections.abc import Iterator

from ...core.errors import EditError
from ...models.family import TextEncoderSpec
from ...models.layouts.clip import with_text_model
from ...models.layouts.layout import ModelLayout
from ...models.layouts.packing import Packing

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
            if layout.spec.has_diffusers_loras
            else layout.denoiser_tensor(name.partition(".")[2])
        )
        return "lora_unet_" + key.removesuffix(".weight").replace(".", "_"), laid
    encoder = _encoder(name, layout)
    return encoder.kohya + _text_module(module, encoder).replace(".", "_"), Packing()


def comfyui_name(name: str, layout: ModelLayout) -> tuple[str, Packing]:
    """As ComfyUI's own networks name a tensor, and where in that it lies. `name` is the full name of a parameter."""
    part, module = _module(name)
    if part == layout.denoiser:
        key, laid = layout.denoiser_tensor(name.partition(".")[2])
        return f"diffusion_model.{key}", laid
    encoder, kind = _encoder(name, layout), name[len(part) + 1 + len(module) :]
    return f"text_encoders.{encoder.comfyui}.transformer.{_text_module(module, encoder)}{kind}", Packing()


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
    encoder = _encoder(name, layout)
    text, number = _text_module(module, encoder), layout.spec.encoders.index(encoder) + 1
    yield from ((f"{part}.{text}", whole), (f"lora_te{number}_{text.replace('.', '_')}", whole))


def _module(name: str) -> tuple[str, str]:
    part, _, rest = name.partition(".")
    return part, rest.removesuffix(".weight").removesuffix(".bias")


def _text_module(module: str, encoder: TextEncoderSpec) -> str:
    """A CLIP's with the `text_model.` that older libraries and all other tools put before it."""
    return module if encoder.kind == "t5" else with_text_model(module)


def _encoder(name: str, layout: ModelLayout) -> TextEncoderSpec:
    part = name.partition(".")[0]
    encoder = layout.spec.encoder(part)
    if encoder is None:
        raise EditError(f"{name}: these tools load no patch of a {part}; export --to single-file or diffusers")
    return encoder
