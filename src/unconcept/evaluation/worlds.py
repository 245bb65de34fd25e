"""Worlds: what a model has besides its weights.

An embedded model has a table of concepts, a judge and recipes; a user's model has only what the user types. Code that
depends on the model calls its `World` instead of comparing model names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..core.concept import Concept, ConceptKind, shared_kind
from ..core.recipe import recipes
from ..core.request import RequestSpec
from ..core.text_identity import TextKey, folded_text
from ..edits.base import EditOrigin
from ..erasing.request_defaults import ResolvedRequest, request_from_words, resolve_request
from ..erasing.vision_towers import named_vision_towers, own_vision_towers
from ..methods import MethodTask, VisionTextTowers
from ..models import ModelView
from ..prompts.checks import GroupSizes
from ..worlds.recipes import current_recipe
from ..worlds.registry import METHOD_JUDGE_WEIGHTS, EmbeddedWorld, embedded_world
from ..worlds.table import ConceptTable, concept_table
from .attacks.threat_model import AttackerKnowledge, knowledge_from_concept, knowledge_from_table
from .judging.judge import Judge
from .sampling import DrawSpec, spec_named
from .suites.from_file import UNLIMITED_SIZES, suite_from_concepts, suite_from_file
from .suites.registry import Suite, suite_for_edits, suites


class World(Protocol):
    """Everything that depends on which model is used."""

    @property
    def title(self) -> str | None:
        """Title of the default model for messages; None for a model that the user named."""

    @property
    def judge(self) -> Judge | None:
        """The model's own judge; None if the user must name one."""

    @property
    def method_judge(self) -> Judge | None:
        """The judge through which methods and the output filter look, which does not grade; None if there is none."""

    def request(self, ask: RequestSpec, does: MethodTask = "erase", folds_case: bool = True) -> ResolvedRequest:
        """Complete a request: fill in what the user leaves open. `folds_case`: the tokenizers fold capitals."""

    def bare_request(self, ask: RequestSpec) -> ResolvedRequest:
        """Make a request of the names only, with their kind's null anchor, as the papers' scripts do."""

    def require_concepts(self, names: Sequence[str]) -> None:
        """Raise `UnknownName` for a concept that the model's judge cannot know."""

    def kind(self, ask: RequestSpec) -> ConceptKind | None:
        """Kind of the concepts of a request; None if it names neither a concept nor a kind."""

    def recipe(self, name: str) -> str | None:
        """Name of the default recipe of a method or an attack on this model; None if there is none."""

    def draw_spec(self, named: str | None, published: str | None = None, batch_size: int = 24) -> DrawSpec:
        """Sampler settings: of the named protocol or the model's default. `published` is the protocol of the suite's
        paper.
        """

    def suite(
        self, suite: Suite, concepts: Sequence[Concept], retain: Sequence[str], origins: Sequence[EditOrigin]
    ) -> Suite:
        """The suite with prompts for this model. `origins` are the headers of the edits under test."""

    def erasure_suite(self, concepts: Sequence[Concept], retain: Sequence[str], sizes: GroupSizes) -> Suite:
        """The suite that checks an erasure of concepts."""

    def suite_from_file(
        self,
        path: Path,
        concepts: Sequence[str],
        key: TextKey = folded_text,
        own_judge: bool = True,
        kind: ConceptKind = "object",
    ) -> Suite:
        """The suite of a prompt file; `key` tells which names are one concept, `kind` is theirs.

        With `own_judge` it has only prompts that the world's own judge can answer.
        """

    def attacker_knowledge(self, concept: Concept, retain: Sequence[str]) -> AttackerKnowledge:
        """What an attacker may know about an erased concept; `retain` was retained beside it."""

    def vision_towers(self, model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
        """The vision towers that belong to the text encoders; `clips` maps an encoder to the user's folder."""


@dataclass(frozen=True)
class MojiWorld:
    """The world of an embedded model: its table fills in requests, and its judge knows every concept of the table."""

    data: EmbeddedWorld

    @property
    def title(self) -> str | None:
        return f"{self.data.name}, the embedded model"

    @property
    def judge(self) -> Judge | None:
        return Judge(self.data.judge)

    @property
    def method_judge(self) -> Judge | None:
        return Judge(self.data.judge, str(METHOD_JUDGE_WEIGHTS))

    @property
    def table(self) -> ConceptTable:
        return concept_table()

    def request(self, ask: RequestSpec, does: MethodTask = "erase", folds_case: bool = True) -> ResolvedRequest:
        return resolve_request(ask, self.data.name, does, folds_case)

    def bare_request(self, ask: RequestSpec) -> ResolvedRequest:
        return request_from_words(replace(ask, kind=self.kind(ask)))

    def require_concepts(self, names: Sequence[str]) -> None:
        for name in names:
            self.table[name]

    def kind(self, ask: RequestSpec) -> ConceptKind | None:
        # What is wrong with a target that the table does not know is said when the request is resolved.
        known = {entry.name: entry.kind for entry in self.table.entries}
        kinds = [known[name] for name in ask.targets if name in known]
        return shared_kind(kinds) if kinds else ask.kind

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

    def suite_from_file(
        self,
        path: Path,
        concepts: Sequence[str],
        key: TextKey = folded_text,
        own_judge: bool = True,
        kind: ConceptKind = "object",
    ) -> Suite:
        return suite_from_file(path, concepts, self.table, key, own_judge, kind)

    def attacker_knowledge(self, concept: Concept, retain: Sequence[str]) -> AttackerKnowledge:
        return knowledge_from_table(concept.name)

    def vision_towers(self, model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
        return own_vision_towers(self.data, model, clips)


@dataclass(frozen=True)
class UserWorld:
    """The world of a user's model: any words can be a concept, and nothing is known about them but what was typed."""

    model: str
    title: str | None = None
    judge: Judge | None = None
    method_judge: Judge | None = None

    def request(self, ask: RequestSpec, does: MethodTask = "erase", folds_case: bool = True) -> ResolvedRequest:
        return resolve_request(ask, self.model, does, folds_case)

    def bare_request(self, ask: RequestSpec) -> ResolvedRequest:
        return request_from_words(ask)

    def require_concepts(self, names: Sequence[str]) -> None:
        """Accepts every name: the judge that the user names gets the words as they are."""

    def kind(self, ask: RequestSpec) -> ConceptKind | None:
        return ask.kind or ("object" if ask.targets else None)

    def recipe(self, name: str) -> str | None:
        return None

    def draw_spec(self, named: str | None, published: str | None = None, batch_size: int = 24) -> DrawSpec:
        return spec_named(named or published, self.model, batch_size)

    def suite(
        self, suite: Suite, concepts: Sequence[Concept], retain: Sequence[str], origins: Sequence[EditOrigin]
    ) -> Suite:
        """The paper's own prompts if the suite has them; for suites in groups, the concepts in templates."""
        if suite.published_questions is not None:
            return replace(suite, ask=suite.published_questions, sizes=UNLIMITED_SIZES, draw=suite.published_draw)
        if not suite.in_groups:
            return suite_for_edits(suite, origins)
        plain = suite_from_concepts(concepts, retain, suite.sizes)
        return replace(plain, figures=suite.figures, attacks=suite.attacks, draw=suite.published_draw)

    def erasure_suite(self, concepts: Sequence[Concept], retain: Sequence[str], sizes: GroupSizes) -> Suite:
        return suite_from_concepts(concepts, retain, sizes)

    def suite_from_file(
        self,
        path: Path,
        concepts: Sequence[str],
        key: TextKey = folded_text,
        own_judge: bool = True,
        kind: ConceptKind = "object",
    ) -> Suite:
        return suite_from_file(path, concepts, None, key, kind=kind)

    def attacker_knowledge(self, concept: Concept, retain: Sequence[str]) -> AttackerKnowledge:
        return knowledge_from_concept(concept, retain)

    def vision_towers(self, model: ModelView, clips: Mapping[str, str]) -> VisionTextTowers:
        return named_vision_towers(model, clips)


def world_of(model: str) -> World:
    """The world of a model by its name or path."""
    data = embedded_world(model)
    return UserWorld(model) if data is None else MojiWorld(data)


def recipe_settings(world: World, name: str) -> Mapping[str, object]:
    """Settings of a method or an attack from the world's recipe; empty if there is no recipe."""
    recipe = world.recipe(name)
    return {} if recipe is None else current_recipe(recipe).settings
