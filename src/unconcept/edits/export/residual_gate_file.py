"""Reads files of CPE's authors (arXiv:2506.22806), one concept a file, as edits."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ...core.errors import EditError, require
from ...models.checkpoint.safetensors_io import open_file
from ..residual_gate import ResidualGate, ResidualGateEdit
from .base_tensors import BaseTensors

_GATE = "attention_gate.encoder_layer.slf_attn."
_QUERY, _KEY = (f"{_GATE}attention_module1.{name}.weight" for name in ("w_qs", "w_ks"))
_SCORE = f"{_GATE}gate.scaler.weight"
_DOWN, _UP, _ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
UNREAD_KEYS_NOTE = "the gate's keys are its queries, as in the authors' code, which never reads w_ks"


def is_gate_file(keys: Sequence[str]) -> bool:
    """Whether a file with these tensors is of that form."""
    return any(key.startswith(_GATE) for key in keys)


def edit_of_gate_file(path: Path, base: BaseTensors) -> ResidualGateEdit:
    """Read one concept's gate. Raises `EditError` if a tensor is missing, unknown, or does not fit the model."""
    with open_file(path) as file:
        header = file.metadata() or {}
        tensors: dict[str, Tensor] = {key: file.get_tensor(key).float() for key in file.keys()}
    gate = {key: tensors.pop(key, None) for key in (_QUERY, _KEY, _SCORE)}
    query, score = gate[_QUERY], gate[_SCORE]
    if query is None or score is None:
        raise EditError(f"it has no {_QUERY if query is None else _SCORE}: its gate is not whole")
    require(
        query.ndim == score.ndim == 3 and len(query) == 1,
        f"its gate has shape {tuple(query.shape)}: give a file of one concept, (1, d, k)",
        EditError,
    )
    pairs = {}
    for module in sorted(key.removesuffix(_DOWN) for key in tensors if key.endswith(_DOWN)):
        down, up, alpha = (tensors.pop(module + end, None) for end in (_DOWN, _UP, _ALPHA))
        if down is None or up is None:
            raise EditError(f"{module} has no up: its pair is not whole")
        name = _place(module, base)
        o, d = base.shapes[name]
        require(
            down.shape[::2] == (1, up.shape[1]) and (down.shape[1], up.shape[2]) == (d, o),
            f"{module} has a pair of shapes {tuple(down.shape)} and {tuple(up.shape)}, which does not fit {(o, d)}",
            EditError,
        )
        scale = float(header.get("alpha", 1.0) if alpha is None else alpha) / down.shape[2]
        pairs[name] = (scale * up[0].T, down[0].T.contiguous())
    require(not tensors, f"{next(iter(tensors), '')} is no part of a gate", EditError)
    texts = tuple(text.strip() for text in header.get("prompts", "").split(",") if text.strip())
    return ResidualGateEdit((ResidualGate(texts or ("unnamed",), query[0], query[0].clone(), score[0, :, 0], pairs),))


def _place(module: str, base: BaseTensors) -> str:
    """The weight of a module."""
    found = [name for name in base.modules.get(module, {}) if len(base.shapes[name]) == 2]
    require(len(found) == 1, f"{module} is no map of {base.source.name}: the file is for another model", EditError)
    return found[0]
