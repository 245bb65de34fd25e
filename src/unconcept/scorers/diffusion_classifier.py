"""Diffusion Classifier: Li et al., ICCV 2023, arXiv:2303.16203.

A picture shows the candidate under whose text the unedited model's own denoiser removes noise best. No other network is
needed. It is the model's own word: it knows only what the model knows, and an attack on the model's loss climbs it.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import inf

import torch
from torch import Tensor

from ..core.errors import require
from ..core.hashing import hash_json, hash_tensors
from ..models import Conditioning, ModelView
from ..models.diffusion.prediction_seal import PredictionSeal
from ..models.diffusion.vae import encode_images
from ..prompts.checks import Check
from ..prompts.text_matching import GENERAL_WORDS, find_name
from .registry import NOTHING_LABEL, AnswerReader, RawScore, scorer

Candidate = tuple[str, str]  # "label" or "general", and its name
GENERAL, EMPTY = ("general", "general"), ("general", "empty")
_ROWS_AT_ONCE = 64
_MOST_TEXTS = 64  # encoded texts that are remembered
_MOST_Z = 1e6
_MOST_TARGETS = 2  # targets that are candidates for every picture
_PLAIN_FORMS = {"object": ("a ", ""), "style": ("", " style")}  # around a label that the prompt does not name


@dataclass(frozen=True)
class ClassifierSettings:
    """Settings of the classifier. Defaults: those that agreed most with moji-judge on tune concepts (docs/judge.md)."""

    draws: tuple[int, ...] = (1, 9)
    """Pairs of timestep and noise for each candidate after each stage; each an odd multiple of the one before."""
    keep: int = 1
    """Candidates that a stage leaves to the next, beside those asked for and the general texts."""
    earliest: float = 0.21
    """Start of the timesteps, as a share of the schedule."""
    latest: float = 0.69
    """End of the timesteps, as a share of the schedule."""
    neighbours: int = 3
    """Labels nearest to the one asked for that are candidates too."""
    threshold: float = 1.0
    """Standard errors by which the best candidate must beat the general texts; below, none of them is shown."""

    def __post_init__(self) -> None:
        nested = all(two > one and two % one == 0 and two // one % 2 for one, two in pairwise(self.draws))
        require(
            bool(self.draws) and self.draws[0] > 0 and self.draws[-1] > 1 and nested,
            f"diffusion-classifier: draws must rise by odd factors to at least 2, got {self.draws}: give (1, 9)",
        )
        require(
            self.keep > 0 and self.neighbours >= 0,
            f"diffusion-classifier: keep must be > 0 and neighbours >= 0, got {self.keep} and {self.neighbours}",
        )
        require(
            0 <= self.earliest < self.latest <= 1,
            f"diffusion-classifier: timesteps {self.earliest} to {self.latest}: give shares 0 <= first < last <= 1",
        )

    @property
    def stages(self) -> list[list[int]]:
        """The draws that are new in each stage, by their place in the last stage's grid: centred grids, each in the
        next.
        """
        seen: set[int] = set()
        found = []
        for count in self.draws:
            gap = self.draws[-1] // count
            grid = [gap * i + gap // 2 for i in range(count)]
            found.append([place for place in grid if place not in seen])
            seen.update(grid)
        return found

    def calls(self, candidates: int, asked: int = 1) -> int:
        """Denoiser calls for one picture with so many labels, `asked` of them asked for, and two general texts."""
        kept = asked + 2 + min(self.keep, candidates - asked)
        first, *later = (len(stage) for stage in self.stages)
        return (candidates + 2) * first + kept * sum(later)

    def timesteps(self, model: ModelView) -> Tensor:
        """The timesteps (n,) of the last stage's grid, the middles of equal parts."""
        count, last = self.draws[-1], len(model.schedule.alpha) - 1
        middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        found = (self.earliest + (self.latest - self.earliest) * middles) * last
        return found if model.schedule.prediction_type == "flow" else found.round().long()


def ask_classifier(check: Check) -> str:
    """Return the question about a check's picture: its labels, and the words around them.

    A prompt that names the concept lends its other words to every candidate, so that they differ in the label alone.
    """
    aspect = "style" if check.by == "style" else "object"
    place, text = find_name(check.prompt.text, [check.wording or check.concept]), check.prompt.text
    around = (text[: place[0]], text[place[1] :]) if place else _PLAIN_FORMS[aspect]
    return json.dumps([aspect, check.labels, check.among, *around])


def _read(opened: "DiffusionClassifier", raw: RawScore, check: Check) -> str:
    best: str = raw["best"]
    return best if raw["z"] > opened.settings.threshold else NOTHING_LABEL


