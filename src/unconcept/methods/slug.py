"""SLUG, Single Layer Unlearning Gradient: Cai et al., ICML 2025, arXiv:2407.11867 (from the authors' code).

One gradient of one layer of a CLIP's text tower, along which pictures and name of the target part; how far to go is found by halving.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import NumericsError, RequestError, SettingsError, require
from ..core.request import Request
from ..core.settings import check_seed
from ..edits import DenseEdit
from ..models import ModelView
from ..models.images import pictures_of
from ..models.text.parameters import encoder_parameters, layer_of
from ..models.text.state_rows import fitting
from ..models.vision.paired_clip import Sights
from ..prompts.templates import check_sentences, sentences
from ..training import Weights, gradient
from ..training.clip_objectives import Pairs, Seen
from ..training.images.training_images import drawn, seeds_of
from .registry import Look, method

TOGETHER = (r"self_attn\.[qkv]_proj", r"mlp\.fc[12]")  # matrices that are moved as one
Found = dict[str, Tensor]


@method("slug", paper="arXiv:2407.11867", families=("sd1", "sd2", "sdxl"), way="one-step", sees=True)
@dataclass(frozen=True)
class SLUG:
    """Moves one layer of the text encoder along one gradient. Defaults from the authors' scripts, but for counts of pictures."""

    clip: str = ""  # folder of the whole CLIP that the text encoder is of; moji has its own
    clip_2: str = ""  # of SDXL's second encoder
    layer: str = ""  # "layers.11.self_attn.out_proj", say; "" takes the deepest of the Pareto front
    batch_size: int = 4  # pairs that the retained texts' contrastive loss tells apart
    initial_ratio_divisor: float = 10.0  # the first step is |W| / |G| / this
    max_search_iterations: int = 10
    top_k: int = 5  # the target is gone when its name is not among so many of its pictures' nearest names
    look_pictures: int = 0  # that are then drawn of each target and judged: it is gone when none shows it; 0: none are, as by the authors
    images: str = ""  # folder of pictures of the target; "" has the unedited model draw them
    pictures: int = 16  # that are drawn of the targets, of the retained texts, and again of both for the search (inferred)
    picture_steps: int = 25
    picture_guidance: float = 7.5  # (inferred)
    templates: tuple[str, ...] = ()  # sentences to draw, with {}; () takes thirty of the kind
    seed: int = 0
    compat: Literal["", "authors"] = ""  # "authors": retained pictures are captioned with the target's name, as in their notebook

    def __post_init__(self) -> None:
        check_seed("slug", self.seed)
        for name in ("batch_size", "initial_ratio_divisor", "max_search_iterations", "top_k", "pictures", "picture_steps"):
            require(getattr(self, name) > 0, f"slug: {name} must be > 0, got {getattr(self, name)}")
        require(self.look_pictures >= 0, f"slug: look_pictures must be >= 0, got {self.look_pictures}")
        require(self.picture_guidance >= 0, f"slug: picture_guidance must be >= 0, got {self.picture_guidance}")
        check_sentences("slug", self.templates)

    @property
    def clips(self) -> Mapping[str, str]:
        return {"text_encoder": self.clip, "text_encoder_2": self.clip_2}

    def erase(self, model: ModelView, request: Request, sights: Sights, look: Look | None = None) -> DenseEdit:
        """W + r G of one layer, G the gradient of L_f = mean (1 - cos(picture, name)), r the least at which no picture is nearest its name.

        For each encoder W (o, d) and G (o, d), r from |W| / (divisor |G|) on, doubled until nothing is left and halved from there.
        Differs: pictures of both sets are the model's own, the authors' are LAION's; the sign is that in which L_f grows, whatever
        the notebook's cells say. Several concepts share one gradient; for the paper's modular form make an edit each and add them.
        Anchors are not used.
        """
        # Differs: the rule asks the pooled text, which SD's denoiser never reads; with `look_pictures` all encoders go on together until it draws none.
        require(bool(request.retain), "slug: nothing to tell the target from: name other concepts with --retain", RequestError)
        require(not self.look_pictures or look is not None, "slug: look_pictures need a judge: name one with --judge, or set them to 0", RequestError)
        pairs, deltas, figures = self._pairs(model, request), Found(), dict[str, float]()
        seen = {part: pairs.seen(sights[part]) for part in encoder_parameters(model)}
        for part, own in encoder_parameters(model).items():
            found, ratios = self._moved(model, {name: p for name, p in own.items() if p.ndim == 2 and layer_of(name) >= 0}, seen[part], request)
            deltas |= found
            figures |= _of(part, ratios)
        if look is not None and self.look_pictures:
            further = self._further(model, deltas, look)
            deltas, figures["further"] = {name: further * delta for name, delta in deltas.items()}, further
        with torch.no_grad(), DenseEdit(deltas).applied(model):
            for part, own_seen in seen.items():
                figures |= _of(part, dict(zip(("forget_accuracy", "retain_accuracy"), own_seen.accuracies(self.top_k), strict=True)))
        return DenseEdit(deltas, solve_figures=figures)

    def _moved(self, model: ModelView, maps: Mapping[str, Tensor], seen: Seen, request: Request) -> tuple[Found, dict[str, float]]:
        """One encoder's change by the rule, and how large it is."""
        trained = Weights(model, tuple(maps))
        forget, retain = _gradients(trained, seen.parted), _gradients(trained, lambda: seen.contrast(self.batch_size))
        start = {name: trained.start[name].detach() for name in maps}
        group = self._group(start, forget, retain)
        g = {name: forget[name] for name in group}
        sizes = [float(sum(each[name].double().square().sum() for name in group)) ** 0.5 for each in (start, g)]
        message = f"slug: the gradient of {group[0]} is 0: its pictures and the name of {request.targets[0]!r} have nothing to do with it; choose another layer"
        require(sizes[1] > 0, message)

        @torch.no_grad()
        def is_gone(r: float) -> bool:
            with DenseEdit({name: r * part for name, part in g.items()}).applied(model):
                return seen.accuracies(self.top_k)[0] == 0

        r, _ = halved(is_gone, sizes[0] / sizes[1] / self.initial_ratio_divisor, self.max_search_iterations)
        return {name: r * part for name, part in g.items()}, {"layer": float(layer_of(group[0])), "ratio": r, "relative_ratio": r * sizes[1] / sizes[0]}

    def _further(self, model: ModelView, deltas: Found, look: Look) -> float:
        """The least multiple of the changes, from 1 on, under which no drawn picture shows the target."""
        shares: dict[float, float] = {}

        def is_gone(times: float) -> bool:
            with DenseEdit({name: times * delta for name, delta in deltas.items()}).applied(model):
                shares[times] = look(self.look_pictures)
            return shares[times] == 0

        if is_gone(1.0):
            return 1.0
        found, suffices = halved(is_gone, 2.0, self.max_search_iterations - 1, low=1.0)
        least = min(shares, key=lambda times: shares[times])
        seen = f"{shares[least]:.0%} of the drawn pictures still show the target at {least:g} times the step of the rule"
        require(suffices, f"slug: {seen}: name another with --set layer=, or raise max_search_iterations", NumericsError)
        return found

    def _pairs(self, model: ModelView, request: Request) -> Pairs:
        """The model's own pictures, or the user's of the targets, each with the number of its text."""
        forms = {text: fitting(model, sentences(request.kind, self.templates), text) for text in (*request.targets, *request.retain)}

        def sheet(texts: Sequence[str], turn: int) -> tuple[list[str], Tensor]:
            shown = [texts[i % len(texts)] for i in range(self.pictures)]
            prompts = [forms[text][i // len(texts) % len(forms[text])].replace("{}", text) for i, text in enumerate(shown)]
            return prompts, drawn(model, prompts, seeds_of(2 * self.seed + turn, len(prompts)), self.picture_steps, self.picture_guidance)

        own = [pictures_of(Path(self.images), model, 1)] * 2 if self.images else [sheet(request.targets, turn)[1] for turn in (0, 1)]
        captions, kept = sheet(request.retain, 0)
        if self.compat == "authors":
            captions = [request.targets[0]] * len(captions)
        return Pairs(request.targets, request.retain, tuple(captions), (own[0], kept, own[1], sheet(request.retain, 1)[1]))

    def _group(self, weights: Found, forget: Found, retain: Found) -> tuple[str, ...]:
        """The layer's matrices: the one that was named, or the deepest of those that matter most and disturb least."""
        modules = {name: name.partition(".")[2].removesuffix(".weight") for name in weights}
        if self.layer:
            named = [name for name, module in modules.items() if module.removeprefix("text_model.").removeprefix("encoder.") == self.layer]
            example = next(iter(modules.values())).removeprefix("text_model.").removeprefix("encoder.")
            require(bool(named), f"slug: layer {self.layer!r}: the text encoder has none of that name; write it as {example}", SettingsError)
            chosen = named[0]
        else:
            matters = {name: float(forget[name].norm() / weights[name].norm()) for name in weights}
            disturbs = {name: float(F.cosine_similarity(forget[name].flatten(), retain[name].flatten(), 0).abs()) for name in weights}
            # Where two of one layer stand on the front, the one that matters more (inferred).
            chosen = max(pareto(matters, disturbs), key=lambda name: (layer_of(name), matters[name]))
        return tuple(name for name in weights if layer_of(name) == layer_of(chosen) and _kind(name) == _kind(chosen))


def _of(part: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Figures of the second encoder carry its number."""
    return {name + part.removeprefix("text_encoder").replace("_", " "): value for name, value in figures.items()}


def _kind(name: str) -> str:
    """What a matrix is moved together with, inside its layer."""
    return next((pattern for pattern in TOGETHER if re.search(pattern, name)), name)


def pareto(matters: Mapping[str, float], disturbs: Mapping[str, float]) -> list[str]:
    """Those for which no other both matters more and disturbs less."""
    return [n for n in matters if not any(matters[m] > matters[n] and disturbs[m] < disturbs[n] for m in matters)]


def halved(is_gone: Callable[[float], bool], start: float, evaluations: int, low: float = 0.0) -> tuple[float, bool]:
    """The least ratio asked for above `low` at which it is gone, or the largest asked for if it never is, and whether it is.

    Doubled until it is, then halved from below.
    """
    high, r = None, start
    for _ in range(evaluations):
        if is_gone(r):
            high = r
        else:
            low = r
        r = 2 * low if high is None else (low + high) / 2
    return (low, False) if high is None else (high, True)


def _gradients(trained: Weights, loss: Callable[[], Tensor]) -> Found:
    with trained.on():
        return dict(zip(trained.tensors, gradient(loss(), list(trained.tensors.values())), strict=True))
