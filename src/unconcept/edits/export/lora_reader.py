"""Reads LoRAs and patches of other tools (ESD, SPM, ACE, LECO, our own exports) as edits.

It reads files of kohya's trainer, OneTrainer, ai-toolkit, SimpleTuner, XLabs and BFL, old and new LoRAs of diffusers,
PEFT folders, and full patches (`.diff`, `.set_weight`). An adapter with a gate, such as SPM's, becomes the static LoRA
of its file, because the file does not contain the gate.
"""

import torch
from torch import Tensor

from ...core.errors import EditError, require
from ...models.layouts.packing import Packing
from ..weight_edits import DenseEdit, LowRankEdit
from .base_tensors import BaseTensors
from .lora_file import LoraFile, Patch
from .target_family import family_hint, require_same_family

_Pair = tuple[Tensor, Tensor]
_SPLIT_PARTS = {"qkv": 3, "linear1": 4}  # maps that FLUX packs into one, and trainers may train apart


def edit_of_lora(file: LoraFile, base: BaseTensors) -> LowRankEdit | DenseEdit:
    """Give each patch of a file its place in the model. Raises `EditError` if one has none, or two have the same."""
    require_same_family(file.header, base)
    patches, known = file.patches, base.modules
    require(bool(patches), "it holds no LoRA and no patch: give another file", EditError)
    _require_places(file, base)
    meant = [name for module in patches for name in known[module]]
    twice = len(meant) - len(set(meant))
    require(not twice, f"it holds {twice} of its {len(patches)} modules under two names: keep one", EditError)
    pairs: dict[str, _Pair] = {}
    deltas: dict[str, Tensor] = {}
    for module, patch in patches.items():
        for name, laid in known[module].items():
            if "down" in patch.tensors:
                pairs[name] = _pair(module, patch, base.shapes[name], laid)
            deltas |= _deltas(module, patch, name, base, laid)
    for key, tensor in file.others.items():
        deltas |= base.differences(key, tensor)
    if not deltas:
        return LowRankEdit(pairs)
    full = {name: (up @ down).reshape(base.shapes[name]) for name, (up, down) in pairs.items()}
    return DenseEdit(full | deltas)


def split_qkv_note(file: LoraFile) -> str | None:
    """Say at which strength a file is read whose packed maps were trained apart, as kohya's trainer can.

    Its pairs stand side by side in one of three or four times the rank, with the alpha of a single one.
    """
    parts = {
        module: count
        for module, patch in file.patches.items()
        for end, count in _SPLIT_PARTS.items()
        if module.endswith(end) and patch.alpha is not None and _is_block_diagonal(patch, count)
    }
    if not parts:
        return None
    return (
        f"the maps in {len(parts)} modules were trained apart (split_qkv): they are read at the file's alpha / rank, as"
        " ComfyUI and diffusers do, which is 1/3 (qkv) or 1/4 (linear1) of their strength in kohya's trainer"
    )


def _is_block_diagonal(patch: Patch, count: int) -> bool:
    """Whether each of `count` groups of rows reads only its own share of the rank."""
    up = patch.tensors.get("up")
    if up is None or up.ndim != 2 or up.shape[1] % count:
        return False
    rank, rows = up.shape[1] // count, up.shape[0] // (3 if count == 3 else 7)
    spans = [slice(i * rows, (i + 1) * rows if i < count - 1 else None) for i in range(count)]
    own = [up[span, i * rank : (i + 1) * rank] for i, span in enumerate(spans)]
    return bool(up.any()) and sum(int(block.count_nonzero()) for block in own) == int(up.count_nonzero())


def _require_places(file: LoraFile, base: BaseTensors) -> None:
    unknown = [module for module in file.patches if module not in base.modules]
    more = [key for key in file.others if key not in base.parameters]
    hint = family_hint([*file.patches, *file.others], file.header, base)
    message = f"{len(unknown)} of its {len(file.patches)} modules are not in {base.source.name}, the first is"
    require(not unknown, f"{message} {unknown[0] if unknown else ''}: {hint}", EditError)
    told = f"{more[0] if more else ''} is neither half of a LoRA pair nor a .diff, nor a weight of {base.source.name}"
    require(not more, f"{told}: {hint}", EditError)


def _pair(module: str, patch: Patch, shape: tuple[int, ...], laid: Packing) -> _Pair:
    """Return up (o, r), scaled by alpha / r, and down (r, d); a convolution's weight counts as (o, i * h * w).

    If the file's map packs several of our maps, each takes its rows of up.
    """
    up, down = patch.tensors["up"], patch.tensors["down"]
    message = (
        f"{module} has a pair of shapes {tuple(up.shape)} and {tuple(down.shape)}, which does not fit the model's"
        f" {shape}: it is for another model"
    )
    wide = shape[0] // laid.rows[1] * laid.rows[2]
    fits = up.shape[2:].numel() == 1 and up.shape[1] == down.shape[0]
    outer = (up.shape[0], down[0].numel()) == (wide, torch.Size(shape[1:]).numel())
    require(fits and outer, message, EditError)
    return patch.scale * laid.unpack(up.flatten(1)), down.flatten(1)


def _deltas(module: str, patch: Patch, name: str, base: BaseTensors, laid: Packing) -> dict[str, Tensor]:
    """The changes of a module that are no product: full patches, and biases that belong to a pair."""
    found: dict[str, Tensor] = {}
    for role, kind in (("diff", "weight"), ("diff_b", "bias"), ("up_bias", "bias"), ("set_weight", "weight")):
        if role in patch.tensors:
            own = f"{name.removesuffix('.weight')}.{kind}"
            tensor, shape = patch.tensors[role], base.shapes.get(own)
            fits = _unpacked_shape(tensor, laid) == shape
            told = f"{module}.{role} has shape {tuple(tensor.shape)}, but the model's {kind} has {shape}"
            require(fits, told, EditError)
            delta = laid.unpack(tensor)
            if role == "set_weight":
                delta = base.difference(own, delta)
            scale = patch.scale if role == "up_bias" else 1.0
            found[own] = scale * delta
    return found


def _unpacked_shape(tensor: Tensor, laid: Packing) -> tuple[int, ...] | None:
    """The shape of our tensor in a packed one; None if it cannot be packed so."""
    if tensor.ndim == 0 or tensor.shape[0] % laid.rows[2]:
        return None
    return tuple(laid.unpack(tensor).shape)
