"""The task that makes an edit: erase concepts with a method and settings, once for all runs."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ...core.concept import ConceptKind
from ...core.hashing import hash_json
from ...core.output_folder import STORE_REMEDY, atomic_file, write_atomically
from ...core.progress import task_progress
from ...core.recipe import settings_for_kind
from ...core.request import RequestSpec
from ...core.source import source_hash
from ...erasing.make_edit import make_edit, train_in_folder
from ...erasing.request_defaults import ResolvedRequest
from ...methods import MethodServices, methods
from ...models.loading import LOADING
from ...prompts.checks import GroupSizes
from ...worlds.recipes import current_recipe
from ...worlds.registry import DEFAULT_MODEL
from ..judging.advice import adviser_of, judged_services
from ..worlds import World, world_of
from .edited_model import EditedModel
from .picture_store import PictureStore


@dataclass(frozen=True)
class Variant:
    """One way to erase: a method with settings, on the world's request or on the names only."""

    label: str
    method: str
    settings: Mapping[str, object] = field(default_factory=dict)
    bare: bool = False
    """Use the names only, null anchors and no retain set, as the papers' scripts do."""
    retain: tuple[str, ...] = ()
    """Texts to retain in addition to those of the request."""
    kinds: Mapping[ConceptKind, Mapping[str, object]] = field(default_factory=dict)
    """Settings that differ for concepts of a kind."""
    anchors: tuple[str, ...] = ()
    """Anchors in place of the world's: one for all concepts, or one each; () for the world's."""

    def changed(self, label: str, settings: Mapping[str, object]) -> "Variant":
        """The same with other settings, for concepts of every kind."""
        kinds = {kind: {**own, **settings} for kind, own in self.kinds.items()}
        return replace(self, label=label, settings={**self.settings, **settings}, kinds=kinds)

    def settings_for(self, kind: str) -> dict[str, object]:
        """The settings for concepts of a kind."""
        return settings_for_kind(self.settings, self.kinds, kind)


def variant_of_method(method: str, model: str = DEFAULT_MODEL) -> Variant:
    """A method with the settings of the model's recipe for it, or with its own defaults if there is none."""
    name = world_of(model).recipe(method)
    recipe = None if name is None else current_recipe(name)
    return Variant(method, method) if recipe is None else Variant(method, method, recipe.settings, kinds=recipe.kinds)


@dataclass(frozen=True)
class EditTask:
    """Erases concepts together from the unedited model; puts edit and cost in the run's folder, and in the store for
    other runs.
    """

    subject: EditedModel
    variant: Variant
    concepts: tuple[str, ...]
    folder: Path
    kind: str = "edit"

    @property
    def world(self) -> World:
        return world_of(self.subject.model)

    @property
    def chosen(self) -> ResolvedRequest:
        """The complete request, with the reason for each of its parts."""
        ask = RequestSpec(self.concepts, self.variant.anchors or None)
        if self.variant.bare:
            return self.world.bare_request(ask)
        chosen = self.world.request(ask, methods[self.variant.method].does)
        retain = (*chosen.request.retain, *self.variant.retain)
        return replace(chosen, request=replace(chosen.request, retain=retain, folds_case=False))

    @property
    def settings(self) -> dict[str, object]:
        """The variant's settings for the kind of the concepts."""
        return self.variant.settings_for(self.chosen.request.kind)

    def services(self, store: PictureStore) -> MethodServices:
        """What the method may use while it works: the world's judge for methods, never the one that grades."""
        info, chosen = methods[self.variant.method], self.chosen
        suite = self.world.erasure_suite(chosen.concepts, chosen.request.retain, GroupSizes())
        model, spec = self.subject.base(), self.world.draw_spec(None)
        judge = self.world.method_judge
        asked = judged_services(info, model, chosen, judge, suite, spec, store, task_progress().tell)
        return replace(asked, vision_towers=self.world.vision_towers)

    @property
    def id(self) -> str:
        variant = {name: value for name, value in asdict(self.variant).items() if name != "anchors"}
        return hash_json([self.kind, self.subject.key, variant, self.concepts, asdict(self.chosen.request)])[:40]

    @property
    def size(self) -> int:
        return 1

    @property
    def path(self) -> Path:
        return self.folder / f"{self.id}.safetensors"

    def stored_path(self, store: Path) -> Path:
        """The path in the store's folder; it does not depend on the variant's label."""
        asked = [
            self.subject.key,
            self.variant.method,
            self.settings,
            asdict(self.chosen.request),
            self.concepts,
            *filter(None, [adviser_of([self.variant.method], self.world.method_judge)]),
        ]
        source = source_hash(methods[self.variant.method].settings.__module__, LOADING)
        key = hash_json([source, asked])[:40]
        return store / "edits" / key[:2] / f"{key}.safetensors"

    def is_done(self, store: PictureStore) -> bool:
        return self.path.with_suffix(".json").exists()

    def run(self, store: PictureStore) -> None:
        """Make the edit, unless the store has it, and put it into the run's folder."""
        kept = self.stored_path(store.root)
        if not store.has_result(kept.with_suffix(".json")):
            self._make(kept, store)
            store.share_result(kept.with_suffix(".json"))
        self.collect(store)

    def collect(self, store: PictureStore) -> bool:
        """Copy the edit from the store, where another machine may have put it. Whether the run's folder has it then.

        The cost file is written last: beside one, the edit is complete.
        """
        kept = self.stored_path(store.root)
        if not self.is_done(store) and store.has_result(kept.with_suffix(".json")):
            for suffix in (".safetensors", ".json"):
                with atomic_file(self.path.with_suffix(suffix), STORE_REMEDY) as part:
                    shutil.copyfile(kept.with_suffix(suffix), part)
        return self.is_done(store)

    def _make(self, path: Path, store: PictureStore) -> None:
        begun = time.perf_counter()
        training = self.path.with_suffix(".training")
        methods[self.variant.method].require_few_steps(self.subject.base())
        with train_in_folder(training, task_progress().tell):
            edit = make_edit(self.subject.base(), self.chosen, self.variant.method, self.settings, self.services(store))
        seconds = time.perf_counter() - begun
        with atomic_file(path, STORE_REMEDY) as part:
            edit.save(part)
        cost = {"seconds": round(seconds, 3), "bytes": path.stat().st_size, "parameters": edit.parameters}
        write_atomically(path.with_suffix(".json"), json.dumps(cost).encode(), STORE_REMEDY)
        shutil.rmtree(training, ignore_errors=True)
