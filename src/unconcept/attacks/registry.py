"""Input and output of attacks, and their registry."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor

from ..core.concept import Concept
from ..core.docstrings import summary_of
from ..core.errors import require
from ..core.registry import Registry
from ..core.seeds import numbered_seed
from ..core.settings import refuse_wrong_types
from ..edits import ApplicableEdit, Edit
from ..models import Conditioning, Family, ModelView
from ..models.checkpoint.fingerprint import TEXT_ENCODER_PARTS
from ..models.diffusion.procedures.registry import SamplingProcedure
from ..models.families import require_families, undefined_for
from ..models.model_view import SoftPrompts
from ..prompts.picture_edits import WantedChange, edit_text, wanted_change

AccessLevel = Literal["text", "embedding", "latent", "picture", "weights"]  # access that an attacker needs, least first
SearchScope = Literal["prompt", "concept"]  # one search for each prompt, or one for all prompts of a concept
# What an attack acts on: anything, any changed weight, changed weights that read the text, or the edit's own training.
AttackLever = Literal["anything", "weights", "text weights", "own training"]
ACCESS_LEVELS: tuple[AccessLevel, ...] = ("text", "embedding", "latent", "picture", "weights")
# What an attack costs whoever makes it, from free to dear: the order of the ladder.
AttackCost = Literal[
    "detaching",
    "wording",
    "sampling",
    "text search",
    "embedding",
    "latent",
    "picture",
    "merging",
    "rounding",
    "benign tuning",
    "relearning",
]
ATTACK_COSTS: tuple[AttackCost, ...] = get_args(AttackCost)
# Costs of attacks that usually have gradients, pictures or training: they may teach a model what it never knew.
_TEACHING_COSTS: frozenset[AttackCost] = frozenset(
    ("text search", "embedding", "latent", "picture", "benign tuning", "relearning")
)
# Pictures of the concept that an attacker must have for a search: none, the prompt's own, one example on other noise,
# or several.
PicturesNeeded = Literal["none", "prompts", "example", "examples"]
EXAMPLE_PICTURES = 12  # examples of the concept, unless an attack's settings name a number of `pictures`


@dataclass(frozen=True)
class AttackCase:
    """One edit, one concept, and the prompts in which the attack tries to bring it back.

    Outside of `edit_applied()` the model is unedited. Images (n, 3, h, w) are in [0, 1], noise (n, c, h, w) has unit
    variance; their rows belong to `prompts`. An attack may use everything here, but it never gets a judge.
    """

    model: ModelView
    edit: ApplicableEdit | None
    """Edit to attack; None attacks the unedited model, which gives the ceiling of the attack."""
    concept: Concept
    """Concept to bring back; its aliases are the wordings that the attacker knows."""
    prompts: tuple[str, ...]
    noise: Tensor
    """Initial noise of each prompt."""
    pictures: Tensor
    """The unedited model's image for each prompt."""
    examples: Tensor
    """Further images of the concept by the unedited model (m, 3, h, w), from other seeds."""
    captions: tuple[str, ...] = ()
    """Captions of the examples; () if they are not known."""
    wordings: tuple[str, ...] = ()
    """Other wordings of the concept, which the request did not contain."""
    unrelated: tuple[tuple[str, ...], Tensor] | None = None
    """Captions and images without the concept."""
    retrain: Callable[[], Edit] | None = None
    """Runs the training that made the edit again, on the model as it then computes; None if it has none."""
    steps: int = 20
    """Sampling steps."""
    guidance_scale: float = 4.0
    seed: int = 0
    solved: set[int] = field(default_factory=set)
    """Indexes of prompts whose attempts have already succeeded; skip them."""

    @property
    def unsolved(self) -> list[int]:
        """Indexes of the prompts that are not solved yet."""
        return [i for i in range(len(self.prompts)) if i not in self.solved]

    def edit_applied(self) -> AbstractContextManager[None]:
        """Apply the edit inside the block. Never `yield` in it."""
        return nullcontext() if self.edit is None else self.edit.applied(self.model)


@dataclass(frozen=True)
class AttackInput:
    """Input to sample from instead of one prompt. None means as in the case; set only one of `soft` and `states`."""

    text: str
    """The prompt, or the text nearest to the input."""
    soft: SoftPrompts | None = None
    """Soft prompt (one row), which the edited model's own encoders encode."""
    states: Conditioning | None = None
    """Encoded text states (one row)."""
    noise: Tensor | None = None
    """Initial noise (c, h, w)."""
    weights: Edit | None = None
    """A further edit on top of the edited model."""
    sampling: SamplingProcedure | None = None
    """How it is drawn (one row); None: from its noise to the end."""


@dataclass(frozen=True)
class AttackAttempt:
    """Inputs by the index of their prompt, found after `steps` steps of search. The first attempt has 0 steps.

    A control is no try: its pictures solve no prompt, and their rate stands beside the attack's.
    """

    steps: int
    inputs: dict[int, AttackInput]
    loss: float | None = None
    control: str | None = None
    """Name of the control that these inputs are; None for a try."""
    wanted: WantedChange | None = None
    """What else the pictures must show to count, where the judge can tell; None: the concept is enough."""


class Attack(Protocol):
    """Protocol of an attack: a frozen dataclass of settings with one verb, `search`.

    One that is not defined for every family says by what mechanism, in a class variable `undefined_elsewhere`.
    """

    @property
    def most_steps(self) -> int:
        """Steps of a search that finds nothing, as `AttackAttempt` counts them."""

    def search(self, case: AttackCase) -> Iterator[AttackAttempt]:
        """Yield attempts with increasing steps. After each one the harness samples, judges, and fills `case.solved`."""


