"""What a model brings besides its weights. An embedded model has a table, a judge and recipes; a user's model has what
its user types. Whoever runs anything on a model asks its world, and tests for no model by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..core.concept import Concept
from ..core.recipe import load_recipe, recipes
from ..core.request import RequestSpec
from ..edits.base import EditOrigin
from ..erasing.request_defaults import ResolvedRequest, request_from_words, resolve_request
from ..erasing.vision_towers import named_vision_towers, own_vision_towers
from ..methods import MethodTask, VisionTextTowers
from ..models import ModelView
from ..prompts.checks import GroupSizes
from ..worlds.registry import EmbeddedWorld, embedded_world
from ..worlds.table import ConceptTable, concept_table
from .attacks.threat_model import AttackerKnowledge, knowledge_from_concept, knowledge_from_table
from .judging.judge import Judge
from .sampling import DrawSpec, spec_named
from .suites.from_file import UNLIMITED_SIZES, suite_from_concepts, suite_from_file
from .suites.registry import Suite, suite_for_edits, suites


class World(Protocol):
    """Answers every question whose answer depends on which model it is."""

    @property
    def title(self) -> str | None:
        """What users are told of a model they did not name; None for one of their own."""

    @property
    def judge(self) -> Judge | None:
        """Its own judge; None where a user must name one."""

    def request(self, ask: RequestSpec, does: MethodTask = "erase") -> ResolvedRequest:
        """A request with what the user leaves open filled in."""

    def bare_request(self, ask: RequestSpec) -> ResolvedRequest:
        """A request of the names alone, read as their kind's null anchor, as in the papers' scripts."""

    def require_concepts(self, names: Sequence[str]) -> None:
        """`UnknownName` for a concept that its judge cannot know."""

    def recipe(self, name: str) -> str | None:
        """The recipe of a method or an attack that is used unless another one is named."""

    def draw_spec(self, named: str | None, published: str | None = None, batch_size: int = 24) -> DrawSpec:
        """How it draws: by the protocol that was named, or by its default. `published` is what a suite's paper does."""

    def suite(
        self, suite: Suite, concepts: Sequence[Concept], retain: Sequence[str], origins: Sequence[EditOrigin]
    ) -> Suite:
        """The suite with questions for this model. `origins` are the headers of the edits that it is asked about."""

    def erasure_suite(self, concepts: Sequence[Concept], retain: Sequence[str], sizes: GroupSizes) -> Suite:
        """The questions that an erasure of concepts is checked by."""

    def suite_from_file(self, path: Path, concepts: Sequence[str]) -> Suite:
        """The questions of a prompt file."""

    def attacker_knowledge(self, concept: Concept, retain: Sequence[str]) -> AttackerKnowledge:
        """What an attacker may know of an erased concept, beside which `retain` was to stay."""

    def vision_towers(self, model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
        """The vision towers beside its text encoders; `clips` are folders that the user named, by part."""


@dataclass(frozen=True)
class MojiWorld:
    """An embedded model: the table of concepts answers, and its judge knows every concept of the table."""

    data: EmbeddedWorld

    @property
    def title(self) -> str | None:
        return f"{self.data.name}, the embedded model"

    @property
    def judge(self) -> Judge | None:
        return Judge(self.data.judge)

    @property
    def table(self) -> ConceptTable:
        return concept_table()

    def request(self, ask: RequestSpec, does: MethodTask = "erase") -> ResolvedRequest:
        return resolve_request(ask, self.data.name, does)

    def bare_request(self, ask: RequestSpec) -> ResolvedRequest:
        return request_from_words(replace(ask, kind=self.table[ask.targets[0]].kind))

    def require_concepts(self, names: Sequence[str]) -> None:
        for name in names:
            self.table[name]

    def recipe(self, name: str) -> str | None:
        own = f"{self.data.recipes}{name}"
        return own if own in recipes() else None

    def draw_spec(self, named: str | None, published: str | None = None, batch_size: int = 24) -> DrawSpec:
        return spec_named(named, self.data.name, batch_size)

    def suite(
        self, suite: Suite, concepts: Sequence[Concept], retain: Sequence[str], origins: Sequence[EditOrigin]
    ) -> Suite:
        return suite

    def erasure_suite(self, concepts: Sequence[Concept], retain: Sequence[str], sizes: GroupSizes) -> Suite:
        return replace(suites["erase"], sizes=sizes)

    def suite_from_file(self, path: Path, concepts: Sequence[str]) -> Suite:
        return suite_from_file(path, concepts, self.table)

    def attacker_knowledge(self, concept: Concept, retain: Sequence[str]) -> AttackerKnowledge:
        return knowledge_from_table(concept.name)

    def vision_towers(self, model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
        return own_vision_towers(self.data, model, clips)


@dataclass(frozen=True)
class UserWorld:
    """A model of the user's: any words are a concept, and nothing is known of them but what was typed."""

    model: str
    title: str | None = None
    judge: Judge | None = None

    def request(self, ask: RequestSpec, does: MethodTask = "erase") -> ResolvedRequest:
        return resolve_request(ask, self.model, does)

    def bare_request(self, ask: RequestSpec) -> ResolvedRequest:
        return request_from_words(ask)

    def require_concepts(self, names: Sequence[str]) -> None:
        """Nothing is refused: a judge that the user names is given the words."""

    def recipe(self, name: str) -> str | None:
        return None

    def draw_spec(self, named: str | None, published: str | None = None, batch_size: int = 24) -> DrawSpec:
        return spec_named(named or published, self.model, batch_size)

    def suite(
        self, suite: Suite, concepts: Sequence[Concept], retain: Sequence[str], origins: Sequence[EditOrigin]
    ) -> Suite:
        """The paper's own questions where a suite has them; for suites in groups, the concepts in templates."""
        if suite.published_questions is not None:
            return replace(suite, ask=suite.published_questions, sizes=UNLIMITED_SIZES)
        if not suite.in_groups:
            return suite_for_edits(suite, origins)
        plain = suite_from_concepts(concepts, retain, suite.sizes)
        return replace(plain, figures=suite.figures, attacks=suite.attacks)

    def erasure_suite(self, concepts: Sequence[Concept], retain: Sequence[str], sizes: GroupSizes) -> Suite:
        return suite_from_concepts(concepts, retain, sizes)

    def suite_from_file(self, path: Path, concepts: Sequence[str]) -> Suite:
        return suite_from_file(path, concepts, None)

    def attacker_knowledge(self, concept: Concept, retain: Sequence[str]) -> AttackerKnowledge:
        return knowledge_from_concept(concept, retain)

    def vision_towers(self, model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
        return named_vision_towers(model, clips)


def world_of(model: str) -> World:
    """The world of a model by its name or path."""
    data = embedded_world(model)
    return UserWorld(model) if data is None else MojiWorld(data)


def recipe_settings(world: World, name: str) -> Mapping[str, object]:
    """A method's or an attack's settings by the world's recipe; none where it has no recipe."""
    recipe = world.recipe(name)
    return {} if recipe is None else load_recipe(recipe).settings
