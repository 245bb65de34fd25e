"""The table of methods: a decorator puts each there, with its paper, what it does and
the families it is defined for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from ..core.registry import Registry
from ..core.request import Request
from ..edits import Edit
from ..models import Family, ModelView
from ..models.vision.paired_clip import VisionTextTowers

MethodTask = Literal["erase", "debias"]
# Solved from texts alone; step by step; along one gradient; a rule for sampling.
Mechanism = Literal["closed-form", "trained", "one-step", "steering"]
_UNDEFINED_REASON = "its paper does not define it there"


class Method(Protocol):
    """A frozen dataclass of hyperparameters with one verb."""

    def erase(self, model: ModelView, request: Request) -> Edit:
        """Find the edit. The model is bitwise unchanged afterwards."""


class AttributeCounter(Protocol):
    """Draws and judges for a method, which can do neither."""

    def __call__(self, text: str, attributes: Sequence[str], pictures: int, turn: int) -> Sequence[int]:
        """How many of `pictures` of a text, drawn by the model as it computes now, show each attribute.

        Another turn is other noise.

        `RequestError` for an attribute that nobody can tell.
        """


class Debiaser(Protocol):
    """A method that makes targets show attributes in wanted shares. Its request has no anchors."""

    def erase(self, model: ModelView, request: Request, observe: AttributeCounter) -> Edit:
        """Find the edit, looking at what the model draws on the way. The model is bitwise unchanged afterwards."""


class PresenceJudge(Protocol):
    """Draws and judges what is to be erased, for a method that can do neither."""

    def __call__(self, pictures: int) -> float:
        """Share of `pictures` of each target, drawn by the model as it computes now, that show it."""


class VisionMethod(Protocol):
    """A method that needs the vision towers beside the model's text encoders."""

    @property
    def clips(self) -> Mapping[str, str]:
        """Folders of the CLIPs that were named, by part; "" where none was."""

    def erase(
        self, model: ModelView, request: Request, sights: VisionTextTowers, look: PresenceJudge | None = None
    ) -> Edit:
        """Find the edit; `look` where there is a judge. The model is bitwise unchanged afterwards."""


_MethodClass = TypeVar("_MethodClass", bound=type)


@dataclass(frozen=True)
class MethodInfo:
    """A row of the methods table."""

    name: str
    settings: type
    """The dataclass itself."""
    paper: str
    families: tuple[Family, ...]
    summary: str
    does: MethodTask = "erase"
    """"debias": the class is a `Debiaser`, else a `Method`."""
    mechanism: Mechanism = "trained"
    version: int = 1
    """Raised when the same settings would give another edit."""
    unsupported_reason: str = _UNDEFINED_REASON
    """Why it refuses the other families."""
    needs_vision: bool = False
    """The class is a `VisionMethod`."""

    def refusal(self, family: str) -> str | None:
        """The reason, or None for a family that it is defined and tested for."""
        return None if family in self.families else self.unsupported_reason


methods: Registry[MethodInfo] = Registry("method")


def method(
    name: str,
    paper: str,
    families: tuple[Family, ...],
    does: MethodTask = "erase",
    mechanism: Mechanism = "trained",
    version: int = 1,
    unsupported_reason: str = _UNDEFINED_REASON,
    needs_vision: bool = False,
) -> Callable[[_MethodClass], _MethodClass]:
    """Register a method under the name users type; `elsewhere` is why it refuses the families that are not listed."""

    def put(kind: _MethodClass) -> _MethodClass:
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        methods.register(name)(
            MethodInfo(name, kind, paper, families, summary, does, mechanism, version, unsupported_reason, needs_vision)
        )
        return kind

    return put