_READER = AnswerReader(
    _read,
    ask_classifier,
    answers="texts",
    policy="lowest denoising error, if it beats the general texts",
    needs_model=True,
    caveat="the unedited model's own word, not an independent judge's",
    grades_white_box=False,
    pictures_at_once=8,
)


@scorer("diffusion-classifier", reads="text", reader=_READER)
class DiffusionClassifier:
    """Classifies an image among labels by the denoising error of the unedited model under each label's text.

    `labels` are possible answers, `styles` those of questions about a style; `targets` are candidates for every image.
    """

    name = "diffusion-classifier"
    version = 1

    def __init__(
        self,
        model: ModelView,
        model_key: str = "",
        labels: Sequence[str] = (),
        styles: Sequence[str] = (),
        targets: Sequence[str] = (),
        settings: ClassifierSettings = ClassifierSettings(),
    ) -> None:
        """Remember what the unedited model predicts. `model_key` is the hash of its weights."""
        self.model, self.settings = model, settings
        self.labels = {"object": tuple(labels), "style": tuple(styles) or tuple(labels)}
        self.targets = tuple(targets)
        self.hash = hash_json([model_key, self.labels, self.targets, asdict(settings)])
        self.steps = settings.timesteps(model)
        text = "".join((_PLAIN_FORMS["object"][0], next(iter((*targets, *labels)), "")))
        self.seal = PredictionSeal.of(model, int(self.steps[len(self.steps) // 2]), text=text)
        self._texts: OrderedDict[str, Conditioning] = OrderedDict()

    @torch.no_grad()
    def score(self, pictures: Tensor, asked: Sequence[str]) -> list[RawScore]:
        """Return the best candidate, its lead over the general texts, and every candidate's mean error.

        `asked[i]` comes from `ask_classifier`. Raises `ModelError` if an edit is applied to the model.
        """
        require(len(asked) == len(pictures), f"{len(asked)} questions about {len(pictures)} images: give one for each")
        self.seal.require_unedited(self.model)
        rows = []
        for picture, question in zip(pictures, asked, strict=True):
            clean = encode_images(self.model, picture[None]).to(self.model.dtype)
            rows.append(self._row(clean, picture_noises(picture, self.settings.draws[-1], clean), question))
        return rows

    def candidates(self, question: str) -> tuple[list[str], dict[str, str]]:
        """Return the labels asked for, and the texts of all candidates by label: these, targets, nearest neighbours."""
        aspect, labels, among, *_ = json.loads(question)
        others = [label for label in among or self.labels[aspect] if label not in labels]
        near = self._by_likeness(labels[0], others)
        known = {*self.labels[aspect], *labels}
        targets = [label for label in self._by_likeness(labels[0], self.targets) if label in known][:_MOST_TARGETS]
        named = list(among) if among else [*targets, *near[: self.settings.neighbours]]
        before, after = self._around(question)
        return list(labels), {label: f"{before}{label}{after}" for label in dict.fromkeys([*labels, *named])}

    def seconds_per_picture(self) -> float:
        """Estimate the seconds for one picture, from one timed step of the denoiser."""
        sides = self.labels["object"] or ("",)
        candidates = min(1 + _MOST_TARGETS + self.settings.neighbours, len(sides))
        rows = min(_ROWS_AT_ONCE, candidates + 2)
        latents = torch.zeros(rows, *self.model.latent_shape, device=self.model.device, dtype=self.model.dtype)
        given = self._encoded([sides[0]] * rows)
        with torch.no_grad():
            self.model.denoise(latents[:1], self.steps[:1], given.rows(slice(1)))  # The first call builds.
            begun = time.perf_counter()
            float(self.model.denoise(latents, self.steps[:1].expand(rows), given).sum())
        return (time.perf_counter() - begun) / rows * self.settings.calls(candidates)

    def _row(self, clean: Tensor, noises: Tensor, question: str) -> RawScore:
        asked, texts = self.candidates(question)
        said = self.general_texts(question) | {("label", name): text for name, text in texts.items()}

        def errors_of(candidates: Sequence[Candidate], places: Sequence[int]) -> list[list[float]]:
            return self.errors(clean, noises[places], self.steps[places], [said[one] for one in candidates])

        return classify_in_stages(self.settings, asked, list(texts), errors_of)

    def general_texts(self, question: str) -> dict[Candidate, str]:
        """Return the texts that every label must beat: the question's with a general word, and the empty one."""
        before, after = self._around(question)
        return {GENERAL: f"{before}{GENERAL_WORDS[json.loads(question)[0]]}{after}", EMPTY: ""}

    def _around(self, question: str) -> tuple[str, str]:
        """Return the words around a label: the prompt's, or plain ones if a label would not fit among these."""
        aspect, labels, among, before, after = json.loads(question)
        longest = max((*labels, *among, *self.labels[aspect], *self.targets, GENERAL_WORDS[aspect]), key=len)
        fits = all(tokenizer.can_hold(f"{before}{longest}{after}") for tokenizer in self.model.tokenizers)
        return (before, after) if fits else _PLAIN_FORMS[aspect]

    def errors(self, clean: Tensor, noises: Tensor, steps: Tensor, texts: Sequence[str]) -> list[list[float]]:
        """Mean squared errors of the predicted noise, a row a text and a column a draw, in float32 or wider."""
        count, device = len(noises), self.model.device
        x_t = self.model.schedule.add_noise(clean.expand_as(noises), noises, steps.to(device))
        given, wide = self._encoded(texts), torch.promote_types(clean.dtype, torch.float32)
        rows = torch.arange(len(texts) * count)
        found = []
        for part in rows.split(_ROWS_AT_ONCE):
            draws, t = part % count, steps[part % count].to(device)
            said = self.model.denoise(x_t[draws], t, given.rows(part // count)).to(wide)
            error = self.model.schedule.epsilon(said, x_t[draws].to(wide), t) - noises[draws].to(wide)
            found.append(error.square().flatten(1).mean(1).cpu())
        return torch.cat(found).view(len(texts), count).tolist()

    def _encoded(self, texts: Sequence[str]) -> Conditioning:
        """Encode texts for the denoiser; those of the last pictures are remembered."""
        for text in dict.fromkeys(texts):
            if text not in self._texts:
                self._texts[text] = self.model.condition([text])
            self._texts.move_to_end(text)
        given = Conditioning.concatenate([self._texts[text] for text in texts])
        while len(self._texts) > _MOST_TEXTS:
            self._texts.popitem(last=False)
        return given

    def _by_likeness(self, label: str, others: Sequence[str]) -> list[str]:
        """Sort labels by the cosine of their text's state with that of `label`, nearest first."""
        distinct = [other for other in dict.fromkeys(others) if other.strip() and other != label]
        if not distinct:
            return []
        states = self.model.embed([label, *distinct]).reshape(1 + len(distinct), -1)
        states = torch.nn.functional.normalize(states.to(torch.promote_types(states.dtype, torch.float32)), dim=1)
        order = (states[1:] @ states[0]).argsort(descending=True, stable=True)
        return [distinct[i] for i in order.tolist()]


def classify_in_stages(
    settings: ClassifierSettings,
    asked: Sequence[str],
    labels: Sequence[str],
    errors_of: Callable[[Sequence[Candidate], Sequence[int]], Sequence[Sequence[float]]],
) -> RawScore:
    """Drop the losing labels stage by stage; those asked for and the general texts are never dropped.

    `errors_of` gives a row of errors for each candidate at some places of the last stage's grid.
    """
    errors: dict[Candidate, list[float]] = {("label", name): [] for name in labels}
    errors |= {GENERAL: [], EMPTY: []}
    alive = list(errors)
    for stage, places in enumerate(settings.stages):
        for candidate, row in zip(alive, errors_of(alive, places), strict=True):
            errors[candidate] += row
        if stage + 1 < len(settings.draws):
            losing = [one for one in alive if one[0] == "label" and one[1] not in asked]
            losing.sort(key=lambda one: _mean(errors[one]))
            alive = [one for one in alive if one not in losing[settings.keep :]]
    return _verdict(alive, errors)


def _verdict(alive: Sequence[Candidate], errors: Mapping[Candidate, Sequence[float]]) -> RawScore:
    """The label of least mean error, and by how many standard errors it beats the best general text."""
    best = min((one for one in alive if one[0] == "label"), key=lambda one: _mean(errors[one]))
    general = min((one for one in alive if one[0] == "general"), key=lambda one: _mean(errors[one]))
    leads = torch.tensor(errors[general], dtype=torch.float64) - torch.tensor(errors[best], dtype=torch.float64)
    margin, spread = float(leads.mean()), float(leads.std() / len(leads) ** 0.5)
    z = margin / spread if spread > 0 else inf if margin > 0 else 0.0
    means = {name: round(_mean(row), 6) for (kind, name), row in errors.items() if kind == "label"}
    others = {name: round(_mean(row), 6) for (kind, name), row in errors.items() if kind == "general"}
    z = min(max(z, -_MOST_Z), _MOST_Z)  # JSON holds no infinity.
    return {"best": best[1], "z": round(z, 4), "margin": round(margin, 8), "errors": means, "general": others}


def _mean(row: Sequence[float]) -> float:
    return sum(row) / len(row)


def picture_noises(picture: Tensor, count: int, like: Tensor) -> Tensor:
    """Noises (count, c, h, w) for an image's latents: the same for every candidate, and for the same image."""
    seed = int(hash_tensors({"picture": picture})[:12], 16)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *like.shape[1:], generator=generator).to(like)
