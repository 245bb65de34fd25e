"""Which of a model's text maps make keys and which make values."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

Params = Literal["K", "V", "KV"]
ROLES = {"K": (".to_k.weight",), "V": (".to_v.weight",), "KV": (".to_k.weight", ".to_v.weight")}


def with_role(maps: Mapping[str, Tensor], params: Params) -> dict[str, Tensor]:
    """The maps that make keys, values, or both."""
    return {name: maps[name] for name in maps if name.endswith(ROLES[params])}
