"""What the library knows of a family of models, as one value: networks, text encoders, names in every tool."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .layouts.packing import Packing

Family = str  # a family's name; `families` has them all
Config = Mapping[str, Any]  # a part's config.json
NamedShapes = Iterator[tuple[str, tuple[int, ...]]]
EncoderNaming = Literal["clip", "open_clip", "t5"]  # whose names an encoder's tensors have in a single file


class DenoiserNames(Protocol):
    """What the tensors of a denoiser are called in the original layout, both ways."""

    def original(self, name: str) -> tuple[str, Packing] | None:
        """The original's tensor that holds a tensor of the diffusers folder, and where in it; None if there is none."""

    def in_folder(self, key: str) -> Iterator[tuple[str, Packing]]:
        """The folder's tensors that a tensor of the original holds; none for what `original` never gives."""


@dataclass(frozen=True)
class TextEncoderSpec:
    """One text encoder of a family."""

    part: str
    """Its folder, `text_encoder_2`; the tokenizer's is `tokenizer_2`."""
    kind: Literal["clip", "t5"]
    single_file: str = ""
    """What the names of its tensors begin with in a single file."""
    naming: EncoderNaming = "clip"
    """Whose names they have there."""
    kohya: str = ""
    """What kohya's trainer puts before its modules."""
    comfyui: str = ""
    """What ComfyUI calls it."""
    length: int | None = None
    """Tokens that the stock pipeline pads to; None: as many as its tokenizer's config says."""
    is_penultimate: bool = False
    """Its states are read before the last layer, without the final norm."""
    gives_states: bool = True
    """The denoiser reads its states."""
    gives_pooled: bool = False
    """The denoiser is told its text as a whole."""
    is_masked: bool = False
    """Neither it nor the denoiser attends to padding."""
    is_lowercased: bool = False
    """The stock pipeline strips a prompt and puts it into lower case."""
    is_optional: bool = False
    """The family is also published without it."""

    @property
    def tokenizer(self) -> str:
        """The folder of its tokenizer."""
        return self.part.replace("text_encoder", "tokenizer")


@dataclass(frozen=True)
class FamilySpec:
    """A family of models. Nothing else in the library compares families by name."""

    name: Family
    title: str
    """What people call it."""
    pipeline: str
    """Class of its pipeline in diffusers."""
    denoiser: Literal["unet", "transformer"]
    """Folder of the network that is edited."""
    view: str
    """Its view: module and class, below `views`."""
    encoders: tuple[TextEncoderSpec, ...]
    """In the order in which the denoiser reads them."""
    required_maps: Callable[[Config], NamedShapes]
    """Maps that the text goes through, with their shapes, by the denoiser's config."""
    map_pattern: re.Pattern[str]
    """The names of those maps."""
    attention: Literal["cross", "joint"]
    """How the picture reads the text: in attentions of its own, or in one with the picture."""
    is_member: Callable[[Config, Config], bool] = lambda denoiser, text_encoder: True
    """Tells families of one pipeline class apart by the configs of denoiser and first text encoder."""
    text_projection: str = ""
    """Module of the denoiser that text states go through before the maps that are edited."""
    cuts_prompts: bool = False
    """Its pipeline is given prompts and cuts them; others are given states, of prompts that fit."""
    latent_patch: int = 1
    """Cells a side of the latents that are one token before the denoiser sees them."""
    denoiser_names: Callable[[Config], DenoiserNames] | None = None
    """Original names of the denoiser's tensors by its config; None: only diffusers folders are read and written."""
    vae_prefix: str = ""
    """What the names of the VAE's tensors begin with in a single file."""
    has_diffusers_loras: bool = False
    """kohya's trainer names the denoiser's modules as diffusers does, not as the original."""
    kohya_base: str = ""
    """How the base's name begins in the header of kohya's files."""
    kohya_metadata: Mapping[str, str] = field(default_factory=dict)
    """What tells A1111 and Forge in a LoRA's header for which models they shall offer it."""

    @property
    def first_encoder(self) -> TextEncoderSpec:
        """The one whose states stand first."""
        return next(encoder for encoder in self.encoders if encoder.gives_states)

    @property
    def clip_encoders(self) -> tuple[str, ...]:
        """Parts of encoders that share one CLIP vocabulary; none where any other reads the text too."""
        return tuple(e.part for e in self.encoders) if all(e.kind == "clip" for e in self.encoders) else ()

    def encoder(self, part: str) -> TextEncoderSpec | None:
        """By its folder; None if the family has no such encoder."""
        return next((encoder for encoder in self.encoders if encoder.part == part), None)


def has_open_clip(unet: Config, text_encoder: Config) -> bool:
    """OpenCLIP's text tower, with its plain GELU, tells Stable Diffusion 2.x from 1.x."""
    return text_encoder.get("hidden_act") == "gelu" or unet["cross_attention_dim"] == 1024
