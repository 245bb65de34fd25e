"""Mass Concept Erasure (MACE): Lu et al., CVPR 2024, arXiv:2403.06135. Its first stage, closed-form refinement.

The words around a concept stop carrying it: they are read as they are beside another word. The concept's own words stay
free: low-rank edits take those out, which `edits.combine.fuse`, the paper's third stage, lays over this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..core.errors import require
from ..core.request import Request
from ..core.sentences import check_sentences, sentences
from ..edits import TextMapEdit
from ..linalg.moments import Moments, Shifts
from ..linalg.ridge import ridge_map
from ..models import ModelView
from ..models.alignment import shared_positions
from ..models.rows import fits, fitting, moments_of
from ..prompts.captions import captions
from .registry import method


@method(
    "mace",
    paper="arXiv:2403.06135",
    families=("sd1", "sd2", "sdxl"),
    elsewhere="no cross-attention reads the text there, and the paper defines its refinement for those maps alone",
)
@dataclass(frozen=True)
class MACE:
    """Closed-form refinement of the words around a concept. Scales of the authors' configs for 10 persons, `lamb` of the one for birds."""

    lamb: float = 10.0  # lambda, pull towards the old weights
    train_preserve_scale: float = 1e-4  # beta, weight of both prior sets
    preserve_weight: float = 8e4  # of the retained texts, the domain prior, beside the captions, the general one
    prior: str = ""  # captions: a packaged set or a file; "" is none
    prior_size: int = 616_000  # captions that `prior` stands for: its sums are scaled to COCO's number; 0 takes them as they are
    templates: tuple[str, ...] = ()  # sentences around the concept, {} in its place; () takes thirty of its kind

    def __post_init__(self) -> None:
        for name in ("lamb", "train_preserve_scale", "preserve_weight", "prior_size"):
            require(getattr(self, name) >= 0, f"mace: {name} must be >= 0, got {getattr(self, name)}")
        check_sentences("mace", self.templates)

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request) -> TextMapEdit:
        """W' = (sum W e_g e_f^T + beta W M + lam W) (sum e_f e_f^T + beta M + lam I)^-1 as W (I + T).

        Rows e_f, e_g (n, d) of the words that a sentence with the target and the same with the anchor share; M (d, d) of
        captions and retained texts. Differs: the authors' script multiplies M by beta twice, so their 1e-4 acts as 1e-8.
        """
        forms = sentences(request.kind, self.templates)
        pairs = zip(request.targets, request.anchors, strict=True)
        first, *others = (self.shifts(model, forms, target, anchor) for target, anchor in pairs)
        found = sum(others, first)
        t = ridge_map(found, self.preserved(model, request.retain), self.lamb)
        wide = torch.promote_types(model.dtype, torch.float32)
        return TextMapEdit(torch.eye(len(t), dtype=wide, device=t.device), t.to(wide), tuple(model.text_maps()))

    def shifts(self, model: ModelView, forms: Sequence[str], target: str, anchor: str) -> Shifts:
        """Of the words that every pair of sentences shares, pads included; sentences the encoder cannot hold are left out."""
        held = fitting(model, forms, target, anchor)
        old, new = ([form.replace("{}", word) for form in held] for word in (target, anchor))
        states = model.embed([*old, *new], at="all")
        rows_old, rows_new = [], []
        for i, (one, two) in enumerate(zip(model.tokenizer(old).ids, model.tokenizer(new).ids, strict=True)):
            at_old, at_new = shared_positions(one, two, states.shape[1])
            rows_old.append(states[i, at_old])
            rows_new.append(states[len(held) + i, at_new])
        return Shifts.of(torch.cat(rows_old), torch.cat(rows_new))

    def preserved(self, model: ModelView, retain: Sequence[str]) -> Moments:
        """beta M (d, d): the captions' moments at the size they stand for, and the retained texts' moments."""
        texts = [text for text in captions(self.prior) if fits(model, text)]  # Differs: the authors cut longer captions.
        scale = self.prior_size / len(texts) if self.prior_size and texts else 1.0
        general = moments_of(model, texts).weighted(scale)
        return (general + moments_of(model, retain).weighted(self.preserve_weight)).weighted(self.train_preserve_scale)
