"""The table of methods: a decorator puts each there, with its paper, what it does and the families it is defined for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from ..core.registry import Registry
from ..core.request import Request
from ..edits import Edit
from ..models import Family, ModelView
from ..models.vision.paired_clip import Sights

Does = Literal["erase", "debias"]
Way = Literal["closed-form", "trained", "one-step", "steering"]  # solved from texts alone; step by step; along one gradient; a rule for sampling
UNDEFINED = "its paper does not define it there"


class Method(Protocol):
    """A frozen dataclass of hyperparameters with one verb."""

    def erase(self, model: ModelView, request: Request) -> Edit:
        """Find the edit. The model is bitwise unchanged afterwards."""


class Observe(Protocol):
    """Draws and judges for a method, which can do neither."""

    def __call__(self, text: str, attributes: Sequence[str], pictures: int, turn: int) -> Sequence[int]:
        """How many of `pictures` of a text, drawn by the model as it computes now, show each attribute. Another turn is other noise.

        `RequestError` for an attribute that nobody can tell.
        """


class Debiaser(Protocol):
    """A method that makes targets show attributes in wanted shares. Its request has no anchors."""

    def erase(self, model: ModelView, request: Request, observe: Observe) -> Edit:
        """Find the edit, looking at what the model draws on the way. The model is bitwise unchanged afterwards."""


class Look(Protocol):
    """Draws and judges what is to be erased, for a method that can do neither."""

    def __call__(self, pictures: int) -> float:
        """Share of `pictures` of each target, drawn by the model as it computes now, that show it."""


class Seer(Protocol):
    """A method that needs the vision towers beside the model's text encoders."""

    @property
    def clips(self) -> Mapping[str, str]:
        """Folders of the CLIPs that were named, by part; "" where none was."""

    def erase(self, model: ModelView, request: Request, sights: Sights, look: Look | None = None) -> Edit:
        """Find the edit; `look` where there is a judge. The model is bitwise unchanged afterwards."""


M = TypeVar("M", bound=type)


@dataclass(frozen=True)
class MethodInfo:
    """A row of the methods table."""

    name: str
    settings: type  # the dataclass itself
    paper: str
    families: tuple[Family, ...]
    summary: str
    does: Does = "erase"  # "debias": the class is a `Debiaser`, else a `Method`
    way: Way = "trained"
    version: int = 1  # raised when the same settings would give another edit
    elsewhere: str = UNDEFINED  # why it refuses the other families
    sees: bool = False  # the class is a `Seer`

    def refuses(self, family: str) -> str | None:
        """The reason, or None for a family that it is defined and tested for."""
        return None if family in self.families else self.elsewhere


methods: Registry[MethodInfo] = Registry("method")


def method(
    name: str,
    paper: str,
    families: tuple[Family, ...],
    does: Does = "erase",
    way: Way = "trained",
    version: int = 1,
    elsewhere: str = UNDEFINED,
    sees: bool = False,
) -> Callable[[M], M]:
    """Register a method under the name users type; `elsewhere` is why it refuses the families that are not listed."""

    def put(kind: M) -> M:
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        methods.register(name)(MethodInfo(name, kind, paper, families, summary, does, way, version, elsewhere, sees))
        return kind

    return put
