"""The table of methods: a decorator puts each there, with its paper, what it does and
the families it is defined for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from typing import Any, Literal, Protocol, TypeVar

from ..core.docstrings import summary_of
from ..core.registry import Registry
from ..core.request import Request
from ..core.settings import settings_data
from ..edits import Edit
from ..edits.origin import OriginMaker
from ..models import Family, ModelView
from ..models.families import families as known_families
from ..models.families import require_families
from ..models.vision.paired_clip import VisionTextTowers

MethodTask = Literal["erase", "debias"]
# Solved from texts alone; step by step; along one gradient; a rule for sampling.
Mechanism = Literal["closed-form", "trained", "one-step", "steering"]
_UNDEFINED_REASON = "its paper does not define it there"


class AttributeCounter(Protocol):
    """Draws and judges for a method, which can do neither."""

    def __call__(self, text: str, attributes: Sequence[str], pictures: int, turn: int) -> Sequence[int]:
        """How many of `pictures` of a text, drawn by the model as it computes now, show each attribute.

        Another turn is other noise.

        `RequestError` for an attribute that nobody can tell.
        """


class PresenceJudge(Protocol):
    """Draws and judges what is to be erased, for a method that can do neither."""

    def __call__(self, pictures: int) -> float:
        """Share of `pictures` of each target, drawn by the model as it computes now, that show it."""


class VisionTowerLoader(Protocol):
    """Opens the vision towers beside a model's text encoders."""

    def __call__(self, model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
        """Towers by encoder. `clips` holds the folders of whole CLIPs, by encoder; "" where the user named none."""


ServiceName = Literal["attribute_counter", "presence_judge", "vision_towers"]


@dataclass(frozen=True)
class MethodServices:
    """What a caller lends a method, which neither draws nor judges by itself. The default offers nothing."""

    attribute_counter: AttributeCounter | None = None
    """Counts the attributes that drawn pictures show."""
    presence_judge: PresenceJudge | None = None
    """Says how often drawn pictures show the targets."""
    vision_towers: VisionTowerLoader | None = None
    """Opens the vision towers of the model's text encoders."""


NO_SERVICES = MethodServices()


class Method(Protocol):
    """A frozen dataclass of hyperparameters with one verb."""

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> Edit:
        """Find the edit. The model is bitwise unchanged afterwards.

        `RequestError` if the method needs a service that `services` does not offer.
        """


_Erase = Callable[[Any, ModelView, Request, MethodServices], Edit]
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
    """"debias": it makes targets show attributes in wanted shares, and its request has no anchors."""
    mechanism: Mechanism = "trained"
    version: int = 1
    """Raised when the same settings would give another edit."""
    unsupported_reason: str = _UNDEFINED_REASON
    """Why it refuses families whose attention reads the text otherwise than that of all it is defined for."""
    uses: tuple[ServiceName, ...] = ()
    """Services that it asks for; callers build no others."""

    def refusal(self, family: str) -> str | None:
        """The reason, or None for a family that it is defined and tested for."""
        if family in self.families:
            return None
        known = {known_families[name].attention for name in self.families}
        is_alike = family in known_families and known_families[family].attention in known
        return _UNDEFINED_REASON if is_alike else self.unsupported_reason


methods: Registry[MethodInfo] = Registry("method", plugin_group="unconcept.methods")


def method(
    name: str,
    paper: str,
    families: tuple[Family, ...],
    does: MethodTask = "erase",
    mechanism: Mechanism = "trained",
    version: int = 1,
    unsupported_reason: str = _UNDEFINED_REASON,
    uses: tuple[ServiceName, ...] = (),
) -> Callable[[_MethodClass], _MethodClass]:
    """Register a method under the name users type. `unsupported_reason` says why it refuses other families."""

    require_families(families, f"method {name}")

    def put(kind: _MethodClass) -> _MethodClass:
        summary = summary_of(kind)
        methods.register(name)(
            MethodInfo(name, kind, paper, families, summary, does, mechanism, version, unsupported_reason, uses)
        )
        solver: Any = kind
        solver.erase = _with_maker(name, solver.erase)
        return kind

    return put


def _with_maker(name: str, erase: _Erase) -> _Erase:
    """A method's `erase` whose edit knows what it was asked, so that it can be saved as it is."""

    @wraps(erase)
    def call(self: Method, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> Edit:
        edit = erase(self, model, request, services)
        if not is_dataclass(edit) or all(field.name != "maker" for field in fields(edit)):
            return edit
        return replace(edit, maker=OriginMaker(name, settings_data(self), model, request))

    return call
