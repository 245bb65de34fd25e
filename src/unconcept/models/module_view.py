"""A view on any torch module, such as a classifier: what a training and an edit of weights ask of a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..core.errors import ModelError, require
from .model_view import ModelView

NETWORK_PART = "network"


@dataclass
class ModuleView:
    """A network that reads no texts and makes no pictures.

    Its parameters' full names begin with "network.". It computes in the mode, training or evaluation, that it is in.
    """

    network: nn.Module
    name: str = "the network"
    original_weights: dict[str, Tensor] = field(default_factory=dict, init=False)

    @property
    def device(self) -> torch.device:
        return next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))

    def modules(self, part: str) -> nn.Module:
        """The network itself, which is what a training of a diffusion model asks for as the "denoiser"."""
        message = f"{self.name} has no {part}: its parameters' names begin with {NETWORK_PART!r}"
        require(part in (NETWORK_PART, "denoiser"), message, ModelError)
        return self.network

    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters by full name."""
        return {f"{NETWORK_PART}.{name}": parameter for name, parameter in self.network.named_parameters()}

    def reference(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Parameters by full name from before any edit."""
        own = self.parameters()
        return {name: self.original_weights.get(name, own[name]).detach() for name in names}


AnyModel = ModelView | ModuleView
