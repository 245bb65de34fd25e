"""Judges pictures of the model as it now computes: for methods that debias, and for those that stop once a target is
gone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ...core.concept import KIND_TEMPLATES, ConceptKind
from ...core.errors import RequestError, require
from ...core.hashing import hash_json, hash_tensors
from ...core.progress import ProgressCallback, ignore_progress
from ...models import ModelView
from ...prompts.checks import Check, GroupSizes, Prompt, seeded_prompt
from ...scorers.registry import AnswerSource
from ...worlds.table import concept_table, table_of
from ..sampling import DrawSpec, draw_prompts, initial_noise
from ..suites.debias import attribute_of_label, profession_caption
from ..tasks.picture_store import PictureStore
from .judge import Judge
from .rates import judge_labels


@dataclass(frozen=True)
class JudgedAttributeCounter:
    """Counts how many pictures show each attribute, by a judge, on seeds that no report uses.

    `store` keeps the answers, so that a restarted loop continues.
    """

    model: ModelView
    judge: Judge
    spec: DrawSpec
    store: PictureStore
    kind: ConceptKind = "object"
    seed: int = 0
    tell: ProgressCallback = ignore_progress

    def __call__(self, text: str, attributes: Sequence[str], pictures: int, turn: int) -> tuple[int, ...]:
        """Count the pictures that show each attribute; the remaining pictures show none."""
        checks = [self._check(text, attributes, turn * pictures + i) for i in range(pictures)]
        judge = self.judge.with_labels(attributes)
        shown_by = attribute_of_label(judge)
        words = judge_current_model(self.model, judge, checks, self.spec, self.store)
        seen = [shown_by.get(word, word) for word in words]
        counts = tuple(seen.count(attribute) for attribute in attributes)
        said = ", ".join(f"{count} {attribute}" for count, attribute in zip(counts, attributes, strict=True))
        self.tell(f"round {turn + 1}, {text}: {said}", 1, 1)
        return counts

    def _check(self, text: str, attributes: Sequence[str], number: int) -> Check:
        """Make one check with a neutral caption. `RequestError` unless the judge can distinguish the attributes."""
        if self.judge.knows_table:
            return self._profession_check(text, attributes, number)
        forms, labels = KIND_TEMPLATES[self.kind], tuple(attributes)
        prompt = self._prompt(forms[number % len(forms)].format(text), number)
        return Check(prompt, "direct", text, "object", labels, labels)

    def _profession_check(self, text: str, attributes: Sequence[str], number: int) -> Check:
        entry = concept_table()[text]
        known = ", ".join(entry.variants) or "nothing"
        for attribute in attributes:
            message = f"attribute {attribute!r}: moji's judge can distinguish {known} for {text!r}; name these"
            require(attribute in entry.variants, message, RequestError)
        return Check(self._prompt(profession_caption(text, number), number), "direct", text, "object", entry.labels)

    def _prompt(self, text: str, number: int) -> Prompt:
        return seeded_prompt(text, number, tuning=True, seed=self.seed)


@dataclass(frozen=True)
class PresenceRate:
    """Measures how often pictures of the targets still show them, by a judge, on seeds that no report uses.

    `store` keeps the answers.
    """

    model: ModelView
    judge: Judge
    checks_for: Callable[[GroupSizes], list[Check]]
    """Makes the checks of the targets."""
    spec: DrawSpec
    store: PictureStore
    seed: int = 0
    tell: ProgressCallback = ignore_progress

    def __call__(self, pictures: int) -> float:
        """Draw `pictures` for each target; return the share of all of them that show it."""
        sizes = GroupSizes(pictures, 2 * pictures, tuning=True, seed=self.seed)
        checks = [check for check in self.checks_for(sizes) if check.group == "direct"]
        words = judge_current_model(self.model, self.judge, checks, self.spec, self.store)
        seen = [word in check.labels for word, check in zip(words, checks, strict=True)]
        self.tell(f"presence check: {sum(seen)} of {len(seen)} pictures show a target", 1, 1)
        return sum(seen) / len(seen)


def judge_current_model(
    model: ModelView, judge: Judge, checks: Sequence[Check], spec: DrawSpec, store: PictureStore
) -> list[str]:
    """Judge the picture of each check, chunk by chunk; pictures of the same model that were judged before are not drawn
    again.
    """
    name, by = f"word of {judge.key}", _computing(model, checks[0].concept)
    how = [by, spec.steps, spec.guidance_scale, spec.sampler]
    keys = [(hash_json([*how, check.prompt.text, check.prompt.seed])[:40], check.concept) for check in checks]
    known = store.load_scores(name, keys)
    left = [i for i, key in enumerate(keys) if key not in known]
    for chunk in (left[start : start + spec.batch_size] for start in range(0, len(left), spec.batch_size)):
        members = [checks[i] for i in chunk]
        pictures = draw_prompts(model, [check.prompt for check in members], spec)
        said = judge_labels(judge, members, dict(zip((check.prompt for check in members), pictures, strict=True)))
        found: dict[tuple[str, str], dict[str, object]] = {
            keys[i]: {"word": word} for i, word in zip(chunk, said, strict=True)
        }
        store.save_scores(name, [(*key, raw) for key, raw in found.items()])
        known |= found
    return [str(known[key]["word"]) for key in keys]


@torch.no_grad()
def _computing(model: ModelView, text: str) -> str:
    """Identify a model with its edits by the denoiser's output for one fixed noise: every kind of edit changes it."""
    start = initial_noise(0, model.latent_shape)[None].to(model.device, model.dtype)
    said = model.denoise(start, torch.tensor([500], device=model.device), [text])
    return hash_json([model.name, hash_tensors({"said": said})])


def open_attribute_counter(
    model: ModelView,
    judge: Judge | None,
    spec: DrawSpec,
    store: PictureStore,
    kind: str,
    seed: int = 0,
    tell: ProgressCallback = ignore_progress,
) -> JudgedAttributeCounter:
    """Open a counter of attributes. `RequestError` unless the judge can distinguish attributes: on an embedded model
    one that knows its table, on any other model one that answers with texts.
    """
    able: AnswerSource = "texts" if table_of(model.name) is None else "table"
    remedy = (
        "--method-judge clip-score=FOLDER"
        if able == "texts"
        else f"--method-judge NAME, of a plug-in whose labels are those of {model.name}'s table"
    )
    if judge is None:
        raise RequestError(
            f"debiasing counts attributes in pictures by a judge that does not grade, and none is named: give {remedy}"
        )
    if judge.reader.answers != able:
        raise RequestError(
            f"method judge {judge.scorer} distinguishes no attributes on {model.name}: name one that does, {remedy}"
        )
    return JudgedAttributeCounter(model, judge, spec, store, kind, seed, tell)  # type: ignore[arg-type]
