"""What is measured of one model, erased or not, against the strangers W2 and B, for one concept."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.reference_models import References
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.judging.rates import judge_labels
from unconcept.evaluation.references.predictions import (
    NoisedLatents,
    predict,
    prediction_distance,
    two_way_distance,
)
from unconcept.evaluation.references.relearning import relearning_curve
from unconcept.evaluation.sampling import DrawSpec, draw_prompts
from unconcept.metrics.never_saw import kernel_differences, strangers_test
from unconcept.models.diffusion.vae import encode_images
from unconcept.prompts.checks import Check, GroupSizes, Prompt, moji_checks
from unconcept.training.images.picture_tuning import PictureTuning
from unconcept.worlds.scenes import one_phrase, scene_caption, scene_words
from unconcept.worlds.table import concept_table
from world.artwork import Artwork
from world.captions import Caption, Captions, Subject
from world.composition import batch_of, compose
from world.scenes import draw_scene

if TYPE_CHECKING:
    from unconcept.models import ModelView
    from unconcept.models.vision.judge_net import JudgeNet

GROUPS = ("direct", "near", "far")
SHOWN = 4  # pictures of a row that are kept
UNKNOWN = "zub"  # a word that no model was taught
Applied = Callable[[], AbstractContextManager[None]]
Row = dict[str, Any]


@dataclass(frozen=True)
class MeasureSizes:
    """How much is drawn and trained."""

    prompts: int = 24
    """In each group."""
    each: int = 4
    """Pictures of a direct prompt for the strangers' test."""
    orders: int = 5
    taught: int = 5
    """Pictures that are taught."""
    judged: int = 12
    """Pictures of other artwork that are judged after each number of steps."""
    steps: int = 512
    lr: float = 1e-3
    """Of adapters of rank 4, as in moji-relearning."""
    timesteps: int = 20
    sampling_steps: int = 20

    @property
    def stops(self) -> list[int]:
        """1, 2, 4 ... steps."""
        return [2**power for power in range(self.steps.bit_length())]


