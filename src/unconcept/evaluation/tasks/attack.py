"""Runs attacks on edits to measure what it costs to bring a concept back, compared with the unedited model."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ...attacks import EXAMPLE_PICTURES, Attack, AttackAttempt, AttackCase, attacks
from ...core.errors import SettingsError, require
from ...core.hashing import hash_json
from ...core.output_folder import STORE_REMEDY, write_atomically
from ...core.progress import TaskProgress, report_task, task_progress
from ...core.request import Request
from ...core.settings import build_settings
from ...core.source import source_hash
from ...edits.origin import origin_for
from ...models.loading import LOADING
from ...prompts.checks import UNUSED_REPLICATE, Check, Prompt, seeded_prompt
from ...prompts.picture_edits import WantedChange
from ...scorers import RawScore
from ..attacks.inputs import AdversarialInput, hash_input, sample_adversarial, save_adversarial
from ..attacks.own_training import own_training
from ..attacks.selection import ungraded_reason
from ..attacks.threat_model import AttackerKnowledge
from ..judging.judge import Judge
from ..sampling import DrawSpec, initial_noise
from .draw import DrawTask
from .edited_model import EditedModel
from .picture_store import PictureStore
from .search_log import SearchLog, SeenPicture

_Item = TypeVar("_Item")
_PROMPTS_PER_TASK = 4  # prompts in one task of an attack that searches prompt by prompt
ATTACK_TASK_COST = 100  # cost of one task, as the number of pictures that take about as long to draw


@dataclass(frozen=True)
class AttackTask:
    """One attack on one edited model: all prompts of a concept, or a few if the attack searches prompt by prompt."""

    subject: EditedModel
    spec: DrawSpec
    name: str
    settings: str
    """Settings of the attack as JSON."""
    knowledge: AttackerKnowledge
    judge: Judge
    checks: tuple[Check, ...]
    seed: int = 0
    teacher: EditedModel | None = None
    """Model that draws the attacker's pictures, if the attacked one cannot: that of a control which never saw the
    concept. None: the attacked model without its edit."""
    kind: str = "attack"

    @property
    def id(self) -> str:
        how = [self.spec.sampler, self.spec.steps, self.spec.guidance_scale, self.seed]
        asked = [_identity(check, self.judge) for check in self.checks]
        source = source_hash(attacks[self.name].settings.__module__, LOADING)
        return hash_json(
            [
                self.kind,
                source,
                self.subject.key,
                how,
                self.name,
                self.settings,
                asdict(self.knowledge),
                self.judge.key,
                asked,
                *([self.teacher.key] if self.teacher else []),
            ]
        )[:40]

    @property
    def size(self) -> int:
        return len(self.checks)

    def path(self, store: PictureStore) -> Path:
        return store.root / "attacks" / self.id[:2] / f"{self.id}.json"

    def is_done(self, store: PictureStore) -> bool:
        return store.has_result(self.path(store))

    def run(self, store: PictureStore) -> None:
        """Search, draw and judge; the result file is written last, in one step."""
        info = attacks[self.name]
        is_graded = self.judge.reader.grades_white_box or not info.white_box
        require(is_graded, ungraded_reason(self.judge, self.name), SettingsError)
        model = self.subject.base()
        require(model.family in info.families, info.undefined_for(model.family), SettingsError)
        message = f"{self.name} searches by gradients through plain weights, and of {model.name} {model.fixed}"
        require(not (model.fixed and info.white_box), f"{message}: attack the plain model", SettingsError)
        method = self.method
        told, most = 0, getattr(method, "most_steps", 0)  # A search that finds something ends earlier.
        with report_task(TaskProgress()):  # Pictures that it needs first are no part of the search.
            case = self.case(partial(self._drawn, store=store))
        log, resumed = SearchLog(), time.perf_counter()
        for attempt in method.search(case):
            if most:
                task_progress().tick(self.size * (attempt.steps - told) / most)
                told = attempt.steps
            paused = time.perf_counter()
            given = self._inputs_to_try(attempt, case, log)
            seen = self._seen(case, given, attempt.wanted, store)
            if attempt.control is None:
                case.solved.update(i for i, one in seen.items() if one.is_success)
            log.add(attempt, given, seen, paused - resumed)
            resumed = time.perf_counter()
            log.drawing += resumed - paused
        log.searching += time.perf_counter() - resumed
        path = self.path(store)
        save_adversarial(path.with_suffix(".safetensors"), self._stamped(log.found))
        write_atomically(path, json.dumps(self._result(log), indent=1).encode(), STORE_REMEDY)
        store.share_result(path)

    @property
    def method(self) -> Attack:
        """The attack with its settings."""
        made: Attack = build_settings(attacks[self.name].settings, json.loads(self.settings), f"{self.name} setting")
        return made

    def _inputs_to_try(self, attempt: AttackAttempt, case: AttackCase, log: SearchLog) -> dict[int, AdversarialInput]:
        """An attempt's inputs by prompt, without those that an earlier input settled: a try by solving the prompt, a
        control by showing the concept.
        """
        prompts = [check.prompt for check in self.checks]
        settled = case.solved if attempt.control is None else log.shown_controls.get(attempt.control, set())
        inputs = {i: one for i, one in attempt.inputs.items() if i not in settled}
        return {
            i: AdversarialInput(prompts[i].text, prompts[i].seed, one, prompts[i].guidance_scale)
            for i, one in inputs.items()
        }

    def _result(self, log: SearchLog) -> dict[str, object]:
        return {
            "name": self.name,
            "settings": json.loads(self.settings),
            "concept": self.knowledge.concept.name,
            "prompts": [asdict(check.prompt) for check in self.checks],
            "attempts": log.attempts,
            "seconds": {"search": round(log.searching, 3), "drawing": round(log.drawing, 3)},
        }

    def _stamped(self, found: Mapping[int, AdversarialInput]) -> dict[int, AdversarialInput]:
        """Stamp edits among the found inputs with their origin, so that they can be saved."""
        model, request = (
            self.subject.base(),
            Request((self.knowledge.concept.name,), (), kind=self.knowledge.concept.kind),
        )
        edits = {one.input.weights.hash: one.input.weights for one in found.values() if one.input.weights is not None}
        known = {
            name: edit.stamped(origin_for(edit, model, request, self.name, json.loads(self.settings)))
            for name, edit in edits.items()
        }
        return {
            i: replace(
                one, input=replace(one.input, weights=known[one.input.weights.hash] if one.input.weights else None)
            )
            for i, one in found.items()
        }

    def case(self, drawn: Callable[[Sequence[Prompt]], Tensor]) -> AttackCase:
        """What the attacker may know. `drawn` gives pictures (n, 3, h, w) of the unedited model.

        Examples of the concept are on other noise than the prompts'.
        """
        model, known = self.subject.base(), self.knowledge
        count = getattr(self.method, "pictures", EXAMPLE_PICTURES)
        typical = [seeded_prompt(known.typical[i % len(known.typical)], UNUSED_REPLICATE + i) for i in range(count)]
        return AttackCase(
            model=model,
            edit=self.subject.edit(),
            concept=known.concept,
            prompts=tuple(check.prompt.text for check in self.checks),
            noise=torch.stack([initial_noise(check.prompt.seed, model.latent_shape) for check in self.checks]),
            pictures=drawn([check.prompt for check in self.checks]),
            examples=drawn(typical),
            captions=tuple(prompt.text for prompt in typical),
            wordings=known.wordings,
            retrain=own_training(self.subject.edit(), model),
            unrelated=(
                known.unrelated,
                drawn([seeded_prompt(text, UNUSED_REPLICATE) for text in known.unrelated]),
            ),
            steps=self.spec.steps,
            guidance_scale=self.spec.of(self.checks[0].prompt).guidance_scale,
            seed=self.seed + self.checks[0].prompt.seed,
        )

    def _drawn(self, prompts: Sequence[Prompt], store: PictureStore) -> Tensor:
        """Pictures (n, 3, h, w) of the unedited model; those already in the store are not drawn again."""
        subject = self.teacher or self.subject.unedited
        lacking = [p for p in dict.fromkeys(prompts) if not store.has(subject.picture_key(self.spec, p))]
        for part in _chunked_alike(lacking, _own_guidance, self.spec.batch_size):
            DrawTask(subject, self.spec, part).run(store)
        return torch.stack([store.load(subject.picture_key(self.spec, p)) for p in prompts])

    def _seen(
        self,
        case: AttackCase,
        given: Mapping[int, AdversarialInput],
        wanted: WantedChange | None,
        store: PictureStore,
    ) -> dict[int, SeenPicture]:
        """Draw inputs with the edited model, and ask the judge about each picture as it is stored.

        Pictures that a killed run drew are in the store already, and are not drawn again.
        """
        if not given:
            return {}
        keys = {i: found_picture_key(self.subject, self.spec, self.name, one) for i, one in given.items()}
        lacking = [i for i in given if not store.has(keys[i])]
        if lacking:
            with case.edit_applied():
                drawn = sample_adversarial(case.model, [given[i] for i in lacking], self.spec)
            for i, picture in zip(lacking, drawn, strict=True):
                store.save(keys[i], picture)
        pictures = torch.stack([store.load(key) for key in keys.values()])
        rows = self.judge.open().score(pictures, [self.judge.question(self.checks[i]) for i in given])
        seen = {}
        for i, raw in zip(given, rows, strict=True):
            word = self.judge.label_of(raw, self.checks[i])
            seen[i] = SeenPicture(word, word in self.checks[i].labels, self._changed(raw, self.checks[i], wanted))
        return seen

    def _changed(self, raw: RawScore, check: Check, wanted: WantedChange | None) -> bool | None:
        """Whether a picture shows the asked change; None without one, or for a judge that has no such labels."""
        if wanted is None or not self.judge.knows_table:
            return None
        asked = [replace(check, by=by, labels=(wanted.label,)) for by in wanted.aspects]
        return any(self.judge.label_of(raw, one) == wanted.label for one in self.judge.answerable(asked))


def found_picture_key(subject: EditedModel, spec: DrawSpec, name: str, given: AdversarialInput) -> str:
    """Key of the picture of an attack's input; of the attack's source too, whose procedures draw it."""
    source = source_hash(attacks[name].settings.__module__, LOADING)
    prompt = Prompt(given.prompt, given.seed, given.guidance_scale)
    return subject.picture_key(spec, prompt, hash_json([source, hash_input(given.input)]))


def _identity(check: Check, judge: Judge) -> list[object]:
    """What an attack's result depends on of a check: its prompt, and the question where the judge's knows no table."""
    prompt = check.prompt
    own = [] if prompt.guidance_scale is None else [prompt.guidance_scale]
    return [prompt.text, prompt.seed, *own, *([] if judge.knows_table else [judge.question(check)])]


def _own_guidance(prompt: Prompt) -> float | None:
    return prompt.guidance_scale


def _chunked_alike(items: Sequence[_Item], key: Callable[[_Item], object], size: int) -> list[tuple[_Item, ...]]:
    """Chunks of at most so many neighbours that share a key, in their order."""
    runs = [list(run) for _, run in groupby(items, key)]
    return [tuple(run[i : i + size]) for run in runs for i in range(0, len(run), size)]


def plan_attacks(
    subject: EditedModel,
    spec: DrawSpec,
    judge: Judge,
    knowledge: AttackerKnowledge,
    chosen: Mapping[str, Mapping[str, object]],
    checks: Sequence[Check],
) -> list[AttackTask]:
    """Plan tasks for direct checks of one concept: one per attack, or one per few prompts if the attack searches prompt
    by prompt.
    """
    tasks = []
    for name, settings in chosen.items():
        info, text = attacks[name], json.dumps(dict(settings), sort_keys=True)
        # A search by prompt guides as its prompt does; one by concept draws each prompt as that prompt does.
        parts = [tuple(checks)]
        if info.scope == "prompt":
            parts = _chunked_alike(checks, lambda check: check.prompt.guidance_scale, _PROMPTS_PER_TASK)
        tasks += [AttackTask(subject, spec, name, text, knowledge, judge, part) for part in parts]
    return tasks
