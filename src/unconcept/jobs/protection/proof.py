"""The proof of `protect --prove`: who learns what, and how copies are recognised."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ...core.concept import CONCEPT_KINDS, Concept, ConceptKind
from ...core.errors import SettingsError, require
from ...core.hashing import hash_tensors
from ...core.progress import ProgressCallback
from ...core.registry import suggest
from ...evaluation.judging.judge import image_measures, open_scorer, require_path_as_taken, scorer_key
from ...evaluation.protection.given_pictures import GivenPicture, read_given_pictures
from ...evaluation.protection.learners import LEARNERS, LearnerName, Subject, learner_for, require_learner
from ...evaluation.protection.proof import PROTECTED, ProofPlan, prove, verdict_of
from ...evaluation.protection.recognition import Recogniser
from ...evaluation.sampling import require_text_length
from ...evaluation.tasks.edited_model import EditedModel
from ...evaluation.worlds import world_of
from ...models.diffusion.vae import require_picture_size
from ...prompts.safety import require_drawable
from ...scorers import FeatureScorer, scorers
from ..options import paths, texts
from .options import ProveOptions

COPIES = "copies"  # folder of what the learners draw


@dataclass(frozen=True)
class OpenProof:
    """Who learns what, without the protected pictures, which are not made yet."""

    subject: Subject
    model: EditedModel
    options: ProveOptions
    scorer: FeatureScorer
    others: Tensor
    """(k, 3, h, w): pictures of other things."""

    @property
    def learners(self) -> tuple[LearnerName, ...]:
        """The learners, as typed."""
        return cast(tuple[LearnerName, ...], texts(self.options.learners))

    def plan(self, protected: Tensor) -> ProofPlan:
        """The plan for these protected pictures (n, 3, h, w)."""
        own = self.options
        return ProofPlan(
            self.subject, {PROTECTED: protected}, self.model, self.learners, own.copies, own.learning_steps,
            own.adaptive, own.other_base,
        )  # fmt: skip


def open_proof(options: ProveOptions, model: EditedModel, given: Sequence[GivenPicture]) -> OpenProof:
    """Check all that a proof needs. Bad input raises `UsageError` before anything is written."""
    require(bool(texts(options.learners)), "no learner: give textual-inversion or lora", SettingsError)
    for name in texts(options.learners):
        suggest(name, {str(known): known for known in LEARNERS}, "learner")
        learner_for(cast(LearnerName, name), world_of(model.model), options.learning_steps)
        require_learner(cast(LearnerName, name), model.base())
    message = f"kind {options.kind!r}: allowed are {', '.join(CONCEPT_KINDS)}"
    require(options.kind in CONCEPT_KINDS, message, SettingsError)
    pictures = torch.stack([one.picture for one in given])
    subject = Subject(pictures, Concept(options.word, cast(ConceptKind, options.kind)))
    prompts = [prompt.text for prompt in subject.prompts(options.copies, 0)]
    require_drawable(prompts)
    require_text_length(model.base(), prompts)
    if options.other_base is not None:
        other = EditedModel(options.other_base, device=model.device, dtype=model.dtype).base()
        for name in texts(options.learners):
            require_learner(cast(LearnerName, name), other)
        require_picture_size(other, pictures, "each protected picture")
        require_text_length(other, prompts)
    found = read_given_pictures(paths(options.others), model.base()) if paths(options.others) else []
    others = torch.stack([one.picture for one in found]) if found else pictures[:0]
    return OpenProof(subject, model, options, _open_features(options.features, model.model), others)


def proof_identity(options: ProveOptions) -> dict[str, object]:
    """What a proof depends on, for an interrupted run."""
    if not options.prove:
        return {}
    names = [name for name in ProveOptions.__dataclass_fields__ if name not in ("prove", "others")]
    return {"proof": {name: str(getattr(options, name)) for name in names} | {"others": str(options.others)}}


def run_proof(opened: OpenProof, protected: Tensor, folder: Path, progress: ProgressCallback) -> dict[str, Any]:
    """Learn, draw, recognise; the rows, what they mean, and a verdict, as plain data."""
    plan, world = opened.plan(protected), world_of(opened.model.model)

    def recogniser(unlearned: Tensor) -> Recogniser:
        return Recogniser.of(opened.scorer, opened.subject.pictures, torch.cat([unlearned, opened.others]))

    rows = prove(plan, recogniser, folder / COPIES, lambda done, of: progress("prove", done, of))
    return {
        "meaning": _meaning(opened),
        "recogniser": scorer_key(opened.scorer),
        "clean": hash_tensors({"pictures": opened.subject.pictures}),
        "word": opened.subject.concept.name,
        "settings": {name: dict(learner_for(name, world, plan.steps).settings) for name in plan.learners},
        "rows": [row.data() for row in rows],
        "verdict": verdict_of(rows),
    }


def _meaning(opened: OpenProof) -> str:
    count, more = opened.options.copies, len(opened.others)
    also = f", and {more} pictures of other things" if more else ""
    return (
        f"Learners start from the same seeds for clean and for protected pictures, and draw {count} copies. One is"
        f" recognised if the picture nearest to it by the features of {opened.scorer.name} is a clean one of the"
        f" subject; the others are {count} that the model draws under the same prompts before it learns"
        f" anything{also}. Likeness is the mean of the largest cosine with a clean picture."
    )


def _open_features(named: str | None, model: str) -> FeatureScorer:
    """The named features, or those of the world's judge."""
    if named is None:
        judge = world_of(model).judge
        found = image_measures(judge).embedding if judge is not None else None
        message = f"--prove on {model} needs features to recognise copies by: give --features clip-embedding=FOLDER"
        require(found is not None, message, SettingsError)
        assert found is not None
        return found
    name, _, path = named.partition("=")
    known = [one for one in scorers if scorers[one].reads == "set"]
    message = f"--features {name}: it gives no features of pictures; known are {', '.join(known)}"
    require(scorers[name].reads == "set", message, SettingsError)
    require_path_as_taken(named, "--features")
    opened: FeatureScorer = open_scorer(name, path or None)
    return opened
