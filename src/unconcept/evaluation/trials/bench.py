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
from ...core.progress import ignore_progress
from ...core.recipe import load_recipe, recipes
from ...core.request import Ask
from ...core.source import source_hash
from ...edits import load_edit, origin_of
from ...edits.base import Origin
from ...erasing.make_edit import Eyes, make_edit, training_in
from ...erasing.request_defaults import Chosen, choose, from_words
from ...methods import methods
from ...models.loading import LOADING, MOJI
from ...prompts.checks import Check, moji_checks
from ...worlds.table import table
from ..attacks.rates import AttackRow, rows
from ..attacks.threat_model import lore_of_table, lore_of_words
from ..judging.judge import Judge
from ..judging.live import Watcher, observer
from ..sampling import spec_for
from ..suites.registry import Evidence, Figure, Suite
from ..tasks.attack import COST, AttackTask, plan_attacks
from ..tasks.edited_model import Subject
from ..tasks.picture_store import Store, whole, write_whole
from ..tasks.runner import Tally, default_workers, perform
from .trial import Answered, Bench, Trial, ask, both_sides, raw_sides


@dataclass(frozen=True)
class Arm:
    """One way to erase: a method under some settings, with the table's request or the name alone, as the papers' scripts."""

    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    bare: bool = False  # the name alone, null anchor, nothing retained
    retain: tuple[str, ...] = ()  # texts retained beside the table's


@dataclass(frozen=True)
class EditTask:
    """Erase concepts together from the unedited model: edit and cost in the run's folder, and in the store for other runs."""

    subject: Subject
    arm: Arm
    concepts: tuple[str, ...]
    folder: Path
    kind: str = "edit"

    @property
    def chosen(self) -> Chosen:
        if self.arm.bare:
            return from_words(Ask(self.concepts, kind=table()[self.concepts[0]].kind))
        chosen = choose(Ask(self.concepts), self.subject.model, methods[self.arm.method].does)
        return replace(chosen, request=replace(chosen.request, retain=(*chosen.request.retain, *self.arm.retain)))

    @property
    def id(self) -> str:
        return hash_json([self.kind, self.subject.key, asdict(self.arm), self.concepts, asdict(self.chosen.request)])[:40]

    @property
    def size(self) -> int:
        return 1

    @property
    def path(self) -> Path:
        return self.folder / f"{self.id}.safetensors"

    def kept(self, store: Store) -> Path:
        """Where the store has it, whatever the arm is called."""
        asked = [self.subject.key, self.arm.method, dict(self.arm.settings), asdict(self.chosen.request), self.concepts]
        source = source_hash(methods[self.arm.method].settings.__module__, LOADING)
        key = hash_json([source, Judge().key, asked])[:40]
        return store.root / "edits" / key[:2] / f"{key}.safetensors"

    def there(self, store: Store) -> bool:
        return self.path.with_suffix(".json").exists()

    def run(self, store: Store) -> None:
        """The file of the cost appears last, so that an edit beside one is whole."""
        kept = self.kept(store)
        if not kept.with_suffix(".json").exists():
            self._make(kept, store)
        for suffix in (".safetensors", ".json"):
            with whole(self.path.with_suffix(suffix)) as temporary:
                shutil.copyfile(kept.with_suffix(suffix), temporary)

    def _make(self, path: Path, store: Store) -> None:
        begun = time.perf_counter()
        model, chosen = self.subject.view(), self.chosen
        judge, debiases = Judge() if self.subject.model == MOJI else None, methods[self.arm.method].does == "debias"
        spec = spec_for(self.subject.model)
        observe = observer(model, judge, spec, store, chosen.request.kind) if debiases else None
        look = Watcher(model, judge, lambda sizes: moji_checks(table(), self.concepts, sizes), spec, store) if judge else None
        training = self.path.with_suffix(".training")
        with training_in(training, ignore_progress):
            edit = make_edit(model, chosen, self.arm.method, self.arm.settings, Eyes(observe, look=look))
        seconds = time.perf_counter() - begun
        with whole(path) as temporary:
            edit.save(temporary)
        cost = {"seconds": round(seconds, 3), "bytes": path.stat().st_size, "parameters": edit.parameters}
        write_whole(path.with_suffix(".json"), json.dumps(cost).encode())
        shutil.rmtree(training, ignore_errors=True)

    def trial(self) -> Trial:
        cost = json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))
        return Trial(self.arm.label, self.concepts, Subject.of(self.subject, self.path), load_edit(self.path), cost)


