"""A network of the same architecture whose parameters are drawn anew: a teacher that knows nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from ...models.hooks.parameters import with_parameters
from ..trainables import TrainableWeights, parameter_owners


@dataclass
class RandomTeacher:
    """Holds other values for the parameters that a training moves; no second network is made."""

    trained: TrainableWeights
    seed: int = 0
    values: dict[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        rng = torch.Generator().manual_seed(self.seed)
        owners = parameter_owners(self.trained.model, self.trained.names)
        self.values = {}
        for name, own in self.trained.start.items():
            self.values[name] = nn.Parameter(_drawn(name, own, owners[name], rng).to(own), requires_grad=False)

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Compute inside the block with the drawn parameters; nest it in `student`."""
        owners = parameter_owners(self.trained.model, self.trained.names)
        with with_parameters(owners, self.values, self.trained.model.original_weights):
            yield


def _drawn(name: str, own: Tensor, owner: nn.Module, rng: torch.Generator) -> Tensor:
    """Draw a parameter as torch's layers begin: within 1 / sqrt(inputs of its layer); a norm's scale 1 and shift 0."""
    weight = getattr(owner, "weight", None)
    matrix = weight if isinstance(weight, Tensor) and weight.ndim > 1 else own if own.ndim > 1 else None
    if matrix is None:
        return torch.ones(own.shape) if name.endswith("weight") else torch.zeros(own.shape)
    drawn: Tensor = (2 * torch.rand(own.shape, generator=rng) - 1) / prod(matrix.shape[1:]) ** 0.5
    return drawn
