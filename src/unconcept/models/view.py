"""The narrow waist: what every method, attack and evaluation may ask of a model, whatever its family."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from .schedule import Schedule
from .tokens import ClipTokenizer, Position

Family = Literal["sd1", "sd2", "sdxl"]


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is conditioned on. Rows are prompts."""

    states: Tensor  # (b, l, d): what cross-attention reads
    pooled: Tensor | None = None  # (b, p): SDXL, SD3, FLUX
    time_ids: Tensor | None = None  # (b, 6): SDXL's sizes and crop


@dataclass(frozen=True)
class SoftPrompts:
    """Prompts as token ids in which some tokens are read as vectors of the caller's: `rows[e]` (b, k, d_e) for encoder e.

    Ids are padded (b, l) for the first encoder; `at` (b, k) says where the rows stand.
    """

    ids: Tensor
    at: Tensor
    rows: tuple[Tensor, ...]


class ModelView(Protocol):
    """Seven verbs. A closed-form method uses the first two, which read files and build no network."""

    family: Family
    name: str  # what the user called it
    device: torch.device
    dtype: torch.dtype  # what it computes in
    saved: dict[str, Tensor]  # weights before the edits now applied

    @property
    def tokenizer(self) -> ClipTokenizer:
        """Token ids and positions; SDXL's two tokenizers cut texts alike."""

    @property
    def schedule(self) -> Schedule:
        """Noise levels by training timestep, and what the denoiser predicts."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents."""

    def embed(self, texts: Sequence[str], at: Position = "last_subject") -> Tensor:
        """Text states at a named position (n, d), or at every padded position (n, l, d) for "all"."""

    def text_maps(self) -> Mapping[str, Tensor]:
        """Weights (o, d) of the linear maps whose input is the text state, as the model now computes with them."""

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """What the denoiser is given for prompts, through the live encoders and their hooks; differentiable in soft rows."""

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The denoiser's raw prediction (b, c, h, w), conditional only, differentiable in all it reads."""

    def sample(self, prompts: Sequence[str] | Conditioning, noise: Tensor, steps: int, guidance_scale: float, sampler: str | None = None) -> Tensor:
        """Pictures (b, 3, h, w) in [0, 1] from initial noise (b, c, h, w) of unit variance, by the model's own sampler or a named one."""

    def modules(self, part: str) -> nn.Module:
        """The live network of one part ("denoiser", or a name of the diffusers folder): parameters to train, places to hang hooks and adapters on."""

    def reference(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Parameters by full name (`unet.`...) as they were before any edit, in the checkpoint's own dtype."""
