"""Checks that a diffusers pipeline in memory is of a supported class and computes with its plain weights."""

from collections.abc import Iterator

from torch import nn

from ..core.errors import ModelError, require
from .checkpoint.pipeline import Pipeline

_REMEDIES = {
    "is compiled": "open the pipeline before torch.compile, and compile it afterwards",
    "has fused attention projections": "call unfuse_qkv_projections() on it first",
    "casts its layers while it runs": "load the pipeline without enable_layerwise_casting()",
    "carries PEFT adapters": "fuse or unload them first, with fuse_lora() and unload_lora_weights()",
}


def require_plain(pipeline: Pipeline) -> None:
    """Raise `ModelError` if the networks of a pipeline do not compute with exactly their own weights."""
    for part, module in pipeline.components.items():
        for state in _states(module) if isinstance(module, nn.Module) else ():
            raise ModelError(f"the pipeline's {part} {state}: {_REMEDIES[state]}")


def require_known_class(pipeline: Pipeline, known: tuple[str, ...]) -> None:
    """Raise `ModelError` unless the pipeline is of one of the known classes."""
    kind = type(pipeline).__name__
    supported = ", ".join(known)
    require(kind in known, f"a {kind} in memory is not a supported model: give one of {supported}", ModelError)


def _states(network: nn.Module) -> Iterator[str]:
    """Yield the states of a network in which it does not compute with exactly its own weights."""
    for module in network.modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            yield "is compiled"
        if getattr(module, "fused_projections", False):
            yield "has fused attention projections"
        hooks = getattr(module, "_diffusers_hook", None)
        if hooks is not None and hooks.get_hook("layerwise_casting") is not None:
            yield "casts its layers while it runs"
        if hasattr(module, "base_layer") and hasattr(module, "lora_A"):
            yield "carries PEFT adapters"
