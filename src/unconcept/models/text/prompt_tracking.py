"""Finds the token ids behind a denoiser's text states, if a text encoder computed them."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks.forward import remove_on_exit
from ..model_view import ModelView

MOST_TRACKED_TEXTS = 4096

TokenIds = tuple[int, ...]


@contextmanager
def track_prompts(model: ModelView) -> Iterator[Callable[[Tensor], list[TokenIds | None]]]:
    """Remember the texts that are encoded inside the block.

    Yields a function that maps text states (b, l, d) to the padded token ids of each row, or None for a row that no
    encoder computed. A row is recognised by the state of its last token, which depends on the whole text in every
    encoder.
    """
    known: OrderedDict[bytes, TokenIds] = OrderedDict()
    last, width, first = -1, 0, model.spec.first_encoder

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        nonlocal last, width
        states = out.hidden_states[-2] if first.is_penultimate else out.last_hidden_state
        last, width = states.shape[1] - 1, states.shape[2]
        ids = args[0] if args else kwargs["input_ids"]
        for row, read in zip(_prints(states[:, last]), ids.tolist(), strict=True):
            known[row] = tuple(read)
            known.move_to_end(row)
            if len(known) > MOST_TRACKED_TEXTS:
                known.popitem(last=False)

    def ids_of(states: Tensor) -> list[TokenIds | None]:
        if not known or states.shape[1] <= last:
            return [None] * len(states)
        return [known.get(row) for row in _prints(states[:, last, :width])]

    with remove_on_exit([model.modules(first.part).register_forward_hook(keep, with_kwargs=True)]):
        yield ids_of


def _prints(rows: Tensor) -> list[bytes]:
    """The bits of each row (b, d)."""
    return [row.numpy().tobytes() for row in rows.detach().to("cpu", torch.float32)]
