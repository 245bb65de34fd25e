"""Names of a model's modules in other tools: kohya's LoRAs, ComfyUI's patches, PEFT and diffusers.

An export writes these names, an import looks them up in reverse.
"""

import re
from collections.abc import Iterator

from ...core.errors import EditError, require
from ...models.family import TextEncoderSpec
from ...models.layouts.clip import with_text_model
from ...models.layouts.layout import DENOISER_PREFIX, ModelLayout
from ...models.layouts.packing import Packing

# ComfyUI's suffix of a patch for each kind of tensor; others keep their full names and get `.diff`.
_DOUBLE_ATTENTION = re.compile(r"double_blocks\.(\d+)\.(img|txt)_attn\.(qkv|proj)")
_SINGLE_MAPS = re.compile(r"single_blocks\.(\d+)\.linear([12])")
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


def shared_lora_name(name: str, layout: ModelLayout) -> tuple[str, Packing]:
    """Return the name by which ComfyUI and diffusers both find a weight's module, and the weight's packing in it.

    `EditError` for a text encoder's weight, and in families without such names.
    """
    part, module = _module(name)
    spelling = layout.spec.shared_lora
    message = f"{name}: no LoRA name is known that both ComfyUI and diffusers load: export --to kohya"
    require(part == layout.denoiser and bool(spelling), message, EditError)
    if spelling != "original":
        return f"{spelling}.{module}", Packing()
    key, laid = comfyui_name(name, layout)
    return key.removesuffix(".weight"), laid


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

    Besides kohya's names and those of diffusers: OneTrainer's and ai-toolkit's flat ones, ComfyUI's, BFL's, XLabs' and
    those of single files. Without a layout it yields only the names of diffusers.
    """
    part, module = _module(name)
    whole = Packing()
    yield from ((f"{part}.{module}", whole), (module, whole))
    if part in ("unet", "transformer"):
        flat = module.replace(".", "_")
        yield from ((f"{start}_{flat}", whole) for start in ("lora_unet", "lycoris", "lora_transformer"))
        yield f"diffusion_model.{module}", whole
    if layout is None or part == "vae":
        return
    native, laid = comfyui_name(name, layout)
    native = native.removesuffix(".weight").removesuffix(".bias")
    yield from ((native, laid), kohya_name(name, layout))
    if part == layout.denoiser:
        bare = native.removeprefix("diffusion_model.")
        yield from ((f"lora_unet_{bare.replace('.', '_')}", laid), (bare, laid), (f"{DENOISER_PREFIX}{bare}", laid))
        for own, place in _xlabs_names(bare, laid):
            yield from ((own, place), (f"diffusion_model.{own}", place))
        return
    yield from _encoder_names(name, module, layout)


def _encoder_names(name: str, module: str, layout: ModelLayout) -> Iterator[tuple[str, Packing]]:
    """Yield the names of a text encoder's module in ComfyUI, in single files, and with the encoder's number."""
    part, whole, encoder = name.partition(".")[0], Packing(), _encoder(name, layout)
    text, number = _text_module(module, encoder), layout.spec.encoders.index(encoder) + 1
    yield from ((f"{part}.{text}", whole), (text, whole), (f"lora_te{number}_{text.replace('.', '_')}", whole))
    yield from ((f"{encoder.comfyui}.{start}{text}", whole) for start in ("", "transformer."))
    stored = layout.in_single_file(name)
    if stored is not None and stored[0].endswith(".weight"):
        yield stored[0].removesuffix(".weight"), stored[1]


def _xlabs_names(native: str, laid: Packing) -> Iterator[tuple[str, Packing]]:
    """Yield the names in XLabs' files, without `.processor`: 1 is the picture's side and 2 the text's."""
    if found := _DOUBLE_ATTENTION.fullmatch(native):
        yield f"double_blocks.{found[1]}.{found[3]}_lora{1 if found[2] == 'img' else 2}", laid
    elif (found := _SINGLE_MAPS.fullmatch(native)) and found[2] == "2":
        yield f"single_blocks.{found[1]}.proj", laid
    elif found and laid.rows[1] == 1:  # Their pair leaves the feed-forward rows of linear1 out.
        yield f"single_blocks.{found[1]}.qkv", Packing((laid.rows[0], 1, 3))


def weight_name_candidates(name: str, layout: ModelLayout | None) -> Iterator[tuple[str, Packing]]:
    """Yield every name that a file of whole weights may use for a parameter, with the parameter's packing in it.

    They are diffusers' names, with or without the part's, and those of single files, ComfyUI and BFL.
    """
    part, _, rest = name.partition(".")
    whole = Packing()
    yield from ((name, whole), (rest, whole))
    if part.startswith("text_encoder"):
        yield from ((f"{part}.{with_text_model(rest)}", whole), (with_text_model(rest), whole))
    stored = None if layout is None or part == "vae" else layout.in_single_file(name)
    if stored is None or layout is None:
        return
    yield stored
    if part == layout.denoiser:
        bare = stored[0].removeprefix(DENOISER_PREFIX)
        yield from ((bare, stored[1]), (f"diffusion_model.{bare}", stored[1]))


def _module(name: str) -> tuple[str, str]:
    part, _, rest = name.partition(".")
    return part, rest.removesuffix(".weight").removesuffix(".bias")


def _text_module(module: str, encoder: TextEncoderSpec) -> str:
    """Add to a CLIP module the prefix `text_model.` that older libraries and all other tools use."""
    return with_text_model(module) if encoder.kind == "clip" else module


def _encoder(name: str, layout: ModelLayout) -> TextEncoderSpec:
    part = name.partition(".")[0]
    encoder = layout.spec.encoder(part)
    if encoder is None:
        raise EditError(f"{name}: the chosen tool loads no patch of a {part}; export --to single-file or diffusers")
    return encoder
