"""Methods by requests: make each edit, ask each the same questions, attack each, all resumable."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...attacks import attacks
from ...core.concept import Concept
from ...core.hashing import hash_json
from ...core.output_folder import atomic_file, write_atomically
from ...core.progress import ignore_progress
from ...core.recipe import load_recipe, recipes
from ...core.request import RequestSpec
from ...core.source import source_hash
from ...edits import load_edit, origin_of
from ...edits.base import EditOrigin
from ...erasing.make_edit import make_edit, train_in_folder
from ...erasing.request_defaults import ResolvedRequest, request_from_words, resolve_request
from ...methods import MethodServices, methods
from ...models.loading import LOADING, MOJI
from ...prompts.checks import Check, moji_checks
from ...worlds.table import concept_table
from ..attacks.rates import AttackRow, attack_rows
from ..attacks.threat_model import knowledge_from_concept, knowledge_from_table
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.judge import Judge
from ..judging.live import PresenceRate, open_attribute_counter
from ..sampling import spec_for
from ..suites.registry import Suite
from ..tasks.attack import ATTACK_TASK_COST, AttackTask, plan_attacks
from ..tasks.edited_model import EditedModel
from ..tasks.picture_store import STORE_REMEDY, PictureStore
from ..tasks.runner import TaskTally, default_workers, run_tasks
from .trial import AnsweredTrial, RunContext, Trial, answer_trials, image_pairs, raw_score_pairs


@dataclass(frozen=True)
class Variant:
    """One way to erase: a method under some settings, with the table's request or the name alone, as the papers'
    scripts.
    """

    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    bare: bool = False  # the name alone, null anchor, nothing retained
    retain: tuple[str, ...] = ()  # texts retained beside the table's


@dataclass(frozen=True)
class EditTask:
    """Erase concepts together from the unedited model: edit and cost in the run's folder, and in the store for other
    runs.
    """

    subject: EditedModel
    variant: Variant
    concepts: tuple[str, ...]
    folder: Path
    kind: str = "edit"

    @property
    def chosen(self) -> ResolvedRequest:
        if self.variant.bare:
            return request_from_words(RequestSpec(self.concepts, kind=concept_table()[self.concepts[0]].kind))
        chosen = resolve_request(RequestSpec(self.concepts), self.subject.model, methods[self.variant.method].does)
        return replace(chosen, request=replace(chosen.request, retain=(*chosen.request.retain, *self.variant.retain)))

    @property
    def id(self) -> str:
        return hash_json(
            [self.kind, self.subject.key, asdict(self.variant), self.concepts, asdict(self.chosen.request)]
        )[:40]

    @property
    def size(self) -> int:
        return 1

    @property
    def path(self) -> Path:
        return self.folder / f"{self.id}.safetensors"

    def stored_path(self, store: PictureStore) -> Path:
        """Where the store has it, whatever the arm is called."""
        asked = [
            self.subject.key,
            self.variant.method,
            dict(self.variant.settings),
            asdict(self.chosen.request),
            self.concepts,
        ]
        source = source_hash(methods[self.variant.method].settings.__module__, LOADING)
        key = hash_json([source, Judge().key, asked])[:40]
        return store.root / "edits" / key[:2] / f"{key}.safetensors"

    def is_done(self, store: PictureStore) -> bool:
        return self.path.with_suffix(".json").exists()

    def run(self, store: PictureStore) -> None:
        """The file of the cost appears last, so that an edit beside one is whole."""
        kept = self.stored_path(store)
        if not kept.with_suffix(".json").exists():
            self._make(kept, store)
        for suffix in (".safetensors", ".json"):
            with atomic_file(self.path.with_suffix(suffix), STORE_REMEDY) as part:
                shutil.copyfile(kept.with_suffix(suffix), part)

    def _make(self, path: Path, store: PictureStore) -> None:
        begun = time.perf_counter()
        model, chosen = self.subject.base(), self.chosen
        judge, uses = Judge() if self.subject.model == MOJI else None, methods[self.variant.method].uses
        spec = spec_for(self.subject.model)
        observe = (
            open_attribute_counter(model, judge, spec, store, chosen.request.kind)
            if "attribute_counter" in uses
            else None
        )
        look = (
            PresenceRate(model, judge, lambda sizes: moji_checks(concept_table(), self.concepts, sizes), spec, store)
            if judge and "presence_judge" in uses
            else None
        )
        training = self.path.with_suffix(".training")
        with train_in_folder(training, ignore_progress):
            edit = make_edit(model, chosen, self.variant.method, self.variant.settings, MethodServices(observe, look))
        seconds = time.perf_counter() - begun
        with atomic_file(path, STORE_REMEDY) as part:
            edit.save(part)
        cost = {"seconds": round(seconds, 3), "bytes": path.stat().st_size, "parameters": edit.parameters}
        write_atomically(path.with_suffix(".json"), json.dumps(cost).encode(), STORE_REMEDY)
        shutil.rmtree(training, ignore_errors=True)

    def trial(self) -> Trial:
        cost = json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))
        return Trial(
            self.variant.label, self.concepts, EditedModel.of(self.subject, self.path), load_edit(self.path), cost
        )


@dataclass(frozen=True)
class Finding:
    """All that is known of one trial."""

    answered_trial: AnsweredTrial
    attack_results: tuple[AttackRow, ...] = ()
    figures: tuple[SuiteFigure, ...] = ()
    adversarial_files: tuple[tuple[str, Path], ...] = ()  # what attacks found: (attack, file)


def variant_of_method(method: str, model: str = MOJI) -> Variant:
    """A method under its `moji` recipe; under its own defaults where none is shipped, and on other models."""
    name = f"moji-{method}"
    return Variant(method, method, load_recipe(name).settings if model == MOJI and name in recipes() else {})


def run_bench(
    arms: Sequence[Variant],
    requests: Sequence[tuple[str, ...]],
    suite: Suite,
    unedited: EditedModel,
    folder: Path,
    where: RunContext,
) -> tuple[list[Finding], TaskTally]:
    """Every arm on every request: concepts that one edit erases together.

    What is missing when time runs out is counted, never guessed.
    """
    tasks = [EditTask(unedited, arm, concepts, folder / "edits") for concepts in requests for arm in arms]
    tally = run_tasks(tasks, where.store, where.record, 1, where.deadline, where.tell)
    found, more = examine_trials([task.trial() for task in tasks if task.is_done(where.store)], suite, where)
    return found, tally + more


def examine_trials(trials: Sequence[Trial], suite: Suite, where: RunContext) -> tuple[list[Finding], TaskTally]:
    """Questions, then attacks, of trials on `moji`."""
    if not trials:
        return [], TaskTally()
    answered, tally = answer_trials(trials, suite, where)
    names = [name for name in attacks if suite.attacks == ("*",) or name in suite.attacks]
    if not names:
        return [Finding(one, (), suite_figures(one, suite, where)) for one in answered], tally
    planned = [_attacks(one, suite, names, where) for one in answered]
    tasks = list({task.id: task for pair in planned for side in pair for task in side}.values())
    workers = where.workers or default_workers(ATTACK_TASK_COST * len(tasks), str(trials[0].subject.base().device))
    tally += run_tasks(tasks, where.store, where.record, workers, where.deadline, where.tell)
    found = []
    for one, (own, ceilings) in zip(answered, planned, strict=True):
        plain = {answer.check.prompt: answer.hits[1] for answer in one.answers}
        asked = [check.prompt for check in _attacked(one, suite)]
        attacked = (
            attack_rows(own, ceilings, [plain.get(prompt, False) for prompt in asked], where.store) if own else []
        )
        files = (
            (task.name, task.path(where.store).with_suffix(".safetensors")) for task in own if task.is_done(where.store)
        )
        found.append(Finding(one, tuple(attacked), suite_figures(one, suite, where), tuple(files)))
    return found, tally


def suite_figures(one: AnsweredTrial, suite: Suite, where: RunContext) -> tuple[SuiteFigure, ...]:
    """The suite's own numbers, once every question is answered."""
    if one.missing:
        return ()
    judge = where.judge or Judge()
    found = TrialEvidence(
        one.trial.concepts,
        one.answers,
        lambda: image_pairs(one.trial, one.checks, where),
        judge,
        lambda: raw_score_pairs(one, where, judge),
    )
    return tuple(suite.figures(found))


