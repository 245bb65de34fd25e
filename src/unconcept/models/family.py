"""A family of models as one value: its networks, its text encoders, and their names in other tools."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .layouts.packing import Packing

Family = str  # a family's name; `families` has them all
Config = Mapping[str, Any]  # a part's config.json
NamedShapes = Iterator[tuple[str, tuple[int, ...]]]
EncoderKind = Literal["clip", "t5", "llm"]  # encoders of one kind share a vocabulary
EncoderNaming = Literal["clip", "open_clip", "t5", "llm"]  # naming of an encoder's tensors in a single file


class DenoiserNames(Protocol):
    """Translates names of a denoiser's tensors between a diffusers folder and the original layout."""

    def original(self, name: str) -> tuple[str, Packing] | None:
        """The original tensor that contains a folder's tensor, and the place in it; None if there is none."""

    def in_folder(self, key: str) -> Iterator[tuple[str, Packing]]:
        """The folder's tensors that an original tensor contains; none for a name that `original` never returns."""


@dataclass(frozen=True)
class TextTemplate:
    """What a stock pipeline writes around each prompt before its language model reads it."""

    text: str = ""
    """The pipeline's own template, with {} for the prompt; "" for the chat template of the model's tokenizer."""
    system: str = ""
    """System message that stands before the prompt in a chat template; "" for none."""
    options: Mapping[str, bool] = field(default_factory=dict)
    """Options with which the pipeline fills in a chat template."""
    removed: str = ""
    """What the pipeline removes from prompts first."""
    cut: int = 0
    """Number of tokens at the beginning whose states the pipeline drops."""


@dataclass(frozen=True)
class TextEncoderSpec:
    """One text encoder of a family."""

    part: str
    """Its folder, `text_encoder_2`; the tokenizer's is `tokenizer_2`."""
    kind: EncoderKind
    single_file: str = ""
    """Prefix of its tensors in a single file."""
    naming: EncoderNaming = "clip"
    """Naming of its tensors in a single file."""
    kohya: str = ""
    """Prefix of its modules in kohya's trainer."""
    comfyui: str = ""
    """Its name in ComfyUI."""
    length: int | None = None
    """Number of tokens to which the stock pipeline pads; None: as in its tokenizer's config."""
    is_penultimate: bool = False
    """Whether its states are those before the last layer, without the final norm."""
    gives_states: bool = True
    """Whether the denoiser reads its states."""
    gives_pooled: bool = False
    """Whether the denoiser reads its pooled text embedding."""
    is_unprojected: bool = False
    """Whether readers of single files leave out the projection of its pooled text."""
    is_masked: bool = False
    """Whether it ignores padding, and the denoiser too unless `passes_padding_on`."""
    passes_padding_on: bool = False
    """Whether the denoiser reads the states of padding that the encoder ignored."""
    is_lowercased: bool = False
    """Whether the stock pipeline strips prompts and converts them to lower case."""
    is_optional: bool = False
    """Whether the family is also published without it."""
    template: TextTemplate | None = None
    """What is written around prompts for a language model; None for encoders of plain prompts."""
    layers: tuple[int, ...] = ()
    """Numbers of a language model's hidden states that are joined to one text state; 0 are its embeddings."""

    @property
    def tokenizer(self) -> str:
        """The folder of its tokenizer."""
        return self.part.replace("text_encoder", "tokenizer")


@dataclass(frozen=True)
class FamilySpec:
    """A family of models. Nothing else in the library compares families by name."""

    name: Family
    title: str
    """Its full name."""
    pipeline: str
    """Class of its pipeline in diffusers."""
    denoiser: Literal["unet", "transformer"]
    """Folder of the network to edit."""
    view: str
    """Module and class of its view, in `views`."""
    encoders: tuple[TextEncoderSpec, ...]
    """Text encoders in the order in which the denoiser reads them."""
    required_maps: Callable[[Config], NamedShapes]
    """Names and shapes of the maps that process the text, by the denoiser's config."""
    map_pattern: re.Pattern[str]
    """Pattern of the names of those maps."""
    attention: Literal["cross", "joint"]
    """Whether the picture attends to the text in a cross-attention, or to text and picture jointly."""
    is_member: Callable[[Config, Config], bool] = lambda denoiser, text_encoder: True
    """Distinguishes families of one pipeline class, by the configs of denoiser and first text encoder."""
    pooled_map: str = ""
    """The denoiser's map that reads only the pooled text; none in SDXL, where the map also reads sizes."""
    states_map: str = ""
    """The denoiser's map that alone reads the states of a language model, after `text_projection`."""
    text_projection: str = ""
    """Module of the denoiser that text states pass before the edited maps."""
    cuts_prompts: bool = False
    """Whether its pipeline gets prompts and truncates them; others get states of prompts that fit."""
    text_mask_input: str = "encoder_attention_mask"
    """The denoiser's argument that masks text states, if it has one."""
    latent_patch: int = 1
    """Side, in latent cells, of the square that is packed into one token before the denoiser."""
    guided_square: int = 0
    """Side, in latent cells, of the squares whose guided prediction has the length of the prompt's own; 0: any."""
    denoiser_names: Callable[[Config], DenoiserNames] | None = None
    """Original names of the denoiser's tensors by its config; None: only diffusers folders are read and written."""
    holds_denoiser_alone: bool = False
    """Whether its published single file is the denoiser alone, without a prefix; other parts are in their own files."""
    vae_prefix: str = ""
    """Prefix of the VAE's tensors in a single file."""
    has_diffusers_loras: bool = False
    """Whether kohya's trainer uses diffusers' names for the denoiser's modules instead of the original ones."""
    shared_lora: Literal["", "transformer", "diffusion_model", "original"] = ""
    """Names of modules in LoRAs without alphas that ComfyUI and diffusers both load: those of the diffusers folder
    after one of two prefixes, or the original ones after "diffusion_model."; "" if there are none."""
    kohya_base: str = ""
    """Prefix of the base model's name in the header of kohya's files."""
    modelspec: str = ""
    """Prefix of its architecture in headers by the `modelspec` standard, with dashes for dots."""
    module_names: re.Pattern[str] | None = None
    """Pattern of names that only occur in files for its kind of denoiser; None: they are not known."""
    kohya_metadata: Mapping[str, str] = field(default_factory=dict)
    """Entries in a LoRA's header from which A1111 and Forge recognise the models it fits."""

    @property
    def text_entry(self) -> str:
        """What the names of the tensors contain through which text enters the denoiser."""
        usual = "context_embedder." if self.attention == "joint" else ".attn2.to_k."
        return self.states_map.removesuffix("weight") or usual

    @property
    def first_encoder(self) -> TextEncoderSpec:
        """The encoder whose states come first."""
        return next(encoder for encoder in self.encoders if encoder.gives_states)

    @property
    def clip_encoders(self) -> tuple[str, ...]:
        """Parts of the encoders that share one CLIP vocabulary; empty if the family also has another encoder."""
        return tuple(e.part for e in self.encoders) if all(e.kind == "clip" for e in self.encoders) else ()

    def encoder(self, part: str) -> TextEncoderSpec | None:
        """The encoder with this folder; None if the family has none."""
        return next((encoder for encoder in self.encoders if encoder.part == part), None)


def has_open_clip(unet: Config, text_encoder: Config) -> bool:
    """Whether the text tower is OpenCLIP's, with plain GELU: true for Stable Diffusion 2.x, false for 1.x."""
    return text_encoder.get("hidden_act") == "gelu" or unet["cross_attention_dim"] == 1024
