"""Stable Diffusion 3 and FLUX.1: a diffusers folder or a pipeline in memory, seen as a `ModelView`.

Both read text as rows of one `context_embedder`. SD3's rows are those of its two CLIPs side by side, padded with zeros
to T5's width, then T5's; FLUX's are T5's. A text pooled by CLIP goes another way, beside the timestep.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import ModelError, SettingsError, require
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.config import TRANSFORMER_PIPELINES, config_folder, pipeline_kind
from ..checkpoint.pipeline import Pipeline
from ..checkpoint.validation import require_complete
from ..diffusion.noise_schedule import NoiseSchedule
from ..family import Family
from ..model_view import Conditioning, SoftPrompts, TextInput
from ..text.clip_encoder import ClipTextEncoder, strip_text_model_prefix
from ..text.t5_encoder import T5Encoder
from ..text.tokenizer import ClipTokenizer, TextPosition, TokenPosition

_TEXT_MAPS: dict[TextInput, str] = {
    "states": "context_embedder.weight",
    "pooled": "time_text_embed.text_embedder.linear_1.weight",
}
_T5_PART: dict[Family, str] = {"sd3": "3", "flux": "2"}  # number of T5's encoder and tokenizer
T5_LENGTH: dict[Family, int] = {"sd3": 256, "flux": 512}  # what the stock pipelines pad to unless told otherwise
_DISTILLED_GUIDANCE = 3.5  # FluxPipeline's default: at which a guidance-distilled FLUX is asked for one prediction


@dataclass
class MMDiTView:
    """Built by `from_files` or `from_pipeline`."""

    name: str
    family: Family
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    original_weights: dict[str, Tensor] = field(default_factory=dict)  # weights before the edits now applied

    @classmethod
    def from_files(cls, source: Path, name: str, device: torch.device, dtype: torch.dtype) -> "MMDiTView":
        """A diffusers folder, or a single file in the original layout; `ModelError` unless it holds one of this view's
        families.
        """
        kind = pipeline_kind(config_folder(source), TRANSFORMER_PIPELINES)
        checkpoint = Checkpoint("transformer", device, dtype, source)
        require_complete(checkpoint, TRANSFORMER_PIPELINES[kind], name)
        return cls(name, TRANSFORMER_PIPELINES[kind], checkpoint, device, dtype)

    @classmethod
    def from_pipeline(cls, pipeline: Pipeline, name: str = "pipeline") -> "MMDiTView":
        """A loaded pipeline; it is used as it is, not copied."""
        device, dtype, family = (
            pipeline.device,
            pipeline.transformer.dtype,
            TRANSFORMER_PIPELINES[type(pipeline).__name__],
        )
        checkpoint = Checkpoint("transformer", device, dtype, pipeline=pipeline)
        require_complete(checkpoint, family, name)
        return cls(name, family, checkpoint, device, dtype)

    @property
    def pipeline(self) -> Pipeline | None:
        """None until something had to be drawn or trained."""
        return self.checkpoint.pipeline

    def embed(self, texts: Sequence[str], at: TextPosition = "last_subject") -> Tensor:
        """SD3 gives two rows a text (2n, d), CLIP's and then T5's; FLUX T5's (n, d).

        "all" is what `context_embedder` reads.

        SD3's pooled text is that of both its CLIPs (n, 2048) = 768 | 1280, FLUX's that of its one (n, 768).
        """
        if not texts:
            width = self.checkpoint.config("transformer")["pooled_projection_dim"] if at == "pooled" else self.width
            return torch.empty(0, width, dtype=self.dtype, device=self.device)
        if at == "pooled":
            return torch.cat([self._clip(number).pooled(texts) for number in self._clip_numbers], -1)
        if self.family == "flux":
            return self._t5().embed(texts, at)
        clip = torch.cat([self._clip(number).embed(texts, at) for number in self._clip_numbers], -1)
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))
        t5 = self._t5().embed(texts, at) if self._has_t5 else self._no_t5(clip, at)
        return torch.cat([clip, t5], 1) if at == "all" else torch.stack([clip, t5], 1).flatten(0, 1)

    def text_maps(self, reads: TextInput = "states") -> Mapping[str, Tensor]:
        """One for each way of the text into the transformer; a map's bias is not part of it."""
        name = _TEXT_MAPS[reads]
        if self.pipeline is not None:
            return {f"transformer.{name}": self.pipeline.transformer.get_parameter(name)}
        return self.reference([f"transformer.{name}"])

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """Through the live encoders, padded and unmasked as the stock pipelines do."""
        if isinstance(prompts, SoftPrompts):
            raise ModelError(
                f"{self.family} cuts a text differently for CLIP and for T5, so prompts of given token ids are not"
                " defined for it"
            )
        found = [
            self._read(prompts, number, output_hidden_states=self.family == "sd3") for number in self._clip_numbers
        ]
        if self.family == "flux":
            return Conditioning(self._read(prompts, _T5_PART["flux"])[0], found[0].pooler_output)
        clip = torch.cat([out.hidden_states[-2] for out in found], -1)
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))
        t5 = self._read(prompts, _T5_PART["sd3"])[0] if self._has_t5 else self._no_t5(clip, "all")
        return Conditioning(torch.cat([clip, t5], 1), torch.cat([out.text_embeds for out in found], -1))

    def _read(self, prompts: Sequence[str], number: str, **more: bool) -> Any:
        tokenizer = self._tokenizer(number)
        return self.modules(_numbered("text_encoder", number))(
            torch.tensor(tokenizer(prompts).padded(), device=self.device), **more
        )

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """The flow noise - x0. A guidance-distilled FLUX is asked at its usual guidance."""
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        net, t = self.checkpoint.built_pipeline.transformer, timestep.to(latents.device).expand(len(latents))
        text = {"encoder_hidden_states": given.states, "pooled_projections": given.pooled}
        if self.family == "sd3":
            prediction: Tensor = net(hidden_states=latents, timestep=t, **text).sample
            return prediction
        h, w = (side // 2 for side in latents.shape[-2:])
        at = torch.cartesian_prod(*(torch.arange(n, dtype=latents.dtype, device=latents.device) for n in (1, h, w)))
        guidance = (
            torch.full((len(latents),), _DISTILLED_GUIDANCE, device=latents.device)
            if net.config.guidance_embeds
            else None
        )
        ids = {"img_ids": at, "txt_ids": at.new_zeros(given.states.shape[1], 3)}
        packed = net(
            hidden_states=pack_latents(latents), timestep=t.to(latents.dtype) / 1000, guidance=guidance, **text, **ids
        ).sample
        return unpack_latents(packed, h, w)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str] | Conditioning,
        noise: Tensor,
        steps: int,
        guidance_scale: float,
        sampler: str | None = None,
    ) -> Tensor:
        """Guided away from the empty text when the scale is above 1; a guidance-distilled FLUX is given the scale
        instead.
        """
        require(
            sampler is None,
            f"sampler {sampler!r} is not defined for {self.family} models, which are drawn by their own",
            SettingsError,
        )
        pipeline = self.checkpoint.built_pipeline
        distilled = self.family == "flux" and pipeline.transformer.config.guidance_embeds
        text = self._given(prompts, "") | (
            self._given([""] * len(noise), "negative_") if guidance_scale > 1 and not distilled else {}
        )
        size = {
            name: side * pipeline.vae_scale_factor
            for name, side in zip(("height", "width"), noise.shape[-2:], strict=True)
        }
        guidance = (
            {"guidance_scale": guidance_scale}
            if self.family == "sd3" or distilled
            else {"true_cfg_scale": guidance_scale}
        )
        latents = noise.to(self.device, self.dtype)
        latents = latents if self.family == "sd3" else pack_latents(latents)
        length = T5_LENGTH[self.family]
        result = pipeline(
            **text,
            **size,
            **guidance,
            latents=latents,
            num_inference_steps=steps,
            max_sequence_length=length,
            output_type="pt",
        )
        images: Tensor = result.images.float().cpu()
        return images

    def _given(self, prompts: Sequence[str] | Conditioning, side: str) -> dict[str, Tensor | None]:
        """A text as the pipeline's arguments: finished, so that a prompt too long is refused and not cut."""
        given = prompts if isinstance(prompts, Conditioning) else self.condition(prompts)
        return {f"{side}prompt_embeds": given.states, f"{side}pooled_prompt_embeds": given.pooled}

    def modules(self, part: str) -> nn.Module:
        """A component of the pipeline by name; "denoiser" is the transformer."""
        module: nn.Module = getattr(self.checkpoint.built_pipeline, "transformer" if part == "denoiser" else part)
        return module

    def reference(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Parameters by full name (`transformer.`...) as they were before any edit; read from the files where there are
        files.
        """
        return self.checkpoint.reference(names, self.original_weights, self.name)

    @property
    def streams(self) -> int:
        return 2 if self.family == "sd3" else 1

    @property
    def tokenizer(self) -> ClipTokenizer:
        """Of the first of the rows that `embed` gives at "all": CLIP's for SD3, T5's for FLUX."""
        return self._tokenizer("" if self.family == "sd3" else _T5_PART[self.family])

    @property
    def tokenizers(self) -> tuple[ClipTokenizer, ...]:
        return tuple(
            self._tokenizer(number)
            for number in (*self._clip_numbers, *((_T5_PART[self.family],) if self._has_t5 else ()))
        )

    @property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule.of(self.checkpoint.built_pipeline.scheduler)

    @property
    def width(self) -> int:
        """d, the width of a text state."""
        return int(self.checkpoint.config("transformer")["joint_attention_dim"])

    @property
    def widths(self) -> tuple[int, ...]:
        """One: the rows of different encoders stand one below the other, in one space."""
        return (self.width,)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents, before FLUX packs them two by two.

        FLUX's transformer has no size of its own; its autoencoder's is 1024 pixels in the published models, as the
        pipeline's default.
        """
        config = self.checkpoint.config("transformer")
        if self.family == "sd3":
            return config["in_channels"], config["sample_size"], config["sample_size"]
        vae = self.checkpoint.config("vae")
        side = vae["sample_size"] // 2 ** (len(vae["block_out_channels"]) - 1)
        return config["in_channels"] // 4, side, side

    @property
    def _clip_numbers(self) -> tuple[str, ...]:
        return ("", "2") if self.family == "sd3" else ("",)

    @property
    def _has_t5(self) -> bool:
        return self.checkpoint.has(_numbered("text_encoder", _T5_PART[self.family]))

    def _no_t5(self, like: Tensor, at: TokenPosition) -> Tensor:
        """SD3 without its T5 reads zeros in its place."""
        shape = (len(like), T5_LENGTH[self.family], self.width) if at == "all" else (len(like), self.width)
        return like.new_zeros(shape)

    def _clip(self, number: str) -> ClipTextEncoder:
        part = _numbered("text_encoder", number)
        weights, config = strip_text_model_prefix(self.checkpoint.weights(part)), self.checkpoint.config(part)
        return ClipTextEncoder(
            self._tokenizer(number), weights, config, self.family == "sd3", self.checkpoint.states(part)
        )

    def _t5(self) -> T5Encoder:
        part = _numbered("text_encoder", _T5_PART[self.family])
        tokenizer = self._tokenizer(_T5_PART[self.family])
        return T5Encoder(
            tokenizer, self.checkpoint.lazy_tensors(part), self.checkpoint.config(part), self.checkpoint.states(part)
        )

    def _tokenizer(self, number: str) -> ClipTokenizer:
        return self.checkpoint.tokenizer(
            _numbered("tokenizer", number), T5_LENGTH[self.family] if number == _T5_PART[self.family] else None
        )


def _numbered(part: str, number: str) -> str:
    """A part's name in a pipeline: the first has no number."""
    return f"{part}_{number}" if number else part


def pack_latents(latents: Tensor) -> Tensor:
    """(b, c, h, w) to FLUX's rows (b, h/2 * w/2, 4c), one a square of four."""
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack_latents(rows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack_latents`, for `height` x `width` squares."""
    return F.pixel_shuffle(rows.transpose(1, 2).unflatten(2, (height, width)), 2)