class ConceptMeasures:
    """Questions about one concept, with the strangers' answers."""

    def __init__(
        self,
        references: References,
        concept: str,
        artwork: Artwork,
        sizes: MeasureSizes,
        judges: tuple[Judge, "JudgeNet"],
    ) -> None:
        self.references, self.concept, self.sizes, self.artwork = references, concept, sizes, artwork
        self.judge, self.net = judges
        self.spec = DrawSpec(steps=sizes.sampling_steps)
        self.entry = concept_table()[concept]
        checks = moji_checks(concept_table(), [concept], GroupSizes(sizes.prompts, sizes.prompts))
        members = {group: [check for check in checks if check.group == group][: sizes.prompts] for group in GROUPS}
        self.checks = {group: some for group, some in members.items() if some}

    @cached_property
    def stranger(self) -> "Drawn":
        """W2 on its own pictures, on artwork and under no text."""
        return self._drawn(self.references.views["W2"])

    @cached_property
    def _other_features(self) -> Tensor:
        return self._features(self.references.views["B"])[0]

    @cached_property
    def drawings(self) -> tuple[list[str], Tensor]:
        """Captions and pictures of the concept's artwork, those that are taught first, each in another style."""
        names = [self.concept] * 8
        if self.entry.kind == "style":
            objects = [e for e in concept_table().objects if self.concept in set(e.styles) - set(e.unseen)]
            pairs = [(e.name, self.concept) for e in random.Random(self.concept).sample(objects, 8)]
        else:
            pairs = list(zip(names, [s for s in self.entry.styles if s not in self.entry.unseen], strict=False))
        captions = Captions(concept_table(), scene_words(), 0, everything=True)
        texts = [scene_caption(one_phrase(name), style) for name, style in pairs]
        said = [
            Caption(text, (Subject(name, name),), style=style, style_wording=style)
            for text, (name, style) in zip(texts, pairs, strict=True)
        ]
        scenes = [draw_scene(captions, caption, random.Random(caption.text)) for caption in said]
        return texts, compose(self.artwork.pixels, batch_of(self.artwork.index, scenes))

    def row(self, view: "ModelView", applied: Applied, is_relearned: bool = True) -> tuple[Row, Tensor]:
        """All measures of a model as it computes inside `applied`, and pictures of the first prompts."""
        with applied():
            drawn = self._drawn(view)
            answers = {group: [predict(view, side) for side in sides] for group, sides in self._both(drawn).items()}
        w2, distances = self.references.views["W2"], dict[str, list[float]]()
        for group, (own, theirs) in self._both(drawn).items():
            other = (predict(w2, own), self.stranger.predictions[group])
            found = two_way_distance(view, (own, theirs), tuple(answers[group]), other)
            distances[group] = [found.gap, found.path]
        for name in ("artwork", "no text"):
            distances[name] = [prediction_distance(drawn.predictions[name], self.stranger.predictions[name])]
        poles = (drawn.features, self.stranger.features, self._other_features)
        test = strangers_test(kernel_differences(*(some.double().numpy() for some in poles)))
        found_row = {"distances": distances, "strangers": asdict(test), "shown": drawn.shown, "instead": drawn.instead}
        return found_row | ({"relearning": self.curves(view, applied)} if is_relearned else {}), drawn.pictures

    def curves(self, view: "ModelView", applied: Applied, word: str | None = None) -> list[list[list[float]]]:
        """Steps and shares of each order; `word` teaches and asks for the concept under another word."""
        taught, judged = self._lessons(word)
        found = []
        for seed in range(self.sizes.orders):
            tuning = PictureTuning("lora", self.sizes.lr, seed=seed)
            curve = relearning_curve(
                view, applied, taught, tuning, lambda model: self._share(model, judged), self.sizes.stops
            )
            found.append([[steps, share] for steps, share in curve.items()])
        return found

    def _lessons(self, word: str | None) -> tuple[tuple[list[str], Tensor], list[Check]]:
        """What is taught, and questions about artwork that is not."""
        texts, pictures = self.drawings
        texts = [text.replace(self.concept, word or self.concept) for text in texts]
        first, by = self.sizes.taught, "style" if self.entry.kind == "style" else "object"
        judged = [
            Check(Prompt(text, 1_500_000 + i), "direct", self.concept, by, self.entry.labels)
            for i in range(-(-self.sizes.judged // len(texts[first:])))
            for text in texts[first:]
        ]
        return (texts[:first], pictures[:first]), judged[: self.sizes.judged]

    def _share(self, model: "ModelView", checks: Sequence[Check]) -> float:
        said = self._judged(checks, draw_prompts(model, [check.prompt for check in checks], self.spec))
        return sum(word in check.labels for word, check in zip(said, checks, strict=True)) / len(checks)

    def _judged(self, checks: Sequence[Check], pictures: Tensor) -> list[str]:
        return judge_labels(self.judge, checks, dict(zip((check.prompt for check in checks), pictures, strict=True)))

    def _both(self, drawn: "Drawn") -> dict[str, tuple[NoisedLatents, NoisedLatents]]:
        """Of each group: what the model drew, and what W2 drew."""
        return {group: (drawn.sides[group], self.stranger.sides[group]) for group in self.checks}

    @torch.no_grad()
    def _features(self, view: "ModelView") -> tuple[Tensor, Tensor]:
        """The judge's embeddings (prompts, each, width) of direct prompts, and the first picture of each prompt."""
        checks, each = self.checks["direct"], self.sizes.each
        prompts = [Prompt(c.prompt.text, c.prompt.seed + 10_000_019 * i) for c in checks for i in range(each)]
        pictures = draw_prompts(view, prompts, self.spec)
        return self.net.embed(pictures).view(len(checks), each, -1), pictures[::each]

    @torch.no_grad()
    def _drawn(self, view: "ModelView") -> "Drawn":
        features, first = self._features(view)
        pictures = {"direct": first}
        for group in self.checks.keys() - {"direct"}:
            pictures[group] = draw_prompts(view, [check.prompt for check in self.checks[group]], self.spec)
        sides, predictions, shown, instead = {}, {}, {}, Counter[str]()
        for number, (group, checks) in enumerate(self.checks.items()):
            texts, latents = [check.prompt.text for check in checks], encode_images(view, pictures[group])
            sides[group] = NoisedLatents.of(view, texts, latents, number, self.sizes.timesteps)
            predictions[group] = predict(view, sides[group])
            said = self._judged(checks, pictures[group])
            shown[group] = [sum(word in c.labels for word, c in zip(said, checks, strict=True)), len(checks)]
            instead.update(said if group == "direct" else ())
        texts, artwork = self.drawings
        asked = NoisedLatents.of(view, texts, encode_images(view, artwork), 99, self.sizes.timesteps)
        predictions |= {"artwork": predict(view, asked), "no text": predict(view, asked.under(""))}
        return Drawn(features, sides, predictions, first[:SHOWN], shown, instead.most_common(3))


@dataclass(frozen=True)
class Drawn:
    """What one model drew and predicted: features of direct prompts, its own noised pictures, its predictions."""

    features: Tensor
    sides: Mapping[str, NoisedLatents]
    predictions: Mapping[str, Tensor]
    pictures: Tensor
    """Of the first direct prompts (SHOWN, 3, h, w)."""
    shown: Mapping[str, list[int]]
    instead: Sequence[tuple[str, int]]
