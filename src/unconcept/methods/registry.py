"""The registry of methods: a decorator adds each with its paper, its task and the families it is defined for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from typing import Any, Literal, Protocol, TypeVar, get_args

from ..core.docstrings import summary_of
from ..core.errors import ModelError, PluginError, RequestError, SettingsError, require
from ..core.registry import Registry
from ..core.request import Request, relative_weights
from ..core.settings import refuse_wrong_types, settings_data
from ..edits import Edit
from ..edits.origin import OriginMaker
from ..models import Family, ModelView
from ..models.families import families as known_families
from ..models.families import require_families
from ..models.text.text_identity import request_as_read
from ..models.vision.paired_clip import VisionTextTowers

MethodTask = Literal["erase", "debias", "keep"]
# Solved from texts alone; trained step by step; one step along a gradient; a rule while sampling.
Mechanism = Literal["closed-form", "trained", "one-step", "steering"]
# What a method promises of its edit, whatever the request: it changes the model at all; the maps' output for a target
# moves; it moves towards the anchor's; the model's own vision tower no longer tells the target from others.
Promise = Literal["changes", "moves-targets", "nears-anchors", "leaves-vision-tower"]
# What an edit leaves of a model whose denoiser reads a pooled text through no map, and whose pipeline has zeros in the
# empty text's place: that pooled text; those zeros, because the training encoded the empty text. "any pooled text" is
# also one that the denoiser reads through a map.
Unreached = Literal["pooled text", "any pooled text", "unconditional", "nothing"]
_UNREACHED_BY_MECHANISM: Mapping[Mechanism, Unreached] = {
    "closed-form": "pooled text",
    "steering": "pooled text",
    "trained": "unconditional",
    "one-step": "nothing",
}
_UNWEIGHED_BY_MECHANISM: Mapping[Mechanism, str] = {
    "closed-form": "its stages fix how much each target counts",
    "trained": "what it trains on is made for each target alone (pictures, adapters, masks, stages), in fixed numbers",
    "one-step": "its one step follows pictures of all targets at once",
    "steering": "it steers by whatever names a target, and minimises no sum over targets",
}
_UNDEFINED_REASON = "its paper does not define it there"


class AttributeCounter(Protocol):
    """Samples images and counts attributes in them, for methods, which can do neither."""

    def __call__(self, text: str, attributes: Sequence[str], pictures: int, turn: int) -> Sequence[int]:
        """Count how many of `pictures` images of a text, sampled with the current model, show each attribute.

        Each turn has its own noise. Raises `RequestError` for an attribute that the judge does not know.
        """


class PresenceJudge(Protocol):
    """Samples images of the targets and judges them, for methods, which can do neither."""

    def __call__(self, pictures: int) -> float:
        """Return the share of images, `pictures` of each target sampled with the current model, that show it."""


class VisionTowerLoader(Protocol):
    """Opens the vision towers beside a model's text encoders."""

    def __call__(self, model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
        """Return the towers by encoder. `clips` maps encoders to folders of whole CLIPs, "" if the user named none."""


class TeacherLoader(Protocol):
    """Opens the model of many steps that a model of few steps was distilled from, for methods, which open nothing."""

    def __call__(self, model: ModelView, name: str) -> ModelView:
        """Return the teacher that the model's record names, on the model's device and in its dtype."""


ServiceName = Literal["attribute_counter", "presence_judge", "vision_towers"]


@dataclass(frozen=True)
class MethodServices:
    """Services of the caller for a method, which neither samples nor judges by itself. The default offers none."""

    attribute_counter: AttributeCounter | None = None
    """Counts the attributes that sampled images show."""
    presence_judge: PresenceJudge | None = None
    """Measures how often sampled images show the targets."""
    vision_towers: VisionTowerLoader | None = None
    """Opens the vision towers of the model's text encoders."""
    adviser: str = ""
    """Hash of the weights of the judge that these services ask; "" for none. It may not grade the edit."""
    weights: Mapping[str, float] | None = None
    """How much each target counts beside the others, by target; one that is not named counts 1. None: all the same."""
    teacher: TeacherLoader | None = None
    """Opens the teacher of a model of few steps."""

    def weights_of(self, request: Request) -> tuple[float, ...] | None:
        """Return the weight of each target, of mean 1; None if all count the same."""
        weights = relative_weights(request.targets, self.weights)
        return None if weights is None else tuple(weights[name] for name in request.targets)


NO_SERVICES = MethodServices()


class Method(Protocol):
    """Protocol of a method: a frozen dataclass of hyperparameters with one verb, `erase`."""

    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> Edit:
        """Make the edit. The model is bitwise unchanged afterwards.

        Raises `RequestError` if the method needs a service that `services` does not offer.
        """


_Erase = Callable[[Any, ModelView, Request, MethodServices], Edit]
_MethodClass = TypeVar("_MethodClass", bound=type)


@dataclass(frozen=True)
class MethodInfo:
    """An entry of the registry of methods."""

    name: str
    settings: type
    """The dataclass itself."""
    paper: str
    families: tuple[Family, ...]
    summary: str
    does: MethodTask = "erase"
    """Its task; "debias" makes targets show attributes in wanted shares, "keep" keeps them in pictures.

    Neither erases, and their requests need no anchors.
    """
    mechanism: Mechanism = "trained"
    version: int = 1
    """Version; it is increased if the same settings would give another edit."""
    unsupported_reason: str = _UNDEFINED_REASON
    """Why it refuses families whose attention to the text differs from that of the first of its families."""
    uses: tuple[ServiceName, ...] = ()
    """Services that it needs; callers build no others."""
    promises: tuple[Promise, ...] = ("changes",)
    """What its edits are checked for; nothing else counts as a failure of them, unless they break the model."""

    @property
    def crowded_from(self) -> int | None:
        """Concepts in one request from which it was measured to cost others, in docs/crowd.md; None if it was not.

        A method says so by a class variable of the same name.
        """
        found: int | None = getattr(self.settings, "crowded_from", None)
        return found

    @property
    def unreached(self) -> Unreached:
        """What its edits leave as it is in SDXL. A class variable of the same name says what its mechanism does not."""
        usual = "nothing" if self.does == "keep" else _UNREACHED_BY_MECHANISM[self.mechanism]
        found: Unreached = getattr(self.settings, "unreached", usual)
        return found

    @property
    def needs_guidance(self) -> bool:
        """Whether its edits change classifier-free guidance: pictures drawn without it are refused.

        A method says so by a class variable of the same name.
        """
        return bool(getattr(self.settings, "needs_guidance", False))

    @property
    def needs_few_steps(self) -> bool:
        """Whether it erases from models of few steps alone: commands refuse others.

        A method says so by a class variable of the same name.
        """
        return bool(getattr(self.settings, "needs_few_steps", False))

    @property
    def weighs_targets(self) -> bool:
        """Whether it honours weights of targets, in its sum over them or in how often it trains on each.

        A method says so by a class variable of the same name.
        """
        return bool(getattr(self.settings, "weighs_targets", False))

    def require_weighing(self, weights: Mapping[str, float] | None) -> None:
        """Raise `RequestError`, with the reason, if there are weights and it does not weigh targets."""
        reason = _UNWEIGHED_BY_MECHANISM[self.mechanism] if self.does == "erase" else "it erases nothing"
        message = f"{self.name} takes no weights of targets: {reason}; leave them out"
        require(not weights or self.weighs_targets, message, RequestError)

    @property
    def erases_unwatched(self) -> bool:
        """Whether it erases without a judge that counts its pictures, as a bench, whose judge grades, must ask."""
        return self.does == "erase" and "attribute_counter" not in self.uses

    def require_few_steps(self, model: ModelView) -> None:
        """Raise `SettingsError` if it erases from models of few steps alone, and the model has no record of them."""
        message = f"{self.name} erases inside the distillation to few steps, and {model.name} has no such record"
        is_fit = not self.needs_few_steps or model.few_step is not None
        require(is_fit, f"{message}: give a folder with few_step.json", SettingsError)

    def mechanism_of(self, settings: object) -> Mechanism:
        """Return how an edit is made under these settings, which may add a trained stage to a closed form.

        Their property `is_trained` says so.
        """
        return "trained" if getattr(settings, "is_trained", False) else self.mechanism

    def refusal(self, family: str) -> str | None:
        """Return why it refuses a family, or None if it is defined and tested for it."""
        if family in self.families:
            return None
        own = known_families[self.families[0]].attention  # that of its paper's model, which is named first
        is_alike = family in known_families and known_families[family].attention == own
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
    """Register a method under its name for users. `unsupported_reason` explains why it refuses other families.

    The class may declare `promises: ClassVar`; by default its edits are only checked to change the model.
    """

    require_families(families, f"method {name}")

    def put(kind: _MethodClass) -> _MethodClass:
        refuse_wrong_types(kind, f"{name} setting")
        summary = summary_of(kind)
        promises: tuple[Promise, ...] = getattr(kind, "promises", ("changes",))
        unknown = [promise for promise in promises if promise not in get_args(Promise)]
        allowed = ", ".join(get_args(Promise))
        require(not unknown, f"method {name} promises {unknown}: allowed are {allowed}", PluginError)
        methods.register(name)(
            MethodInfo(
                name, kind, paper, families, summary, does, mechanism, version, unsupported_reason, uses, promises
            )
        )
        solver: Any = kind
        solver.erase = _with_maker(name, solver.erase)
        return kind

    return put


def _with_maker(name: str, erase: _Erase) -> _Erase:
    """Wrap a method's `erase` so that its edit can build its origin, and be saved directly."""

    @wraps(erase)
    def call(self: Method, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> Edit:
        message = f"{name} erases from a model that open_model opened, not from a {type(model).__name__}"
        require(hasattr(model, "family") and not hasattr(model, "components"), message, ModelError)
        fixed = getattr(model, "fixed", "")
        message = f"{name} erases from plain weights, and of {getattr(model, 'name', '')} {fixed}: give the plain model"
        require(not fixed, f"{message}, and apply the edit to this one", ModelError)
        message = f"{name} erases what a Request asks for, not a {type(request).__name__}: build one with Request.of"
        require(isinstance(request, Request), message, RequestError)
        methods[name].require_weighing(services.weights)
        weights = relative_weights(request.targets, services.weights)
        edit = erase(self, model, request_as_read(model, request), replace(services, weights=weights))
        if not is_dataclass(edit) or all(field.name != "maker" for field in fields(edit)):
            return edit
        return replace(edit, maker=OriginMaker(name, settings_data(self) | weights_data(weights), model, request))

    return call


def weights_data(weights: Mapping[str, float] | None) -> dict[str, object]:
    """Return what the record of an edit says of the weights of its targets: nothing without weights."""
    return {"weights": dict(sorted(weights.items()))} if weights else {}
