"""Attacks run on edits: what it costs to bring a concept back, beside the unedited model and a budget of nothing."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...attacks import Attack, Case, attacks
from ...core.errors import SettingsError, require
from ...core.hashing import hash_json
from ...core.request import Request
from ...core.settings import build
from ...core.source import source_hash
from ...erasing.make_edit import origin_for
from ...models.loading import LOADING
from ...prompts.checks import Check, Prompt, seeded
from ..attacks.inputs import Found, draw_found, hash_input, save_found
from ..attacks.threat_model import Lore
from ..judging.judge import Judge
from ..sampling import Spec, noise
from .draw import Draw
from .edited_model import Subject
from .picture_store import Store, write_whole

EXAMPLES = 12  # pictures of the concept that an attacker is given
AT_ONCE = 4  # prompts in one task of an attack that searches prompt by prompt
COST = 100  # pictures whose drawing takes about as long as one task
ELSEWHERE = 1_000  # replicates from here on are nobody's prompts


@dataclass(frozen=True)
class AttackTask:
    """One attack on one subject: all prompts of a concept, or a few of them where each is searched for alone."""

    subject: Subject
    spec: Spec
    name: str
    settings: str  # JSON
    lore: Lore
    judge: Judge
    checks: tuple[Check, ...]
    seed: int = 0
    kind: str = "attack"

    @property
    def id(self) -> str:
        how = [self.spec.sampler, self.spec.steps, self.spec.guidance_scale, self.seed]
        asked = [[check.prompt.text, check.prompt.seed] for check in self.checks]
        source = source_hash(attacks[self.name].settings.__module__, LOADING)
        return hash_json([self.kind, source, self.subject.key, how, self.name, self.settings, asdict(self.lore), self.judge.key, asked])[:40]

    @property
    def size(self) -> int:
        return len(self.checks)

    def path(self, store: Store) -> Path:
        return store.root / "attacks" / self.id[:2] / f"{self.id}.json"

    def there(self, store: Store) -> bool:
        return self.path(store).exists()

    def run(self, store: Store) -> None:
        """Search, draw, judge; the result file appears last, whole."""
        info = attacks[self.name]
        model = self.subject.view()
        require(model.family in info.families, f"{self.name} is not defined for {model.family} models, only for {', '.join(info.families)}", SettingsError)
        method: Attack = build(info.settings, json.loads(self.settings), f"{self.name} setting")
        path = self.path(store)
        case = self._case(store)
        resumed, searched, drawing, queries = time.perf_counter(), 0.0, 0.0, 0
        found: dict[int, Found] = {}
        steps: list[dict[str, Any]] = []
        for attempt in method.search(case):
            paused = time.perf_counter()
            prompts = [check.prompt for check in self.checks]
            given = {i: Found(prompts[i].text, prompts[i].seed, one) for i, one in attempt.inputs.items() if i not in case.solved}
            words = self._words(case, given, store)
            shown = {i: word in self.checks[i].labels for i, word in words.items()}
            case.solved.update(i for i, hit in shown.items() if hit)
            found |= given
            queries += len(given)
            told = {"steps": attempt.steps, "queries": queries, "seconds": round(paused - resumed, 3), "loss": attempt.loss}
            steps.append({**told, "shown": {str(i): hit for i, hit in shown.items()}, "words": {str(i): word for i, word in words.items()}})
            searched, resumed = searched + paused - resumed, time.perf_counter()
            drawing += resumed - paused
        searched += time.perf_counter() - resumed
        save_found(path.with_suffix(".safetensors"), self._stamped(found))
        result = {
            "name": self.name,
            "settings": json.loads(self.settings),
            "concept": self.lore.concept.name,
            "prompts": [asdict(c.prompt) for c in self.checks],
        }
        result |= {"attempts": steps, "seconds": {"search": round(searched, 3), "drawing": round(drawing, 3)}}
        write_whole(path, json.dumps(result, indent=1).encode())

    def _stamped(self, found: Mapping[int, Found]) -> dict[int, Found]:
        """Edits that were found say where they come from, so that they can be kept."""
        model, request = self.subject.view(), Request((self.lore.concept.name,), (), kind=self.lore.concept.kind)
        edits = {one.input.weights.hash: one.input.weights for one in found.values() if one.input.weights is not None}
        known = {name: edit.stamped(origin_for(edit, model, request, self.name, json.loads(self.settings))) for name, edit in edits.items()}
        return {i: replace(one, input=replace(one.input, weights=known[one.input.weights.hash] if one.input.weights else None)) for i, one in found.items()}

    def _case(self, store: Store) -> Case:
        """What the attacker may know: made by the unedited model, on other noise than the prompts'."""
        model, lore = self.subject.view(), self.lore
        typical = [seeded(lore.typical[i % len(lore.typical)], ELSEWHERE + i) for i in range(EXAMPLES)]
        return Case(
            model=model,
            edit=self.subject.loaded(),
            concept=lore.concept,
            prompts=tuple(check.prompt.text for check in self.checks),
            noise=torch.stack([noise(check.prompt.seed, model.latent_shape) for check in self.checks]),
            pictures=self._drawn([check.prompt for check in self.checks], store),
            examples=self._drawn(typical, store),
            wordings=lore.wordings,
            unrelated=(lore.unrelated, self._drawn([seeded(text, ELSEWHERE) for text in lore.unrelated], store)),
            steps=self.spec.steps,
            guidance_scale=self.spec.guidance_scale,
            seed=self.seed + self.checks[0].prompt.seed,
        )

    def _drawn(self, prompts: Sequence[Prompt], store: Store) -> Tensor:
        """The unedited model's pictures (n, 3, h, w); those already in the store are not drawn again."""
        subject = self.subject.unedited
        lacking = tuple(p for p in dict.fromkeys(prompts) if not store.has(subject.picture(self.spec, p)))
        for start in range(0, len(lacking), self.spec.batch_size):
            Draw(subject, self.spec, lacking[start : start + self.spec.batch_size]).run(store)
        return torch.stack([store.load(subject.picture(self.spec, p)) for p in prompts])

    def _words(self, case: Case, given: Mapping[int, Found], store: Store) -> dict[int, str]:
        """Draw inputs with the edited model, keep the pictures, and say what the judge sees in each."""
        if not given:
            return {}
        with case.edited():
            pictures = draw_found(case.model, list(given.values()), self.spec)
        rows = self.judge.open().score(pictures, [self.judge.question(self.checks[i]) for i in given])
        words = {}
        for (i, one), picture, raw in zip(given.items(), pictures, rows, strict=True):
            store.save(self.subject.picture(self.spec, self.checks[i].prompt, hash_input(one.input)), picture)
            words[i] = self.judge.word(raw, self.checks[i])
        return words


def plan_attacks(subject: Subject, spec: Spec, judge: Judge, lore: Lore, chosen: Mapping[str, Mapping[str, Any]], checks: Sequence[Check]) -> list[AttackTask]:
    """Tasks for direct checks of one concept: one an attack, or one a few prompts where the attack searches prompt by prompt."""
    tasks = []
    for name, settings in chosen.items():
        info, text = attacks[name], json.dumps(dict(settings), sort_keys=True)
        size = AT_ONCE if info.scope == "prompt" else len(checks)
        parts = [tuple(checks[i : i + size]) for i in range(0, len(checks), size)]
        tasks += [AttackTask(subject, spec, name, text, lore, judge, part) for part in parts]
    return tasks
