"""Checks that a diffusers pipeline in memory is of a supported class and computes with its plain weights.

An edit changes weights, records them, and puts them back. In a network that computes with anything else, such as copies
of its weights, packed numbers, or weights on another device, it would change nothing, or not what it says.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ModelError, require
from .checkpoint.pipeline import Pipeline

_PLAIN_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_COMPILED = "is compiled"
_REMEDIES = {
    _COMPILED: "open the pipeline before torch.compile, and compile it afterwards",
    "has fused attention projections": "call unfuse_qkv_projections() on it first",
    "casts its layers while it runs": "load the pipeline without enable_layerwise_casting()",
    "carries PEFT adapters": "fuse or unload them first, with fuse_lora() and unload_lora_weights()",
    "has an IP-Adapter": "call unload_ip_adapter() on it first",
    "has attention processors with weights of their own": "call set_default_attn_processor() on it first",
    "moves its weights between devices while it runs": "load the pipeline without offloading",
    "has no weights in memory": "load the pipeline without offloading to the meta device",
    "has quantised weights": "load the pipeline in float32, float16 or bfloat16",
    "skips or reuses parts of its computation": "call disable_cache() on it, or remove its hooks, first",
}
# Networks that compute with their own weights, but hold them in a form that no edit of weights can change.
_FIXED = (
    "has quantised weights",
    "casts its layers while it runs",
    "moves its weights between devices while it runs",
    "has no weights in memory",
)
_HOOKS = {  # of diffusers, by the start of their names; any other one skips or reuses something
    "layerwise_casting": "casts its layers while it runs",
    "peft_autocast_disable": "casts its layers while it runs",
    "group_offloading": "moves its weights between devices while it runs",
    "layer_execution_tracker": "moves its weights between devices while it runs",
    "lazy_prefetch_group_offloading": "moves its weights between devices while it runs",
}


def require_plain(pipeline: Pipeline, may_be_compiled: bool = False, may_be_fixed: bool = False) -> None:
    """Raise `ModelError` if the networks of a pipeline do not compute with exactly their own weights.

    One that was opened before `may_be_compiled` since; weights that are quantised or moved are `fixed`.
    """
    for part, module in pipeline.components.items():
        for state in _states(module) if isinstance(module, nn.Module) else ():
            message = f"the pipeline's {part} {state}: {_REMEDIES[state]}"
            is_allowed = (may_be_compiled and state == _COMPILED) or (may_be_fixed and state in _FIXED)
            require(is_allowed, message, ModelError)


def fixed_state(pipeline: Pipeline) -> str:
    """Why no edit of weights can change a pipeline, as "its unet has quantised weights"; "" if one can."""
    for part, module in pipeline.components.items():
        for state in _states(module) if isinstance(module, nn.Module) else ():
            if state in _FIXED:
                return f"its {part} {state}"
    return ""


def is_plain_weight(weight: Tensor) -> bool:
    """Whether a weight is a tensor of numbers in memory: neither packed, nor in 8 bits, nor left elsewhere."""
    return not weight.is_meta and weight.dtype in _PLAIN_DTYPES and type(weight.data) is Tensor


def resident_parameters(network: nn.Module) -> dict[str, Tensor]:
    """A network's parameters by name; of those that accelerate keeps elsewhere, the copies that it keeps."""
    found: dict[str, Tensor] = dict(network.named_parameters())
    for name, module in network.named_modules() if any(each.is_meta for each in found.values()) else ():
        kept = _kept_elsewhere(module)
        for leaf, parameter in module.named_parameters(recurse=False):
            resident = kept[leaf] if parameter.is_meta and kept is not None else parameter
            found[f"{name}.{leaf}" if name else leaf] = resident
    return found


def _kept_elsewhere(module: nn.Module) -> Mapping[str, Tensor] | None:
    hook = _own(module, "_hf_hook")
    hooks = [hook, *getattr(hook, "hooks", ())]
    return next((each.weights_map for each in hooks if getattr(each, "weights_map", None) is not None), None)


def require_known_class(pipeline: Pipeline, known: tuple[str, ...]) -> None:
    """Raise `ModelError` unless the pipeline is of one of the known classes."""
    kind = type(pipeline).__name__
    supported = ", ".join(known)
    require(kind in known, f"a {kind} in memory is not a supported model: give one of {supported}", ModelError)


def _states(network: nn.Module) -> Iterator[str]:
    """Yield the states of a network in which it does not compute with exactly its own weights."""
    for module in network.modules():
        if _own(module, "_orig_mod") is not None or _own(module, "_compiled_call_impl") is not None:
            yield _COMPILED
        if isinstance(module, torch.jit.ScriptModule):
            yield _COMPILED
        if _own(module, "fused_projections"):
            yield "has fused attention projections"
        hooks = _own(module, "_diffusers_hook")
        for name in hooks.hooks if hooks is not None else ():
            yield _HOOKS.get(name, "skips or reuses parts of its computation")
        if _own(module, "_hf_hook") is not None:
            yield "moves its weights between devices while it runs"
        if _own(module, "base_layer") is not None:
            yield "carries PEFT adapters"
        if _own(module, "encoder_hid_proj") is not None:
            yield "has an IP-Adapter"
        processor = _own(module, "processor")
        if isinstance(processor, nn.Module) and next(processor.parameters(), None) is not None:
            yield "has attention processors with weights of their own"
    yield from _weight_states(network)


def _own(module: nn.Module, name: str) -> Any:
    """What a module itself holds under a name, or None; `getattr` takes long to say that it holds nothing."""
    for table in (vars(module), module._modules):
        if name in table:
            return table[name]
    return None


def _weight_states(network: nn.Module) -> Iterator[str]:
    for weight in network.parameters():
        if weight.is_meta:
            yield "has no weights in memory"
        elif not is_plain_weight(weight):
            yield "has quantised weights"
