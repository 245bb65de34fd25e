"""The tensors of a base model by every name that other tools use for them, and exact differences to them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import EditError, ModelError, require
from ...models.checkpoint.locations import has_part, tensor_locations
from ...models.checkpoint.safetensors_io import TensorLocation, read_tensors, tensor_shapes
from ...models.layouts.layout import ModelLayout
from ...models.layouts.packing import Packing
from ..weights import weight_sum
from .lora_file import LORA_NETWORKS
from .lora_keys import lora_name_candidates, weight_name_candidates

Places = Mapping[str, Mapping[str, Packing]]  # a name in a file to our names, each with its packing in that tensor
_Candidates = Callable[[str, ModelLayout | None], Iterator[tuple[str, Packing]]]


@dataclass(frozen=True)
class BaseTensors:
    """The networks of a diffusers folder or single file: denoiser and text encoders."""

    source: Path

    @cached_property
    def layout(self) -> ModelLayout | None:
        """The original layout of the model's family, or None if it has none."""
        try:
            return ModelLayout.of(self.source)
        except ModelError:
            return None

    @cached_property
    def locations(self) -> Mapping[str, TensorLocation]:
        """The location of every tensor by its full name."""
        found: dict[str, TensorLocation] = {}
        for part in LORA_NETWORKS:
            if has_part(self.source, part):
                own = tensor_locations(self.source, part)
                found |= {f"{part}.{name}": place for name, place in own.items()}
        return {name: place for name, place in found.items() if not name.endswith("position_ids")}

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor, without reading any."""
        return tensor_shapes(self.locations)

    @cached_property
    def modules(self) -> Places:
        """Our weights by every name of their module that a LoRA may use; ambiguous names are left out."""
        weights = [name for name in self.locations if name.endswith(".weight")]
        return self._places(weights, lora_name_candidates)

    @cached_property
    def parameters(self) -> Places:
        """Our parameters by every name that a file of whole weights may use; ambiguous names are left out."""
        return self._places(self.locations, weight_name_candidates)

    def _places(self, names: Iterable[str], candidates: _Candidates) -> Places:
        places: dict[str, dict[str, Packing]] = defaultdict(dict)
        for name in names:
            for known, laid in self._named(name, candidates):
                places[known][name] = laid
        return {known: members for known, members in places.items() if _have_rows_of_their_own(members)}

    def _named(self, name: str, candidates: _Candidates) -> list[tuple[str, Packing]]:
        """List the candidate names; a module that the original network lacks has only its diffusers names."""
        try:
            return list(candidates(name, self.layout))
        except (ModelError, EditError):
            return list(candidates(name, None))

    def read(self, name: str) -> Tensor:
        """Read one tensor by its full name."""
        return read_tensors(self.locations, [name])[name]

    def differences(self, key: str, tensor: Tensor) -> dict[str, Tensor]:
        """The exact differences of our parameters that a file's tensor holds whole, where there are any."""
        found = {}
        for name, laid in self.parameters[key].items():
            value = unpack_whole(key, tensor, self.shapes[name], laid)
            delta = self.difference(name, value)
            if bool(delta.any()):
                found[name] = delta
        return found

    def difference(self, name: str, value: Tensor) -> Tensor:
        """value - weight, exact: adding it to the weight gives the value bit by bit.

        It is zero where the value is the weight rounded to a narrower dtype. float64 is used if float32 is not exact.
        """
        weight = self.read(name)
        is_narrower = value.dtype.itemsize < weight.dtype.itemsize
        if is_narrower and torch.equal(weight.to(value.dtype), value):
            return torch.zeros_like(weight, dtype=torch.float32)
        wide = torch.promote_types(torch.promote_types(weight.dtype, value.dtype), torch.float32)
        exact = value.double() - weight.double()
        short = exact.float()
        if torch.equal(weight_sum(weight.to(wide), short.to(wide)), value.to(wide)):
            return short
        return exact


def unpack_whole(key: str, tensor: Tensor, shape: tuple[int, ...], laid: Packing) -> Tensor:
    """Take our parameter out of a file's tensor. Raises `EditError` if it has another shape."""
    message = f"{key} has shape {tuple(tensor.shape)}, which does not fit the model's {shape}: it is for another model"
    require(tensor.ndim > 0 and tensor.shape[0] % laid.rows[2] == 0, message, EditError)
    value = laid.unpack(tensor)
    if value.shape != shape and value.numel() == torch.Size(shape).numel() and value.squeeze().ndim == len(shape):
        value = value.squeeze()  # 1 x 1 convolutions that diffusers has as linear maps
    require(tuple(value.shape) == shape, message, EditError)
    return value


def _have_rows_of_their_own(modules: Mapping[str, Packing]) -> bool:
    """Whether no two modules use the same rows of a packed map."""
    return len(modules) == len({laid.rows for laid in modules.values()})
