"""Sampling procedures: ways to draw pictures other than from noise to the end, as data to save and draw again.

A procedure is a frozen dataclass of any family's tensors, texts and settings with one verb, `sample`. What saves,
hashes, joins or replays one needs to know nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ....core.registry import Registry
from ...model_view import Conditioning, ModelView

_KIND = "kind"  # names the procedure among its saved values


@dataclass(frozen=True)
class SamplingRequest:
    """What is to be drawn, and how. A procedure with steps, a sampler or a guidance scale of its own reads no other."""

    texts: Conditioning
    noise: Tensor  # (b, c, h, w), of unit variance
    steps: int
    guidance_scale: float
    sampler: str | None = None
    """Name of the sampler; None for the model's own."""


class SamplingProcedure(Protocol):
    """A frozen dataclass.

    Tensors and tuples of texts have a row for each picture; other fields are settings, numbers or texts, which the
    pictures of a batch share.
    """

    def sample(self, model: ModelView, asked: SamplingRequest) -> Tensor:
        """Draw pictures (b, 3, h, w) in [0, 1] with the model as it now computes."""


procedures: Registry[Callable[..., SamplingProcedure]] = Registry("sampling procedure")
_ProcedureClass = TypeVar("_ProcedureClass", bound=type)


def procedure(name: str) -> Callable[[_ProcedureClass], _ProcedureClass]:
    """Register a class of procedures under the name of its kind in files."""

    def put(kind: _ProcedureClass) -> _ProcedureClass:
        procedures.register(name)(kind)
        return kind

    return put


def procedure_tensors(given: SamplingProcedure) -> dict[str, Tensor]:
    """The tensors of a procedure by the names of their fields."""
    return {name: value for name, value in _values(given).items() if isinstance(value, Tensor)}


def procedure_texts(given: SamplingProcedure) -> tuple[str, ...]:
    """All texts that a procedure reads besides the prompts."""
    return tuple(text for value in _values(given).values() if isinstance(value, tuple) for text in value)


def procedure_values(given: SamplingProcedure) -> dict[str, object]:
    """The name of a procedure's kind, and all of its fields that are no tensors, as JSON can hold them."""
    names = {procedures[name]: name for name in procedures}
    rest = {name: value for name, value in _values(given).items() if not isinstance(value, Tensor)}
    return {_KIND: names[type(given)]} | {n: list(v) if isinstance(v, tuple) else v for n, v in rest.items()}


def shared_values(given: SamplingProcedure) -> dict[str, object]:
    """The values that procedures must share to be joined: all but those with a row for each picture."""
    return {name: value for name, value in procedure_values(given).items() if not isinstance(value, list)}


def restore_procedure(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SamplingProcedure:
    """Make a procedure of what `procedure_values` and `procedure_tensors` gave.

    `KeyError` or `TypeError` for others, `UnknownName` for a kind that is not registered.
    """
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name != _KIND}
    return procedures[values[_KIND]](**own, **tensors)


def join_procedures(rows: Sequence[SamplingProcedure]) -> SamplingProcedure:
    """Join procedures of one kind with the same shared values along their rows."""
    values = list(map(_values, rows))
    joined: dict[str, Any] = {}
    for name in values[0]:
        column = [each[name] for each in values]
        if isinstance(column[0], Tensor):
            joined[name] = torch.cat(column)
        else:
            joined[name] = sum(column, ()) if isinstance(column[0], tuple) else column[0]
    kind: Callable[..., SamplingProcedure] = type(rows[0])
    return kind(**joined)


def _values(given: SamplingProcedure) -> dict[str, Any]:
    assert is_dataclass(given)
    return {field.name: getattr(given, field.name) for field in fields(given)}
