"""TRCE: Chen et al., ICCV 2025, arXiv:2503.07389. Its first stage, textual semantic erasing in closed form.

The first end token summarises the whole prompt. Mapping it to that of a harmless prompt therefore also covers wordings
that never name the concept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import require
from ..core.request import Request
from ..edits import TextMapEdit
from ..linalg.conditions import condition_figure
from ..linalg.ridge import ridge_directions
from ..models import ModelView
from ..models.text.state_rows import fits_context, sentences_that_fit, text_state_moments
from ..prompts.captions import load_captions
from ..prompts.templates import check_sentences, open_sentences
from .registry import NO_SERVICES, MethodServices, method

_PAIR_BATCH = 64  # pairs of prompts in memory at once


@method(
    "trce",
    paper="arXiv:2503.07389",
    families=("sd1", "sd2", "sdxl"),
    mechanism="closed-form",
    unsupported_reason="it relies on the end token of causal CLIPs; in joint attention T5's rows carry the text",
)
@dataclass(frozen=True)
class TRCE:
    """Maps end tokens to those of harmless prompts; first stage only.

    Defaults from the authors' config for sexual content.
    """

    preserve_scale: float = 0.01
    """Its square is the weight of the prior, a mean over captions, because the authors' script applies it twice."""
    token_weight_scale: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 0.0)
    """Weights of four tokens: start, first end, last end, first word of the concept."""
    augment_num: int = 15
    """Sentences for each target."""
    lamb: float = 1e-4
    """Pull towards the old weights; 0 in the authors' script, which always has COCO's captions."""
    prior: str = ""
    """Captions: a packaged set or a file; "" is none."""
    templates: tuple[str, ...] = ()
    """Sentences with {} in the concept's place; () takes those of its kind."""
    compat: Literal["", "authors"] = ""
    """"authors": assume the first end token at the number of words + 1."""

    def __post_init__(self) -> None:
        require(self.preserve_scale >= 0, f"trce: preserve_scale must be >= 0, got {self.preserve_scale}")
        require(self.lamb >= 0, f"trce: lamb must be >= 0, got {self.lamb}")
        require(self.augment_num >= 1, f"trce: augment_num must be >= 1, got {self.augment_num}")
        weights = self.token_weight_scale
        require(
            min(weights) >= 0 < max(weights),
            f"trce: token_weight_scale needs four weights >= 0, one of them > 0, got {weights}",
        )
        check_sentences("trce", self.templates)

    @torch.no_grad()
    def erase(self, model: ModelView, request: Request, services: MethodServices = NO_SERVICES) -> TextMapEdit:
        """Solve W' = (sum_i w_i W e_s e_m^T / N + p W M) (sum_i w_i e_m e_m^T / N + p M + lam I)^-1 as W (I + X^T Y).

        N pairs of prompts have up to four rows each: e_m of the target's, e_s of the anchor's (n, d). M (d, d) is the
        mean over captions, p = preserve_scale^2. Differs: retained texts count among the captions; the authors have
        none. SDXL's pooled text still names the concept.
        """
        pairs = list(zip(request.targets, request.anchors, strict=True))
        forms = open_sentences("trce", request, self.templates)
        held = [(form, *pair) for pair in pairs for form in sentences_that_fit(model, forms, *pair)[: self.augment_num]]
        rows = [self._rows(model, held[start : start + _PAIR_BATCH]) for start in range(0, len(held), _PAIR_BATCH)]
        c, move, root = (torch.cat(parts) for parts in zip(*rows, strict=True))
        kept = [*(text for text in load_captions(self.prior) if fits_context(model, text)), *request.retain]
        prior = text_state_moments(model, kept).weighted(self.preserve_scale**2 / max(1, len(kept)))
        found = ridge_directions(root * c, prior, 1 / len(held), 1.0, self.lamb)
        wide = torch.promote_types(model.dtype, torch.float32)
        figures = condition_figure(found.condition)
        return TextMapEdit.thin((root * move).to(wide), found.y.to(wide), tuple(model.text_maps()), figures)

    def _rows(self, model: ModelView, held: Sequence[tuple[str, str, str]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows e_m and e_s - e_m (n, d) of (sentence, target, anchor), and the roots of their weights (n, 1).

        Rows of weight 0 are left out.
        """
        old = [form.replace("{}", target) for form, target, _ in held]
        new = [form.replace("{}", anchor) for form, _, anchor in held]
        states = model.embed([*old, *new], at="all").double()
        last = states.shape[1] - 1
        ends_old, ends_new = self._ends(model, old), self._ends(model, new)
        # The text before the concept has as many tokens by itself; its end token is at the concept's position.
        first_words = model.tokenizer([form.partition("{}")[0] for form, *_ in held]).index("first_eot")
        c, a, weights = [], [], []
        for i, (one, two, word) in enumerate(zip(ends_old, ends_new, first_words, strict=True)):
            # The last end token counts for every pad; the concept's word maps to the last state of the anchor's prompt.
            places = ((0, 0, 1), (one, two, 1), (last, last, last - one), (word, last, 1))
            for scale, (at_old, at_new, base) in zip(self.token_weight_scale, places, strict=True):
                if scale * base > 0:
                    c.append(states[i, at_old])
                    a.append(states[len(held) + i, at_new])
                    weights.append(scale * base)
        rows, wanted = torch.stack(c), torch.stack(a)
        # A row of weight w is a row sqrt(w) times as long on both sides.
        return rows, wanted - rows, torch.tensor(weights, dtype=rows.dtype, device=rows.device).sqrt()[:, None]

    def _ends(self, model: ModelView, texts: Sequence[str]) -> list[int]:
        """Return the position of each text's first end token, or the one that the authors' script assumes."""
        if self.compat == "authors":
            return [len(text.split()) + 1 for text in texts]
        return model.tokenizer(texts).index("first_eot")
