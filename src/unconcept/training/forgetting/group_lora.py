"""Group-sparse low-rank adapters on feed-forward layers, and what is made of them (GS-LoRA)."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import ModelError, require
from ...models.module_view import NETWORK_PART, AnyModel, ModuleView
from ..trainables import TrainableLowRank

# Names that feed-forward layers have in diffusers, torch, torchvision and timm; what comes before is their block.
_FEED_FORWARD = {"ff", "ff_context", "ffn", "fn", "mlp", "feed_forward", "proj_mlp", "linear1", "linear2"}
_KEYS_AND_VALUES = {"to_k", "to_v", "add_k_proj", "add_v_proj"}
_CROSS_ATTENTION = {"attn", "attn2"}  # the joint attention of a transformer, the second one of a UNet's block
_NORM_EPS = 1e-12  # under the root, whose derivative at 0 is infinite
_USED_SHARE = 0.02  # A block counts as used from this share of the largest product's norm.


def adapter_groups(model: AnyModel, layers: str, method: str) -> dict[str, tuple[str, ...]]:
    """Return the maps of each block by the full name of their weight: feed-forward ("ffn"), or keys and values ("kv").

    Raises `ModelError` if the network has none.
    """
    part = NETWORK_PART if isinstance(model, ModuleView) else model.spec.denoiser
    found: dict[str, tuple[str, ...]] = {}
    for name, module in model.modules("denoiser").named_modules():
        words = name.split(".")
        at = _place(words, layers)
        if isinstance(module, nn.Linear) and at is not None:
            block = ".".join(words[:at])
            found[block] = (*found.get(block, ()), f"{part}.{name}.weight")
    what = "feed-forward layers" if layers == "ffn" else "keys and values of cross-attention"
    message = f"{method}: {model.name} has no {what}, which are what it trains: give a transformer"
    require(bool(found), message, ModelError)
    return found


def _place(words: Sequence[str], layers: str) -> int | None:
    """Return the place of the word in a module's name that says that the module belongs to the group."""
    if layers == "ffn":
        return next((i for i, word in enumerate(words) if word in _FEED_FORWARD), None)
    is_reader = words[-1] in _KEYS_AND_VALUES and len(words) > 1 and words[-2] in _CROSS_ATTENTION
    is_own = words[-2:-1] == ["attn"] and words[-1].startswith("to_")  # of the picture itself
    return len(words) - 2 if is_reader and not is_own else None


def low_rank_on(model: AnyModel, groups: Mapping[str, Sequence[str]], rank: int, seed: int) -> TrainableLowRank:
    """Build adapters on the maps of all groups. `down` starts uniform, `up` at zero."""
    network = model.modules("denoiser")
    names = [name for own in groups.values() for name in own]
    maps = {name: network.get_submodule(name.partition(".")[2].removesuffix(".weight")) for name in names}
    return TrainableLowRank(model, maps, rank, seed, init="uniform")


def group_sparsity(groups: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the sum over groups of the Euclidean norm of all numbers of a group together."""
    squares = [_squares_of(own) for own in groups]
    return (torch.stack(squares) + _NORM_EPS).sqrt().sum()


def _squares_of(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum()


def pairs_by_group(trained: TrainableLowRank, groups: Mapping[str, Sequence[str]]) -> list[list[Tensor]]:
    """Return both factors of every map, group by group."""
    return [list(chain.from_iterable(map(trained.pairs.__getitem__, own))) for own in groups.values()]


def bounded_ascent(error: Tensor, bound: float) -> Tensor:
    """Return ReLU(bound - error): it pushes the error up, and stops at the bound."""
    return F.relu(bound - error)


@torch.no_grad()
def group_figures(trained: TrainableLowRank, groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return how many blocks there are, and how many the products up @ down use, whatever the factors' own norms."""
    norms = []
    for own in groups.values():
        pairs = [trained.pairs[name] for name in own]
        norms.append(float(_squares_of([up @ down for up, down in pairs]).sqrt()))
    used = sum(norm > _USED_SHARE * max(norms) for norm in norms)
    return {"blocks": float(len(norms)), "blocks_used": float(used), "least_block_norm": min(norms)}
