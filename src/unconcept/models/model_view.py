"""`ModelView`, the one interface through which methods, attacks and evaluations use a model of any family."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .diffusion.noise_schedule import NoiseSchedule
from .family import Family, FamilySpec
from .text.tokenizer import TextPosition, TextTokenizer

if TYPE_CHECKING:
    from .checkpoint.checkpoint import Checkpoint
    from .diffusion.few_step import FewStepRecord
TextInput = Literal["states", "pooled"]  # a map's input: the states of a text, or its pooled embedding


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of a denoiser. Rows are prompts."""

    states: Tensor  # (b, l, d): the input of cross-attention
    pooled: Tensor | None = None  # (b, p): SDXL, SD3, FLUX
    time_ids: Tensor | None = None  # (b, 6): SDXL's sizes and crop
    mask: Tensor | None = None  # (b, l): 1 at states that attention reads, 0 at padding; None: it reads all
    guidance: Tensor | None = None  # (b,): the scale that a guidance-distilled denoiser reads; None: its default

    def rows(self, which: Tensor | slice) -> "Conditioning":
        """The conditioning of the selected prompts, in that order."""
        states, *others = (None if part is None else part[which] for part in self._parts)
        assert states is not None
        return Conditioning(states, *others)

    @classmethod
    def concatenate(cls, given: Sequence["Conditioning"]) -> "Conditioning":
        """Concatenate conditionings along the prompts."""
        columns = zip(*[each._parts for each in given], strict=True)
        states, *others = (None if parts[0] is None else torch.cat(parts) for parts in columns)
        assert states is not None
        return cls(states, *others)

    @property
    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.states, self.pooled, self.time_ids, self.mask, self.guidance


