"""The table of methods: a decorator puts each there, with its paper and the families it is defined for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..core.registry import Registry
from ..core.request import Request
from ..edits import Edit
from ..models import Family, ModelView


class Method(Protocol):
    """A frozen dataclass of hyperparameters with one verb."""

    def erase(self, model: ModelView, request: Request) -> Edit:
        """Find the edit. The model is bitwise unchanged afterwards."""


M = TypeVar("M", bound=type)


@dataclass(frozen=True)
class MethodInfo:
    """A row of the methods table."""

    name: str
    settings: type  # the dataclass itself
    paper: str
    families: tuple[Family, ...]
    summary: str


methods: Registry[MethodInfo] = Registry("method")


def method(name: str, paper: str, families: tuple[Family, ...]) -> Callable[[M], M]:
    """Register a method under the name users type."""

    def put(kind: M) -> M:
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        methods.register(name)(MethodInfo(name, kind, paper, families, summary))
        return kind

    return put