_REASON = "undefined_elsewhere"  # of settings: why the attack is not defined for the other families

_AttackClass = TypeVar("_AttackClass", bound=type)


@dataclass(frozen=True)
class LadderPlace:
    """Where an attack stands on the ladder, which goes from what costs nothing to what costs most."""

    cost: AttackCost | None = None
    """What it costs; None: what its access usually costs."""
    pictures: PicturesNeeded = "none"
    """Pictures of the concept that it uses."""
    starts_from_pictures: bool = False
    """Whether its first input, before any search, is made of these pictures already."""
    teaches: bool | None = None
    """Whether it has gradients, pictures or training, so that it may teach a model; None: as is usual at its cost."""
    rungs: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Its rungs by name, each with settings that differ from the recipe's; {} for one rung of the attack's name."""


@dataclass(frozen=True)
class AttackInfo:
    """An entry of the registry of attacks."""

    name: str
    settings: type
    """The dataclass itself."""
    paper: str
    rung: AccessLevel
    scope: SearchScope
    families: tuple[Family, ...]
    summary: str
    lever: AttackLever = "anything"
    """What an edit must change so that the attack can act on it."""
    white_box: bool = True
    """Whether it sees the weights or gradients of the edited model; else it types, encodes or samples."""
    place: LadderPlace = LadderPlace()

    @property
    def cost(self) -> AttackCost:
        """What it costs, by its place or by its access."""
        if self.place.cost is not None:
            return self.place.cost
        if self.rung == "text":
            return "text search" if self.white_box else "wording"
        return "relearning" if self.rung == "weights" else self.rung

    def undefined_for(self, family: str) -> str:
        """The message that it is not defined for a family, with the mechanism that the family lacks."""
        reason = getattr(self.settings, _REASON, "")
        return undefined_for(self.name, family, self.families) + (f": {reason}" if reason else "")

    @property
    def teaches(self) -> bool:
        """Whether it may teach a model what it never knew, instead of recalling it."""
        return self.cost in _TEACHING_COSTS if self.place.teaches is None else self.place.teaches

    @property
    def rungs(self) -> Mapping[str, Mapping[str, object]]:
        """Settings of its rungs by name."""
        return self.place.rungs or {self.name: {}}


attacks: Registry[AttackInfo] = Registry("attack", plugin_group="unconcept.attacks")


def first_edit_alone(case: AttackCase, edits: Sequence[str], name: str | None = None) -> AttackAttempt:
    """The floor of an attack that edits pictures: the first edit's text, with the concept's name or without, alone."""
    alone = AttackInput(edit_text(edits[0], name))
    return AttackAttempt(0, dict.fromkeys(range(len(case.prompts)), alone), wanted=wanted_change(edits[0]))


def noise_of_attacker(case: AttackCase, i: int) -> Tensor:
    """Noise (c, h, w) of the attacker's own for prompt i.

    A picture that is noised by the noise from which it was drawn comes near to the way on which it was drawn.
    """
    return torch.randn(case.noise.shape[1:], generator=torch.Generator().manual_seed(numbered_seed(case.seed, i)))


def try_edits(
    case: AttackCase, edits: Sequence[str], name: str | None, done: int, make: Callable[[int, str], AttackInput]
) -> Iterator[AttackAttempt]:
    """Try each edit on the prompts that are left, after so many steps. `make` edits a prompt's picture by a text."""
    for tried, edit in enumerate(edits, done + 1):
        left, text = case.unsolved, edit_text(edit, name)
        if not left:
            return
        yield AttackAttempt(tried, {i: make(i, text) for i in left}, wanted=wanted_change(edit))


def require_positive_settings(owner: str, **counts: int) -> None:
    """Raise `SettingsError` unless all of these settings of an attack are > 0."""
    for name, count in counts.items():
        require(count > 0, f"{owner}: {name} must be > 0, got {count}")


def attack(
    name: str,
    paper: str,
    rung: AccessLevel,
    scope: SearchScope,
    families: tuple[Family, ...],
    lever: AttackLever = "anything",
    white_box: bool = True,
    place: LadderPlace = LadderPlace(),
) -> Callable[[_AttackClass], _AttackClass]:
    """Register an attack under its name for users."""
    require_families(families, f"attack {name}")

    def put(kind: _AttackClass) -> _AttackClass:
        refuse_wrong_types(kind, f"{name} setting")
        summary = summary_of(kind)
        attacks.register(name)(AttackInfo(name, kind, paper, rung, scope, families, summary, lever, white_box, place))
        return kind

    return put


def why_out_of_reach(info: AttackInfo, edit: Edit, model: ModelView) -> str | None:
    """Say why an attack cannot act on an edit: it would draw the plain prompts again. None if it can act on it, or if
    that depends on the method that made the edit.
    """
    if info.lever in ("anything", "own training") or (info.lever == "weights" and edit.names):
        return None
    if info.lever == "weights":
        return f"{info.name} mixes weights; the edit {edit.describe()}: whoever has its files leaves it out (detach)"
    read = {*model.text_maps(), *model.text_maps("pooled")}
    if any(name in read or name.partition(".")[0] in TEXT_ENCODER_PARTS for name in edit.names):
        return None
    return (
        f"{info.name} inverts changed text maps or text encoders; the edit {edit.describe()} and leaves them as they"
        " are"
    )