@dataclass(frozen=True)
class PromptGuidance:
    """How the predictions for b pictures are guided: the prompts, and what classifier-free guidance leads away from."""

    texts: Conditioning  # 2b rows, the negatives and then the prompts; b rows without negatives
    scale: float | None = None  # of classifier-free guidance; None: a single prediction, which may be guided within
    square: int = 0  # as its family's `guided_square`

    @property
    def prompts(self) -> Conditioning:
        """The rows of the prompts."""
        return self.texts if self.scale is None else self.texts.rows(slice(len(self.texts.states) // 2, None))

    def predict(self, model: "ModelView", latents: Tensor, t: Tensor) -> Tensor:
        """The guided prediction (b, c, h, w) at a timestep (), from one call of the denoiser."""
        return self.combine(*self.predict_sides(model, latents, t))

    def predict_sides(self, model: "ModelView", latents: Tensor, t: Tensor) -> tuple[Tensor | None, Tensor]:
        """The predictions (b, c, h, w) for the negatives, None without any, and for the prompts."""
        if self.scale is None:
            return None, model.denoise(latents, t, self.texts)
        empty, said = model.denoise(torch.cat([latents] * 2), t, self.texts).chunk(2)
        return empty, said

    def combine(self, empty: Tensor | None, said: Tensor) -> Tensor:
        """The guided prediction from those of both sides."""
        if empty is None or self.scale is None:
            return said
        guided = empty + self.scale * (said - empty)
        if not self.square:
            return guided
        ratio = _square_norms(said, self.square) / _square_norms(guided, self.square)
        return guided * ratio.repeat_interleave(self.square, 2).repeat_interleave(self.square, 3)


def _square_norms(x: Tensor, side: int) -> Tensor:
    """The length of each square (b, 1, h / side, w / side) of x (b, c, h, w), over its cells and channels."""
    lengths: Tensor = torch.linalg.vector_norm(F.pixel_unshuffle(x, side), dim=1, keepdim=True)
    return lengths


@dataclass(frozen=True)
class SamplingStart:
    """Latents from which a sampler goes on, in place of noise: of a picture, or those that a loop reached."""

    latents: Tensor  # (b, c, h, w) at k
    k: int = 0  # network calls done
    residuals: Tensor | None = None  # (N, b, c, h, w): added after each step in place of DDPM's noise, by DDIM


@dataclass(frozen=True)
class SoftPrompts:
    """Prompts as token ids, some of which the caller replaces by embedding vectors.

    `ids` (b, l) are padded for the first encoder. At positions `at` (b, k), encoder e reads `rows[e]` (b, k, d_e).
    Encoders of one kind share ids and positions: CLIP's are here, those of a T5 beside it in `t5`.
    """

    ids: Tensor
    at: Tensor
    rows: tuple[Tensor, ...]
    t5: "SoftPrompts | None" = None


class ModelView(Protocol):
    """A model of any family, with nine methods.

    Closed-form methods only need `embed` and `text_maps`, which read files and build no network.
    """

    name: str  # as the user gave it
    spec: FamilySpec
    device: torch.device
    dtype: torch.dtype  # the dtype it computes in
    original_weights: dict[str, Tensor]  # weights from before the edits that are applied now
    checkpoint: "Checkpoint"  # the files or the pipeline, with their parts and parameters
    few_step: "FewStepRecord | None"  # what a model of few steps allows; None for one of many
    fixed: str  # why no edit of weights can change it; "" if one can

    @property
    def family(self) -> Family:
        """The name of its family."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer for positions in `embed` at "all". SDXL's two tokenize texts alike; for SD3 it is CLIP's."""

    @property
    def tokenizers(self) -> tuple[TextTokenizer, ...]:
        """The tokenizers of all encoders that `condition` uses; a text must fit into each of them."""

    @property
    def streams(self) -> int:
        """Number of rows of a text at a named position: 1, or 2 in SD3, whose text maps read CLIP's and T5's states."""

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise levels by training timestep, and the denoiser's prediction type."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the encoders' parts of a text state, which sum to d."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents."""

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        """Encode texts: states at a named position (n * streams, d), or at every padded position (n, l, d) for "all".

        The rows of one text follow each other. "pooled" gives the pooled embedding of each text (n, p); `ModelError`
        for families without one, such as SD 1.x and 2.x.
        """

    def text_maps(self, reads: TextInput = "states") -> Mapping[str, Tensor]:
        """Current weights (o, d) of the linear maps whose input is the text.

        "pooled" gives the maps (o, p) whose input is only the pooled text: one in SD3 and FLUX, none in SDXL, where the
        map also reads sizes.
        """

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """Encode prompts for the denoiser with the live encoders and their hooks; differentiable in soft rows.

        `ModelError` for soft prompts that lack the rows of an encoder.
        """

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The denoiser's raw conditional prediction (b, c, h, w) at a timestep of `schedule`.

        Differentiable in all its inputs.
        """

    def guide(self, prompts: Sequence[str] | Conditioning, scale: float) -> PromptGuidance:
        """Guidance of this scale as in the stock pipeline: away from its unconditional side, as an input, or none.

        Scales up to 1 guide nothing away. `SettingsError` if the model's record says that it takes no guidance.
        """

    def set_timesteps(self, scheduler: Any, steps: int, shape: tuple[int, int, int]) -> None:
        """Set a diffusers scheduler's timesteps as in the stock pipeline, for latents of shape (c, h, w)."""

    def sample(
        self,
        prompts: Sequence[str] | Conditioning,
        start: Tensor | SamplingStart,
        steps: int,
        guidance_scale: float,
        sampler: str | None = None,
    ) -> Tensor:
        """Draw pictures (b, 3, h, w) in [0, 1] from initial noise (b, c, h, w) of unit variance, or a later start.

        `sampler` names a sampler; None uses the model's own.
        """

    def modules(self, part: str) -> nn.Module:
        """The live network of a part ("denoiser", or a name in the diffusers folder), for training, hooks, adapters."""

    def reference(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Parameters by full name (`unet.`, `transformer.`...) from before any edit, in the checkpoint's own dtype."""
