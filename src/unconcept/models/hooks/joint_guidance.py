"""Steers joint attention of SD3 and FLUX by what it is under other texts: the picture's rows, as NAG's code does for
FLUX, or the values of the prompt's own tokens.

Another text needs a text stream of its own through all blocks. So the denoiser's batch gets further rows, which share
picture, timestep and pooled text with a prompt's row, and only differ in their text.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ModelError, require
from ..model_view import ModelView
from .attention_maps import text_attentions
from .forward import remove_on_exit

Combination = Callable[[Tensor, Tensor, Tensor], Tensor]  # of Z+, Z- (b, p, o) and weight (b, 1, 1)
# Of the values of a prompt's tokens (b, l, o), of those of the other texts (b, n, l, o) and weight (b, 1, 1).
ValueChange = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class _Run:
    """The hooks of one block of code; they keep what a denoiser's call was given until it returns."""

    negatives: Tensor  # the other texts (n, l, d)
    weight_of: Callable[[Tensor], Tensor]  # from text states (b, l, d) to (b, 1, 1); 0 leaves a row as it is
    combine: Combination
    change: ValueChange | None = None
    prompts: int = 0  # rows of the call
    guided: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))  # those of them that are guided
    weight: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1))  # of the guided ones

    def widen(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Add a row for each negative text of each guided row."""
        states = kwargs["encoder_hidden_states"]
        weight = self.weight_of(states)
        self.prompts, self.guided = len(states), weight.flatten().nonzero()[:, 0]
        if not len(self.guided):
            return None
        self.weight = weight[self.guided]
        require(
            self.negatives.shape[1:] == states.shape[1:],
            f"negative texts have states {tuple(self.negatives.shape[1:])}, prompts {tuple(states.shape[1:])}: encode"
            " both with the model's own encoders",
            ModelError,
        )
        rows = torch.cat([torch.arange(len(states), device=states.device), self._of_each(self.guided)])
        found = dict(kwargs)
        for name in ("hidden_states", "timestep", "pooled_projections", "guidance"):
            if isinstance(found.get(name), Tensor):
                found[name] = found[name][rows]
        more = self.negatives.to(states).repeat(len(self.guided), 1, 1)
        return args, {**found, "encoder_hidden_states": torch.cat([states, more])}

    def narrow(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        """Drop the added rows."""
        if not len(self.guided):
            return None
        self.guided = self.guided[:0]
        if isinstance(out, tuple):
            return out[0][: self.prompts], *out[1:]
        return type(out)(sample=out.sample[: self.prompts])

    def before_output(self, module: nn.Module, args: tuple[Tensor, ...]) -> Any:
        """Guide the input of a joint attention's output map: the picture's rows (b, p, o)."""
        return (self._guide(args[0]), *args[1:]) if len(self.guided) else None

    def after_single(self, module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        """Guide the picture's rows of an attention (b, l + p, o) of text and picture as one sequence."""
        if not len(self.guided):
            return None
        l = self.negatives.shape[1]
        return torch.cat([out[:, :l], self._guide(out[:, l:])], 1)

    def after_values(self, module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        """Change the values of the prompts' tokens, the first of the sequence (b, l, o) or (b, l + p, o)."""
        if not len(self.guided) or self.change is None:
            return None
        l = self.negatives.shape[1]
        beside = out[self.prompts :, :l].unflatten(0, (len(self.guided), -1))
        found = self.change(out[self.guided, :l], beside, self.weight)
        return out.index_copy(0, self.guided, torch.cat([found, out[self.guided, l:]], 1))

    def _guide(self, mixed: Tensor) -> Tensor:
        """Guide the prompts' rows, and give the result to their negatives too, so that all see one picture."""
        negative = mixed[self.prompts :].unflatten(0, (len(self.guided), -1)).mean(1)
        found = self.combine(mixed[self.guided], negative, self.weight)
        own = mixed[: self.prompts].index_copy(0, self.guided, found)
        return torch.cat([own, self._of_each(found)])

    def _of_each(self, rows: Tensor) -> Tensor:
        return rows.repeat_interleave(len(self.negatives), 0)


@contextmanager
def guide_joint_attention(
    model: ModelView, negatives: Tensor, weight_of: Callable[[Tensor], Tensor], combine: Combination
) -> Iterator[None]:
    """Replace the picture's rows Z+ of every joint attention by `combine` of Z+, Z- and a row's weight in the block.

    Z- is the mean over the negative texts' states (n, l, d). Rows of weight 0 have no negatives: where no row has any,
    nothing is computed otherwise.
    """
    with _steered(model, _Run(negatives, weight_of, combine)):
        yield


@contextmanager
def change_joint_values(
    model: ModelView, texts: Tensor, weight_of: Callable[[Tensor], Tensor], change: ValueChange
) -> Iterator[None]:
    """Replace the values of the prompt's tokens in every joint attention by what `change` makes of them in the block.

    `change` is given the values of other texts too, whose states are `texts` (n, l, d), beside the prompt's own picture
    at this step. Queries of picture and text both read the new values. Rows of weight 0 stay as they are.
    """
    with _steered(model, _Run(texts, weight_of, lambda own, other, weight: own, change)):
        yield


@contextmanager
def _steered(model: ModelView, run: _Run) -> Iterator[None]:
    denoiser, attentions = model.modules("denoiser"), text_attentions(model).values()
    outputs: list[Any] = [attention.get_submodule("to_out.0") for attention in attentions]
    singles = [block.get_submodule("attn") for block in getattr(denoiser, "single_transformer_blocks", ())]
    values = [attention.get_submodule("add_v_proj") for attention in attentions]
    values += [attention.get_submodule("to_v") for attention in singles]
    hooks = [
        denoiser.register_forward_pre_hook(run.widen, with_kwargs=True),
        denoiser.register_forward_hook(run.narrow),
        *(module.register_forward_pre_hook(run.before_output) for module in outputs),
        *(module.register_forward_hook(run.after_single) for module in singles),
        *(module.register_forward_hook(run.after_values) for module in values if run.change is not None),
    ]
    with remove_on_exit(hooks):
        yield
