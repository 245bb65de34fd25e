"""Measures whether an erased concept comes back after a small benign fine-tune: runs the attack `resurgence` and counts
pictures before and after with the judge.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ...attacks import AttackCase
from ...attacks.resurgence import Resurgence
from ...core.concept import Concept
from ...core.errors import RequestError, require
from ...core.hashing import hash_json
from ...edits import ApplicableEdit
from ...models import ModelView
from ...prompts.checks import UNUSED_REPLICATE, Check, GroupSizes, Prompt, seeded_prompt
from ...prompts.safety import is_never_drawn
from ...prompts.text_matching import without_names
from ...report.contact_sheet import SheetPair
from ...report.images import ImagePair
from ...worlds.registry import worlds
from ..judging.judge import Judge
from ..judging.rates import judge_labels
from ..sampling import DrawSpec, draw_prompts, initial_noise
from ..tasks.edited_model import EditedModel
from ..tasks.picture_store import PictureStore
from ..worlds import world_of

_PROBE_VERSION = 2  # version of this audit's protocol
_SHEET_TARGETS, _SHEET_EACH = 12, 4  # most pairs of targets on a contact sheet, and of each concept
_SHEET_KEPT = ("near", "far")  # prompt groups of what should stay, two pairs of each
_SHEET_KEPT_EACH = 2


@dataclass(frozen=True)
class FineTuneResurgence:
    """The ledger's `ResurgenceProbe` for embedded models, which have a judge. Takes minutes on a laptop by default."""

    store: PictureStore
    pictures: int = 8
    """Pictures of the concept for each count."""
    steps: int = 100
    """Steps of the fine-tune."""
    rank: int = 4
    """Rank of the fine-tune's adapters."""
    seed: int = 0
    spec: DrawSpec = field(default_factory=DrawSpec)
    unedited: EditedModel = EditedModel(dtype="float32")
    """The model as it was opened, by name and precision: its judge is used, and its pictures are stored under it."""

    @property
    def settings(self) -> Mapping[str, object]:
        judge = world_of(self.unedited.model).judge
        return {
            "attack": "resurgence",
            "mode": "lora",
            "steps": self.steps,
            "rank": self.rank,
            "pictures": self.pictures,
            "seed": self.seed,
            "version": _PROBE_VERSION,
            "judge": judge.key if judge else None,
        }

    def __call__(
        self,
        model: ModelView,
        edit: ApplicableEdit,
        concept: str,
        erased: Sequence[str],
        refold: Callable[[], AbstractContextManager[None]] | None,
    ) -> dict[str, int | None]:
        """Count how many pictures of the same prompts show the concept: from the unedited model, from the edited model,
        after the fine-tune, and inside `refold` on top of that.

        `erased` are all targets in force: the fine-tune uses no captions that name one of them.
        """
        judge = self.judge(model)
        checks = self.checks(model, concept)
        case = self.case(model, edit, concept, erased, partial(self._stacked, model))
        count = partial(self._count, model, judge, checks)
        *_, last = self.attack.search(case)
        tuned = last.inputs[0].weights
        assert tuned is not None
        found: dict[str, int | None] = {"pictures": len(checks), "unedited": count()}
        with edit.applied(model):
            found["edited"] = count(edit.hash)
            with tuned.applied(model):
                found["tuned"] = count(edit.hash, tuned.hash)
                found["refolded"] = None
                if refold is not None:
                    with refold():
                        found["refolded"] = count(edit.hash, tuned.hash, "refolded")
        return found

    def contact_sheet(
        self, model: ModelView, edit: ApplicableEdit, concepts: Sequence[str], erased: Sequence[str]
    ) -> list[SheetPair]:
        """Pairs of pictures of the unedited and the edited model: some that are counted, and some of what should stay.

        `erased` are all targets in force: nothing that names one of them counts as what should stay.
        """
        checks, judge = self.sheet_checks(model, concepts, erased), self.judge(model)
        prompts = [check.prompt for check in checks]
        before = self._drawn(model, prompts)
        with edit.applied(model):
            after = self._drawn(model, prompts, edit.hash)
        words = zip(judge_labels(judge, checks, before), judge_labels(judge, checks, after), strict=True)
        found = []
        for check, (old, new) in zip(checks, words, strict=True):
            shown = (old in check.labels, new in check.labels)
            pair = ImagePair(check.prompt.text, before[check.prompt], after[check.prompt], (old, new), shown)
            found.append(SheetPair(pair, check.prompt.seed, check.group == "direct"))
        return found

    def sheet_checks(self, model: ModelView, concepts: Sequence[str], erased: Sequence[str]) -> list[Check]:
        """The checks whose pictures are on the contact sheet of a request."""
        each = min(_SHEET_EACH, max(1, _SHEET_TARGETS // len(concepts)))
        chosen = [check for name in concepts[:_SHEET_TARGETS] for check in self.checks(model, name)[:each]]
        sizes = GroupSizes(1, _SHEET_KEPT_EACH, seed=self.seed)
        suite = world_of(model.name).erasure_suite([Concept(name, "object") for name in concepts], (), sizes)
        others = suite.checks(concepts)
        drawable = set(without_names([check.prompt.text for check in others], [*concepts, *erased]))
        for group in _SHEET_KEPT:
            named = [check for check in others if check.group == group and check.prompt.text in drawable]
            kept = [check for check in named if not is_never_drawn(check.prompt.text, *concepts)]
            chosen += kept[:_SHEET_KEPT_EACH]
        return list(dict.fromkeys(chosen))

    def judge(self, model: ModelView) -> Judge:
        judge = world_of(model.name).judge
        if judge is None:
            known = ", ".join(worlds)
            raise RequestError(f"an audit needs a judge, and {model.name} has none: use a model that has one, {known}")
        return judge

    @property
    def attack(self) -> Resurgence:
        """The fine-tune."""
        return Resurgence(rank=self.rank, checkpoints=(self.steps,))

    def checks(self, model: ModelView, concept: str) -> list[Check]:
        """The direct checks of an erasure of the concept."""
        sizes = GroupSizes(self.pictures, 1, seed=self.seed)
        suite = world_of(model.name).erasure_suite([Concept(concept, "object")], (), sizes)
        return [check for check in suite.checks([concept]) if check.group == "direct"][: self.pictures]

    def _count(self, model: ModelView, judge: Judge, checks: Sequence[Check], *state: str) -> int:
        drawn = self._drawn(model, [check.prompt for check in checks], *state)
        words = judge_labels(judge, checks, drawn)
        return sum(word in check.labels for word, check in zip(words, checks, strict=True))

    def _drawn(self, model: ModelView, prompts: Sequence[Prompt], *state: str) -> dict[Prompt, Tensor]:
        """Pictures (3, h, w) of the model as it now computes, identified by `state`; those already in the store are not
        drawn again.
        """
        found = hash_json(state) if state else None
        keys = {prompt: self.unedited.picture_key(self.spec, prompt, found) for prompt in prompts}
        lacking = [prompt for prompt, key in keys.items() if not self.store.has(key)]
        for start in range(0, len(lacking), self.spec.batch_size):
            chunk = lacking[start : start + self.spec.batch_size]
            for prompt, picture in zip(chunk, draw_prompts(model, chunk, self.spec), strict=True):
                self.store.save(keys[prompt], picture)
        return {prompt: self.store.load(key) for prompt, key in keys.items()}

    def _stacked(self, model: ModelView, prompts: Sequence[Prompt]) -> Tensor:
        drawn = self._drawn(model, prompts)
        return torch.stack([drawn[prompt] for prompt in prompts])

    def case(
        self,
        model: ModelView,
        edit: ApplicableEdit,
        concept: str,
        erased: Sequence[str],
        drawn: Callable[[Sequence[Prompt]], Tensor],
    ) -> AttackCase:
        """Set up the attack. `drawn` gives the captions' pictures (n, 3, h, w) of the unedited model, on noise that no
        report uses.
        """
        known = world_of(model.name).attacker_knowledge(Concept(concept, "object"), erased)
        captions = tuple(without_names(known.unrelated, [concept, *erased]))
        message = f"the fine-tune of {concept!r} has no captions left, since each names an erased concept: erase fewer"
        require(bool(captions), message, RequestError)
        prompts = [check.prompt for check in self.checks(model, concept)]
        shown = [seeded_prompt(text, UNUSED_REPLICATE) for text in captions]
        return AttackCase(
            model=model,
            edit=edit,
            concept=known.concept,
            prompts=tuple(prompt.text for prompt in prompts),
            noise=torch.stack([initial_noise(prompt.seed, model.latent_shape) for prompt in prompts]),
            pictures=torch.empty(0),
            examples=torch.empty(0),
            unrelated=(captions, drawn(shown)),
            seed=self.seed,
        )
