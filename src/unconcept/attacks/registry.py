"""What an attack is given, what it gives back, and the table of attacks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from torch import Tensor

from ..core.concept import Concept
from ..core.docstrings import summary_of
from ..core.errors import require
from ..core.registry import Registry
from ..edits import ApplicableEdit, Edit
from ..models import Conditioning, Family, ModelView
from ..models.families import require_families
from ..models.model_view import SoftPrompts

AccessLevel = Literal["text", "embedding", "latent", "weights"]  # how deep an attacker must reach, from the outside in
SearchScope = Literal["prompt", "concept"]  # one search a prompt, or one for all prompts of a concept
ACCESS_LEVELS: tuple[AccessLevel, ...] = ("text", "embedding", "latent", "weights")


@dataclass(frozen=True)
class AttackCase:
    """One edit, one concept, and the prompts in which the attack shall bring it back.

    Outside of `edited()` the model is unedited. Pictures (n, 3, h, w) in [0, 1], noise (n, c, h, w) of unit variance,
    rows belong to `prompts`. An attack may use everything here; it never sees a judge.
    """

    model: ModelView
    edit: ApplicableEdit | None
    """None: the unedited model, on which the same attack shows its ceiling."""
    concept: Concept
    """Aliases: the wordings an attacker is told."""
    prompts: tuple[str, ...]
    noise: Tensor
    """What each prompt is drawn from."""
    pictures: Tensor
    """What the unedited model draws for each prompt."""
    examples: Tensor
    """Further pictures of the concept by the unedited model (m, 3, h, w), other seeds."""
    wordings: tuple[str, ...] = ()
    """Other ways to say the concept, which no request was given."""
    unrelated: tuple[tuple[str, ...], Tensor] | None = None
    """Captions and pictures without the concept."""
    steps: int = 20
    """Of the sampler."""
    guidance_scale: float = 4.0
    seed: int = 0
    solved: set[int] = field(default_factory=set)
    """Prompts whose attempts already succeeded: leave them alone."""

    @property
    def unsolved(self) -> list[int]:
        """Numbers of the prompts that are not solved."""
        return [i for i in range(len(self.prompts)) if i not in self.solved]

    def edit_applied(self) -> AbstractContextManager[None]:
        """Inside, the model computes with the edit. Never `yield` inside."""
        return nullcontext() if self.edit is None else self.edit.applied(self.model)


@dataclass(frozen=True)
class AttackInput:
    """What to draw instead of one prompt. What is None is as in the case; only one of `soft` and `states` is set."""

    text: str
    """What is typed, or what stands nearest to it."""
    soft: SoftPrompts | None = None
    """One row: read by the edited model's own encoders."""
    states: Conditioning | None = None
    """One row: finished text states."""
    noise: Tensor | None = None
    """(c, h, w)."""
    weights: Edit | None = None
    """Laid over the edited model."""


@dataclass(frozen=True)
class AttackAttempt:
    """Inputs by number of their prompt, found after `steps` steps of search.

    The first attempt of all has spent none.
    """

    steps: int
    inputs: dict[int, AttackInput]
    loss: float | None = None


class Attack(Protocol):
    """A frozen dataclass of settings with one verb."""

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Attempts with growing steps. Between two of them the harness draws, judges, and fills `case.solved`."""


_AttackClass = TypeVar("_AttackClass", bound=type)


@dataclass(frozen=True)
class AttackInfo:
    """A row of the attacks table."""

    name: str
    settings: type
    """The dataclass itself."""
    paper: str
    rung: AccessLevel
    scope: SearchScope
    families: tuple[Family, ...]
    summary: str


attacks: Registry[AttackInfo] = Registry("attack", plugin_group="unconcept.attacks")


def require_positive_settings(owner: str, **counts: int) -> None:
    """`SettingsError` unless each of an attack's settings is a number > 0."""
    for name, count in counts.items():
        require(count > 0, f"{owner}: {name} must be > 0, got {count}")


def attack(
    name: str, paper: str, rung: AccessLevel, scope: SearchScope, families: tuple[Family, ...]
) -> Callable[[_AttackClass], _AttackClass]:
    """Register an attack under the name users type."""
    require_families(families, f"attack {name}")

    def put(kind: _AttackClass) -> _AttackClass:
        summary = summary_of(kind)
        attacks.register(name)(AttackInfo(name, kind, paper, rung, scope, families, summary))
        return kind

    return put
