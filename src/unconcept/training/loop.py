"""The optimisation loop, and the only file that differentiates.

Gradients are taken with respect to the trained tensors alone, so no weight of the model ever gets a `.grad`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import NumericsError, require
from .distributed import ProcessGroup
from .gradient_transforms import GradientJoin, GradientList, GradientTransform
from .precision import Precision
from .sample_options import without_augmentation
from .session import current_session
from .state_file import entries_below, gather_states, restore_states

Optimizer = Literal["sgd", "adam", "adamw"]
LossTerms = Tensor | Mapping[str, Tensor]  # a loss, or its summands by name
# Maps the step's number to a loss; all its random numbers come from the generator.
StepLoss = Callable[[int, torch.Generator], LossTerms]
ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8  # torch's own
OPTIMIZERS: dict[Optimizer, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def loss_gradient(loss: Tensor, params: Sequence[Tensor], keep_graph: bool = False) -> tuple[Tensor, ...]:
    """Return d loss / d params, zero where there is no dependence. Raises `NumericsError` if the loss is not finite."""
    require(
        bool(torch.isfinite(loss)),
        f"the loss became {loss.item()}: use a smaller lr or a lower guidance, or float32",
        NumericsError,
    )
    return torch.autograd.grad(loss, list(params), retain_graph=keep_graph, allow_unused=True, materialize_grads=True)


@dataclass
class Descent:
    """Minimises a loss over tensors, with the state of optimizer and random generator, so that it can stop and resume.

    `params` are leaves and are changed in place.
    """

    params: Sequence[Tensor]
    lr: float
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    seed: int = 0
    done: int = 0  # steps so far
    transforms: Sequence[GradientTransform] = ()
    """Applied to the gradient in this order, and after the step in reverse, so that the first decides last."""
    join: GradientJoin | None = None  # joins the gradients of a loss's summands; None: sum
    rate: Callable[[int], float] = lambda step: 1.0  # factor of the lr, by step
    betas: tuple[float, float] = ADAM_BETAS  # of adam and adamw
    eps: float = ADAM_EPS
    precision: Precision = field(default_factory=Precision)
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    losses: list[float] = field(default_factory=list)  # before each step
    rng: torch.Generator = field(init=False)
    rule: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        require(
            self.lr >= 0 and self.weight_decay >= 0,
            f"lr and weight_decay must be >= 0, got {self.lr} and {self.weight_decay}",
        )
        require(
            all(0 <= beta < 1 for beta in self.betas) and self.eps > 0,
            f"betas must be 0 to below 1 and eps > 0, got {self.betas} and {self.eps}",
        )
        self.rng = torch.Generator().manual_seed(self.seed)
        # Fused rules read memory as it lies, so `_step` gives each gradient the strides of its tensor.
        own: dict[str, Any] = {"fused": True}
        if self.optimizer != "sgd":
            own |= {"betas": self.betas, "eps": self.eps}
        self.rule = OPTIMIZERS[self.optimizer](
            [{"params": list(self.params)}], lr=self.lr, weight_decay=self.weight_decay, **own
        )

    @without_augmentation()
    def run(
        self, loss: StepLoss, steps: int, after: Callable[[int], None] = lambda step: None, parts: int = 1
    ) -> list[float]:
        """Take `steps` more steps and return the loss before each of them.

        A step averages the gradients of `parts` calls of the loss. `after` is called with the number of steps done.
        Raises `NumericsError` before a step whose loss or gradient is NaN or infinite. In a rehearsal it takes a few of
        the steps.
        """
        begun, rehearsal = len(self.losses), current_session().rehearsal
        if rehearsal is not None:
            left = steps - rehearsal.take_steps(steps, lambda: self._take_step(loss, after, parts))
            self.done += left
            self.losses += left * [self.losses[-1] if self.losses else 0.0]
            return self.losses[begun:]
        for _ in range(steps):
            self._take_step(loss, after, parts)
        return self.losses[begun:]

    def _take_step(self, loss: StepLoss, after: Callable[[int], None], parts: int) -> None:
        total, found = self._gradients(loss(self.done, self.rng))
        if parts > 1:
            total, found = self._averaged(loss, total, found, parts)
        total, found = self.processes.average_gradients(total, found)
        sound = self.precision.unscale_and_check(self.done, found, self.params, self.rule)
        if sound is not None:
            self._step(sound)
        self.done += 1
        self.losses.append(total)
        after(self.done)

    def _gradients(self, terms: LossTerms) -> tuple[float, Sequence[Tensor]]:
        """Return the loss and its gradient: one backward pass for all summands, or one for each if they are joined."""
        if isinstance(terms, Tensor):
            return terms.item(), self._of(terms)
        total = torch.stack(list(terms.values())).sum()
        if self.join is None:
            return total.item(), self._of(total)
        return total.item(), self.join({name: list(self._of(term, keep_graph=True)) for name, term in terms.items()})

    def _of(self, loss: Tensor, keep_graph: bool = False) -> tuple[Tensor, ...]:
        return loss_gradient(self.precision.scale_loss(loss), self.params, keep_graph)

    def _averaged(
        self, loss: StepLoss, total: float, found: Sequence[Tensor], parts: int
    ) -> tuple[float, GradientList]:
        """Average the given loss and gradient with those of `parts` - 1 further calls of the loss."""
        total, sums = total / parts, [g / parts for g in found]
        for _ in range(parts - 1):
            value, more = self._gradients(loss(self.done, self.rng))
            for part, own in zip(sums, more, strict=True):
                part += own / parts
            total += value / parts
        return total, sums

    def _step(self, gradients: GradientList) -> None:
        for transform in self.transforms:
            changed = transform.gradient(self.done, gradients, self.params)
            if changed is None:
                return
            gradients = changed
        for param, found in zip(self.params, gradients, strict=True):
            param.grad = found if found.stride() == param.stride() else torch.empty_like(param).copy_(found)
        for group in self.rule.param_groups:
            group["lr"] = self.lr * self.rate(self.done)
        self.rule.step()
        self.rule.zero_grad(set_to_none=True)
        for transform in reversed(self.transforms):
            transform.after_step(self.params)

    def state(self) -> dict[str, Tensor]:
        """Return everything that changes from step to step, including the trained tensors."""
        found = {f"param.{i}": param.detach() for i, param in enumerate(self.params)}
        for i, own in self.rule.state_dict()["state"].items():
            found |= {f"rule.{i}.{name}": value for name, value in own.items()}
        found |= {f"transform.{name}": t for name, t in gather_states(self.transforms).items()}
        found |= {f"precision.{name}": t for name, t in self.precision.state().items()}
        return found | {"rng": self.rng.get_state(), "losses": torch.tensor(self.losses, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume from a `state`."""
        with torch.no_grad():
            for i, param in enumerate(self.params):
                param.copy_(state[f"param.{i}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in entries_below(state, "rule.").items():
            number, _, kind = name.partition(".")
            moments.setdefault(int(number), {})[kind] = value
        self.rule.load_state_dict({"state": moments, "param_groups": self.rule.state_dict()["param_groups"]})
        restore_states(self.transforms, entries_below(state, "transform."))
        self.precision.restore(entries_below(state, "precision."))
        self.rng.set_state(state["rng"])
        self.losses = state["losses"].tolist()
        self.done = len(self.losses)


def minimise(
    loss: StepLoss,
    params: Sequence[Tensor],
    steps: int,
    lr: float,
    optimizer: Optimizer = "adam",
    *,
    weight_decay: float = 0.0,
    seed: int = 0,
    after: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """Minimise a loss over `params` in place, and return the loss before each step."""
    return Descent(params, lr, optimizer, weight_decay, seed).run(loss, steps, after)