@dataclass(frozen=True)
class Finding:
    """All that is known of one trial."""

    answered: Answered
    attacked: tuple[AttackRow, ...] = ()
    figures: tuple[Figure, ...] = ()
    found: tuple[tuple[str, Path], ...] = ()  # what attacks found: (attack, file)


def arm_of(method: str, model: str = MOJI) -> Arm:
    """A method under its `moji` recipe; under its own defaults where none is shipped, and on other models."""
    name = f"moji-{method}"
    return Arm(method, method, load_recipe(name).settings if model == MOJI and name in recipes() else {})


def bench(arms: Sequence[Arm], requests: Sequence[tuple[str, ...]], suite: Suite, unedited: Subject, folder: Path, where: Bench) -> tuple[list[Finding], Tally]:
    """Every arm on every request: concepts that one edit erases together. What is missing when time runs out is counted, never guessed."""
    tasks = [EditTask(unedited, arm, concepts, folder / "edits") for concepts in requests for arm in arms]
    tally = perform(tasks, where.store, where.record, 1, where.deadline, where.tell)
    found, more = examine([task.trial() for task in tasks if task.there(where.store)], suite, where)
    return found, tally + more


def examine(trials: Sequence[Trial], suite: Suite, where: Bench) -> tuple[list[Finding], Tally]:
    """Questions, then attacks, of trials on `moji`."""
    if not trials:
        return [], Tally()
    answered, tally = ask(trials, suite, where)
    names = [name for name in attacks if suite.attacks == ("*",) or name in suite.attacks]
    if not names:
        return [Finding(one, (), figures_of(one, suite, where)) for one in answered], tally
    planned = [_attacks(one, suite, names, where) for one in answered]
    tasks = list({task.id: task for pair in planned for side in pair for task in side}.values())
    workers = where.workers or default_workers(COST * len(tasks), str(trials[0].subject.view().device))
    tally += perform(tasks, where.store, where.record, workers, where.deadline, where.tell)
    found = []
    for one, (own, ceilings) in zip(answered, planned, strict=True):
        plain = {answer.check.prompt: answer.shown[1] for answer in one.answers}
        asked = [check.prompt for check in _attacked(one, suite)]
        attacked = rows(own, ceilings, [plain.get(prompt, False) for prompt in asked], where.store) if own else []
        files = ((task.name, task.path(where.store).with_suffix(".safetensors")) for task in own if task.there(where.store))
        found.append(Finding(one, tuple(attacked), figures_of(one, suite, where), tuple(files)))
    return found, tally


def figures_of(one: Answered, suite: Suite, where: Bench) -> tuple[Figure, ...]:
    """The suite's own numbers, once every question is answered."""
    if one.missing:
        return ()
    judge = where.judge or Judge()
    found = Evidence(one.trial.concepts, one.answers, lambda: both_sides(one.trial, one.checks, where), judge, lambda: raw_sides(one, where, judge))
    return tuple(suite.figures(found))


def _attacks(one: Answered, suite: Suite, names: Sequence[str], where: Bench) -> tuple[list[AttackTask], list[AttackTask]]:
    """Tasks on the edit, and the same on the unedited model."""
    checks = _attacked(one, suite)
    if not checks or where.judge is None:
        return [], []
    on_moji, origin = one.trial.subject.model == MOJI, origin_of(one.trial.edit)
    lore = lore_of_table(checks[0].concept) if on_moji else lore_of_words(_concept(checks[0].concept, origin), origin.retain)
    chosen = {name: load_recipe(f"moji-{name}").settings if on_moji and f"moji-{name}" in recipes() else {} for name in names}
    own, ceilings = (plan_attacks(subject, where.spec, where.judge, lore, chosen, checks) for subject in (one.trial.subject, one.trial.subject.unedited))
    return own, ceilings


def _concept(name: str, origin: Origin) -> Concept:
    """A concept of a user's model; the edit's other targets are its aliases."""
    return Concept(name, origin.kind, tuple(target for target in origin.targets if target != name))  # type: ignore[arg-type]


def _attacked(one: Answered, suite: Suite) -> list[Check]:
    """The first direct prompts of the trial's first concept."""
    return [check for check in one.checks if check.group == "direct" and check.concept == one.trial.concepts[0]][: suite.attacked]


def edit_trial(path: Path, unedited: Subject, concepts: Sequence[str], strength: float = 1.0) -> Trial:
    """A trial of an edit file that somebody made before; `EditError` if it was made for another base."""
    edit, label = load_edit(path), path.parent.name if path.stem == "edit" else path.stem
    with edit.applied(unedited.view()):
        pass
    cost = {"bytes": path.stat().st_size, "parameters": edit.parameters}
    return Trial(label, tuple(concepts), Subject.of(unedited, path, strength), edit, cost)