def _attacks(
    one: AnsweredTrial, suite: Suite, names: Sequence[str], where: RunContext
) -> tuple[list[AttackTask], list[AttackTask]]:
    """Tasks on the edit, and the same on the unedited model."""
    checks = _attacked(one, suite)
    if not checks or where.judge is None:
        return [], []
    on_moji, origin = one.trial.subject.model == MOJI, origin_of(one.trial.edit)
    lore = (
        knowledge_from_table(checks[0].concept)
        if on_moji
        else knowledge_from_concept(_concept(checks[0].concept, origin), origin.retain)
    )
    chosen = {
        name: load_recipe(f"moji-{name}").settings if on_moji and f"moji-{name}" in recipes() else {} for name in names
    }
    own, ceilings = (
        plan_attacks(subject, where.spec, where.judge, lore, chosen, checks)
        for subject in (one.trial.subject, one.trial.subject.unedited)
    )
    return own, ceilings


def _concept(name: str, origin: EditOrigin) -> Concept:
    """A concept of a user's model; the edit's other targets are its aliases."""
    return Concept(name, origin.kind, tuple(target for target in origin.targets if target != name))  # type: ignore[arg-type]


def _attacked(one: AnsweredTrial, suite: Suite) -> list[Check]:
    """The first direct prompts of the trial's first concept."""
    return [check for check in one.checks if check.group == "direct" and check.concept == one.trial.concepts[0]][
        : suite.prompts_per_attack
    ]


def trial_of_edit(path: Path, unedited: EditedModel, concepts: Sequence[str], strength: float = 1.0) -> Trial:
    """A trial of an edit file that somebody made before; `EditError` if it was made for another base."""
    edit, label = load_edit(path), path.parent.name if path.stem == "edit" else path.stem
    with edit.applied(unedited.base()):
        pass
    cost = {"bytes": path.stat().st_size, "parameters": edit.parameters}
    return Trial(label, tuple(concepts), EditedModel.of(unedited, path, strength), edit, cost)
