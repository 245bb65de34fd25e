"""Input and output of protections, which change pictures so that models learn badly from them, and their registry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from ..core.docstrings import summary_of
from ..core.errors import DataError, require
from ..core.registry import Registry
from ..core.settings import refuse_wrong_types
from ..models import Family, ModelView
from ..models.families import require_families
from ..training.perturbation.budget import ChangeBudget
from ..training.perturbation.learning_loss import LearningLoss

ProtectionRole = Literal["protection", "control"]  # a control is what anybody does to a picture anyway


@dataclass(frozen=True)
class ProtectionCase:
    """One picture, the model whose users shall not learn it, and how far it may change. The model stays as it is."""

    model: ModelView
    picture: Tensor
    """(3, h, w) in [0, 1], in 8 bits, of the model's own size."""
    budget: ChangeBudget
    text: str = ""
    """Text under which the picture would be learned; "" for any."""
    seed: int = 0
    prepared: Mapping[str, Tensor] | None = None
    """What was trained once for all pictures of this model, if the protection trains anything."""

    def learning_loss(self, samples: int) -> LearningLoss:
        """The loss that a personaliser descends on a picture."""
        return LearningLoss(self.model, self.text, samples)


class Protection(Protocol):
    """Protocol of a protection: a frozen dataclass of settings with one verb, `protect`."""

    def protect(self, case: ProtectionCase) -> Tensor:
        """Return the changed picture (3, h, w) in [0, 1]. The caller fits it to the budget and to 8 bits."""


@dataclass(frozen=True)
class PreparationCase:
    """A model and pictures that stand for any, on which a protection trains what serves all pictures."""

    model: ModelView
    pictures: Tensor
    """(n, 3, h, w) in [0, 1]."""
    budget: ChangeBudget
    text: str = ""
    seed: int = 0


@runtime_checkable
class PreparedProtection(Protocol):
    """Protocol of a protection that may train something once for all pictures of a model."""

    @property
    def training_pictures(self) -> int:
        """Pictures that the training needs; 0 if these settings train nothing."""

    def prepare(self, case: PreparationCase) -> Mapping[str, Tensor]:
        """Train it; the tensors are kept and given to each picture's case."""


_ProtectionClass = TypeVar("_ProtectionClass", bound=type)


@dataclass(frozen=True)
class ProtectionInfo:
    """An entry of the registry of protections."""

    name: str
    settings: type
    """The dataclass itself."""
    paper: str
    families: tuple[Family, ...]
    role: ProtectionRole
    summary: str
    reads_model: bool
    """Whether it computes with the model; others change the picture alone."""


protections: Registry[ProtectionInfo] = Registry("protection", plugin_group="unconcept.protection")


def protection(
    name: str,
    paper: str,
    families: Sequence[Family],
    role: ProtectionRole = "protection",
    reads_model: bool = True,
) -> Callable[[_ProtectionClass], _ProtectionClass]:
    """Register a protection under its name for users."""
    require_families(families, f"protection {name}")

    def put(kind: _ProtectionClass) -> _ProtectionClass:
        refuse_wrong_types(kind, f"{name} setting")
        info = ProtectionInfo(name, kind, paper, tuple(families), role, summary_of(kind), reads_model)
        protections.register(name)(info)
        return kind

    return put


def protect_picture(given: Protection, case: ProtectionCase) -> Tensor:
    """The protected picture (3, h, w), within the budget and in 8 bits."""
    changed = given.protect(case)
    message = f"a protection gave a picture of shape {tuple(changed.shape)} for one of {tuple(case.picture.shape)}"
    require(changed.shape == case.picture.shape, message, DataError)
    return case.budget.fit(case.picture[None], changed.cpu()[None])[0]
