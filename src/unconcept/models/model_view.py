"""The narrow waist: what every method, attack and evaluation may ask of a model, whatever its family."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn

from .diffusion.noise_schedule import NoiseSchedule
from .family import Family, FamilySpec
from .text.tokenizer import ClipTokenizer, TextPosition

if TYPE_CHECKING:
    from .checkpoint.checkpoint import Checkpoint
TextInput = Literal["states", "pooled"]  # what a map's input is: a text's states, or the text as a whole


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is conditioned on. Rows are prompts."""

    states: Tensor  # (b, l, d): what cross-attention reads
    pooled: Tensor | None = None  # (b, p): SDXL, SD3, FLUX
    time_ids: Tensor | None = None  # (b, 6): SDXL's sizes and crop
    mask: Tensor | None = None  # (b, l): 1 where a state is attended to, 0 at padding; None: all are

    def rows(self, which: Tensor | slice) -> "Conditioning":
        """Some of the prompts, in that order."""
        states, *others = (None if part is None else part[which] for part in self._parts)
        assert states is not None
        return Conditioning(states, *others)

    @classmethod
    def concatenate(cls, given: Sequence["Conditioning"]) -> "Conditioning":
        """The prompts of all, one below the other."""
        columns = zip(*[each._parts for each in given], strict=True)
        states, *others = (None if parts[0] is None else torch.cat(parts) for parts in columns)
        assert states is not None
        return cls(states, *others)

    @property
    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.states, self.pooled, self.time_ids, self.mask


@dataclass(frozen=True)
class SoftPrompts:
    """Prompts as token ids in which some tokens are read as vectors of the caller's: `rows[e]` (b, k, d_e) for encoder
    e.

    Ids are padded (b, l) for the first encoder; `at` (b, k) says where the rows stand.
    """

    ids: Tensor
    at: Tensor
    rows: tuple[Tensor, ...]


class ModelView(Protocol):
    """Seven verbs. A closed-form method uses the first two, which read files and build no network."""

    name: str  # what the user called it
    spec: FamilySpec
    device: torch.device
    dtype: torch.dtype  # what it computes in
    original_weights: dict[str, Tensor]  # weights before the edits now applied
    checkpoint: "Checkpoint"  # files or pipeline: what parts there are and how their parameters are named

    @property
    def family(self) -> Family:
        """The name of its family."""

    @property
    def tokenizer(self) -> ClipTokenizer:
        """Token ids and positions in what `embed` gives at "all"; SDXL's two tokenizers cut texts alike, SD3's is
        CLIP's.
        """

    @property
    def tokenizers(self) -> tuple[ClipTokenizer, ...]:
        """Of all encoders that `condition` asks: a text must be within each one's length."""

    @property
    def streams(self) -> int:
        """How many rows a text has at a named position: 1, or 2 in SD3, whose text maps read CLIP's and T5's states."""

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise levels by training timestep, and what the denoiser predicts."""

    @property
    def widths(self) -> tuple[int, ...]:
        """How wide each encoder's part of a text state is; side by side they are d."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents."""

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        """Text states at a named position (n * streams, d), a text's rows together, or at every padded position (n, l,
        d) for "all".

        "pooled" is what the denoiser is told of each text as a whole (n, p); `ModelError` where it is told nothing: SD
        1.x and 2.x.
        """

    def text_maps(self, reads: TextInput = "states") -> Mapping[str, Tensor]:
        """Weights (o, d) of the linear maps whose input is the text, as the model now computes with them.

        With "pooled" the maps (o, p) of the pooled text alone: one in SD3 and FLUX; SDXL's reads sizes besides and is
        none.
        """

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """What the denoiser is given for prompts, through the live encoders and their hooks; differentiable in soft
        rows.

        `ModelError` for soft prompts where the encoders cut texts differently: SD3 and FLUX.
        """

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The denoiser's raw prediction (b, c, h, w) at a timestep of `schedule`, conditional only, differentiable in
        all it reads.
        """

    def sample(
        self,
        prompts: Sequence[str] | Conditioning,
        noise: Tensor,
        steps: int,
        guidance_scale: float,
        sampler: str | None = None,
    ) -> Tensor:
        """Pictures (b, 3, h, w) in [0, 1] from initial noise (b, c, h, w) of unit variance, by the model's own sampler
        or a named one.
        """

    def modules(self, part: str) -> nn.Module:
        """The live network of one part ("denoiser", or a name of the diffusers folder): parameters to train, places to
        hang hooks and adapters on.
        """

    def reference(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Parameters by full name (`unet.`, `transformer.`...) as they were before any edit, in the checkpoint's own
        dtype.
        """
