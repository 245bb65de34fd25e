"""Images of anchors that the unedited model draws, beside prompts of their targets (Concept Ablation, DoCo)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...core.errors import require
from ...core.hashing import hash_tensors
from ...core.request import Request
from ...core.seeds import picture_seeds
from ...models import ModelView
from ...models.text.state_rows import fits_context, sentences_that_fit
from ...prompts.captions import load_captions
from ...prompts.templates import open_sentences
from ...prompts.text_matching import replace_name
from .training_images import generate_images, images_to_latents, place_image, refuse_blank_pictures, take_in_turn

_STYLE_FORMS = ("{p}, in the style of {c}", "in {c}'s style, {p}", "in {c}'s style, {p}")
_HARMFUL_FORMS = ("{c}, {p}", "in {c} style, {p}", "{p}, {c}")
_KINDS_DRAWN_AGAINST_TARGET = ("harmful", "explicit")  # whose anchors have the target as negative prompt


class AnchorImageSettings(Protocol):
    """What a method's settings say about images of anchors."""

    @property
    def picture_steps(self) -> int:
        """Sampling steps."""

    @property
    def picture_guidance(self) -> float:
        """Guidance scale."""

    @property
    def augment(self) -> bool:
        """Whether images are shown at random sizes, with targets' prompts that name the size."""

    @property
    def mirror(self) -> bool:
        """Whether half of the images are mirrored."""

    @property
    def anchor_prompts(self) -> str:
        """Captions that name the anchor: a packaged set or a file; "" uses sentences instead."""

    @property
    def templates(self) -> tuple[str, ...]:
        """Those sentences; () takes those of the request's kind."""

    @property
    def seed(self) -> int:
        """Seed of the images."""


class PromptPair(NamedTuple):
    """A prompt with the anchor, its forms with the target, and the negative prompt of its image."""

    anchor: str
    targets: tuple[str, ...]
    negative: str = ""


def anchor_pairs(method: str, model: ModelView, request: Request, settings: AnchorImageSettings) -> list[PromptPair]:
    """Pair prompts of each anchor with those of its target: a pair of each target in turn."""
    both = zip(request.targets, request.anchors, strict=True)
    own = [_pairs_of(method, model, request, settings, pair) for pair in both]
    return [pair for turn in zip_longest(*own) for pair in turn if pair is not None]


def _pairs_of(
    method: str, model: ModelView, request: Request, settings: AnchorImageSettings, names: tuple[str, str]
) -> list[PromptPair]:
    """Pair the prompts of one target and its anchor, without those that are too long for the encoder."""
    target, anchor = names
    negative = target if request.kind in _KINDS_DRAWN_AGAINST_TARGET else ""
    if not settings.anchor_prompts:
        forms = open_sentences(method, request, settings.templates)
        held = sentences_that_fit(model, forms, target, anchor)
        return [PromptPair(form.replace("{}", anchor), (form.replace("{}", target),), negative) for form in held]
    around = {"style": _STYLE_FORMS, "harmful": _HARMFUL_FORMS, "explicit": _HARMFUL_FORMS}.get(request.kind)
    found = []
    for p in load_captions(settings.anchor_prompts):
        changed = (
            tuple(form.format(p=p, c=target) for form in around)
            if around
            else (replace_name(p, [anchor] if anchor else [], target),)
        )
        if all(fits_context(model, text) for text in (p, *changed)):
            found.append(PromptPair(p, changed, negative))
    require(
        bool(found),
        f"{method}: no caption of {settings.anchor_prompts!r} is within the encoder's {model.tokenizer.length}"
        " tokens: give shorter ones",
    )
    return found


@dataclass
class AnchorImages:
    """The anchors' images with their prompts; whole ones are encoded to latents at once."""

    model: ModelView
    pairs: Sequence[PromptPair]  # one for each image
    pictures: Tensor
    settings: AnchorImageSettings
    needs_whole: bool
    """Whether whole images are asked for, beside or in place of those at random sizes."""
    latents: Tensor = field(init=False)  # (2, n, c, h, w): as they are, and mirrored

    def __post_init__(self) -> None:
        sides = [self.pictures, self.pictures.flip(-1)] if self.settings.mirror else [self.pictures]
        self.latents = (
            torch.stack([images_to_latents(self.model, side) for side in sides]) if self.needs_whole else torch.empty(0)
        )

    @classmethod
    def drawn(
        cls,
        model: ModelView,
        pairs: Sequence[PromptPair],
        settings: AnchorImageSettings,
        count: int,
        needs_whole: bool,
    ) -> "AnchorImages":
        """Generate `count` images with the unedited model, with the prompts in turn.

        Raises `DataError` if all show nothing.
        """
        shown = take_in_turn([pairs], count)
        pictures = generate_images(
            model,
            [pair.anchor for pair in shown],
            picture_seeds(settings.seed, len(shown)),
            settings.picture_steps,
            settings.picture_guidance,
            negatives=[pair.negative for pair in shown],
        )
        refuse_blank_pictures(pictures, [pair.anchor for pair in shown])
        return cls(model, shown, pictures, settings, needs_whole)

    @property
    def hash(self) -> str:
        """Hash of the images."""
        return hash_tensors({"pictures": self.pictures})

    def chosen(self, rows: int, rng: torch.Generator) -> list[int]:
        """Draw a batch of images."""
        return torch.randint(len(self.pairs), (rows,), generator=rng).tolist()

    def batch(self, rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor, list[str], list[str]]:
        """Draw a batch: latents (b, c, h, w), masks (b, 1, h, w), prompts of the anchor and of the target."""
        which = self.chosen(rows, rng)
        forms = [self.pairs[i].targets for i in which]
        targets = [own[int(torch.randint(len(own), (), generator=rng))] for own in forms]
        if not self.settings.augment:
            z, anchors = self.whole(which, rng)
            return z, torch.ones_like(z[:, :1]), anchors, targets
        cells = self.model.latent_shape[-1]
        shown = [place_image(self.pictures[i], cells, rng, self.settings.mirror) for i in which]
        z = images_to_latents(self.model, torch.stack([each.picture for each in shown]))
        masks = torch.stack([each.mask for each in shown]).to(z)
        sized = [self._prefixed(each.prefix, text) for each, text in zip(shown, targets, strict=True)]
        return z, masks, [self.pairs[i].anchor for i in which], sized

    def whole(self, which: Sequence[int], rng: torch.Generator) -> tuple[Tensor, list[str]]:
        """Return whole images as latents (b, c, h, w), half of them mirrored, and their prompts."""
        sides = torch.randint(2, (len(which),), generator=rng) if self.settings.mirror else 0
        return self.latents[sides, which], [self.pairs[i].anchor for i in which]

    def _prefixed(self, prefix: str, text: str) -> str:
        """Return the prompt with the image's size before it, if the encoder holds both."""
        return prefix + text if fits_context(self.model, prefix + text) else text
