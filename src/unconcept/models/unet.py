"""Stable Diffusion 1.x, 2.x and SDXL: a diffusers folder or a pipeline in memory, seen as a `ModelView`.

A view of a folder reads single tensors until something must be drawn or trained; only then is the pipeline built.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ModelError, require
from .hooks import rows_at
from .samplers import sampler as named
from .schedule import Schedule
from .stream import read, weight_files
from .text import ClipText, without_prefix
from .tokens import ClipTokenizer, Position
from .view import Conditioning, Family, SoftPrompts

Pipeline = Any  # a diffusers pipeline: its classes carry no types for their components
TEXT_MAPS = re.compile(r"\.attn2\.to_[kv]\.weight$")
PIPELINES = {"StableDiffusionPipeline": ("text_encoder",), "StableDiffusionXLPipeline": ("text_encoder", "text_encoder_2")}


@dataclass
class UNetView:
    """Built by `from_folder` or `from_pipeline`. Text maps are the keys and values of every cross-attention."""

    name: str
    family: Family
    device: torch.device
    dtype: torch.dtype
    folder: Path | None = None  # None for a pipeline in memory
    pipeline: Pipeline | None = None
    saved: dict[str, Tensor] = field(default_factory=dict)  # weights before the edits now applied

    @classmethod
    def from_folder(cls, folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> "UNetView":
        """A diffusers folder on disk; `ModelError` unless it holds one of our families."""
        index = _json(folder / "model_index.json")
        kind = str(index.get("_class_name"))
        require(kind in PIPELINES, f"{folder} holds a {kind}; supported are {', '.join(PIPELINES)}", ModelError)
        unet, text = _json(folder / "unet/config.json"), _json(folder / "text_encoder/config.json")
        return cls(name, _family(kind, unet, text), device, dtype, folder)

    @classmethod
    def from_pipeline(cls, pipeline: Pipeline, name: str = "pipeline") -> "UNetView":
        """A loaded pipeline; it is used as it is, not copied."""
        family = _family(type(pipeline).__name__, pipeline.unet.config, pipeline.text_encoder.config.to_dict())
        return cls(name, family, pipeline.device, pipeline.unet.dtype, None, pipeline)

    def embed(self, texts: Sequence[str], at: Position = "last_subject") -> Tensor:
        """SDXL's two encoders stand side by side: (n, 2048) = 768 | 1280."""
        if not texts:
            return torch.empty(0, self.width, dtype=self.dtype, device=self.device)
        return torch.cat([encoder.embed(texts, at) for encoder in self._encoders()], -1)

    def text_maps(self) -> Mapping[str, Tensor]:
        """Keys and values of the cross-attentions: 32 matrices in SD 1.x and 2.x, 140 in SDXL."""
        if self.pipeline is not None:
            return {f"unet.{name}": p for name, p in self.pipeline.unet.named_parameters() if TEXT_MAPS.search(name)}
        return self.reference(f"unet.{name}" for name in self._files["unet"] if TEXT_MAPS.search(name))

    def condition(self, prompts: Sequence[str] | SoftPrompts) -> Conditioning:
        """SDXL reads both encoders before their last layer, and the second one's pooled text besides."""
        soft = prompts if isinstance(prompts, SoftPrompts) else None
        found = []
        for number, part in enumerate(self._parts):
            module: Any = self.modules(part)
            ids = self._ids(prompts, number).to(self.device)
            with ExitStack() as stack:
                if soft is not None:
                    stack.enter_context(rows_at(module.get_input_embeddings(), soft.at, soft.rows[number]))
                found.append(module(ids, output_hidden_states=self.family == "sdxl"))
        if self.family != "sdxl":
            return Conditioning(found[0][0])
        side = self.latent_shape[-1] * self._loaded.vae_scale_factor
        states = torch.cat([out.hidden_states[-2] for out in found], -1)
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(states), dtype=states.dtype, device=self.device)
        return Conditioning(states, found[-1].text_embeds, sizes)

    def _ids(self, prompts: Sequence[str] | SoftPrompts, number: int) -> Tensor:
        """Padded ids (b, l) for one encoder. Tokenizers of a model cut texts alike and differ in their padding."""
        tokenizer = self._encoders()[number].tokenizer
        if not isinstance(prompts, SoftPrompts):
            return torch.tensor(tokenizer(prompts).padded())
        if number == 0:
            return prompts.ids
        after_end = (prompts.ids == tokenizer.end).cumsum(1) - (prompts.ids == tokenizer.end).long() > 0
        return torch.where(after_end, tokenizer.pad, prompts.ids)

    def denoise(self, latents: Tensor, timestep: Tensor, texts: Sequence[str] | Conditioning) -> Tensor:
        """Noise or v, as the model was trained."""
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        added = None if given.pooled is None else {"text_embeds": given.pooled, "time_ids": given.time_ids}
        return self._loaded.unet(latents, timestep, encoder_hidden_states=given.states, added_cond_kwargs=added).sample

    @torch.no_grad()
    def sample(self, prompts: Sequence[str] | Conditioning, noise: Tensor, steps: int, guidance_scale: float, sampler: str | None = None) -> Tensor:
        """Noise is drawn by the caller, one picture at a time, so a picture knows nothing of its neighbours."""
        text: dict[str, Any] = {"prompt": list(prompts)} if not isinstance(prompts, Conditioning) else self._embeds(prompts)
        pipeline, scaled = self._loaded, noise.to(self.device, self.dtype)
        own = pipeline.scheduler
        pipeline.scheduler = own if sampler is None else named(sampler, own)
        try:
            result = pipeline(**text, latents=scaled, num_inference_steps=steps, guidance_scale=guidance_scale, output_type="pt", return_dict=True)
        finally:
            pipeline.scheduler = own
        return result.images.float().cpu()

    def _embeds(self, given: Conditioning) -> dict[str, Tensor]:
        """The pipeline's arguments for finished text states, guided away from the empty text as it does by itself."""
        empty = self.condition([""] * len(given.states))
        states, pooled = empty.states, empty.pooled
        if given.pooled is None or pooled is None:
            return {"prompt_embeds": given.states, "negative_prompt_embeds": states}
        if self._loaded.config.force_zeros_for_empty_prompt:
            states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
        found = {"prompt_embeds": given.states, "negative_prompt_embeds": states}
        return found | {"pooled_prompt_embeds": given.pooled, "negative_pooled_prompt_embeds": pooled}

    def modules(self, part: str) -> nn.Module:
        """ "denoiser" is the UNet; else the name of a pipeline component."""
        return getattr(self._loaded, "unet" if part == "denoiser" else part)

    def reference(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Parameters by full name (`unet.`...) as they were before any edit; read from the files where there are files."""
        wanted: dict[str, list[str]] = {}
        for name in names:
            part, _, rest = name.partition(".")
            wanted.setdefault(part, []).append(rest)
        found: dict[str, Tensor] = {}
        for part, members in wanted.items():
            known = self._known(part)
            missing = [name for name in members if name not in known]
            require(not missing, f"model {self.name} has no {part}.{missing[0] if missing else ''}: it is of another family", ModelError)
            if self.folder is not None:
                found |= {f"{part}.{n}": t for n, t in read(self._files[part], members).items()}
            else:
                found |= {f"{part}.{n}": self.saved.get(f"{part}.{n}", known[n]) for n in members}
        return found

    @property
    def files(self) -> Path:
        """The folder of a view that has one."""
        assert self.folder is not None
        return self.folder

    @property
    def tokenizer(self) -> ClipTokenizer:
        return self._encoders()[0].tokenizer

    @property
    def schedule(self) -> Schedule:
        return Schedule.of(self._loaded.scheduler)

    @property
    def width(self) -> int:
        """d, the width of a text state."""
        if self.pipeline is not None:
            return int(self.pipeline.unet.config.cross_attention_dim)
        return int(_json(self.files / "unet/config.json")["cross_attention_dim"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture's latents at the model's own size."""
        config = self.pipeline.unet.config if self.pipeline is not None else _json(self.files / "unet/config.json")
        size = config["sample_size"]
        return config["in_channels"], size, size

    @property
    def _loaded(self) -> Pipeline:
        if self.pipeline is None:
            self.pipeline = _build(self.files, self.dtype).to(self.device)
        return self.pipeline

    @cached_property
    def _files(self) -> dict[str, dict[str, Path]]:
        return {part: weight_files(self.files / part) for part in ("unet", *self._parts)}

    @property
    def _parts(self) -> tuple[str, ...]:
        return PIPELINES["StableDiffusionXLPipeline" if self.family == "sdxl" else "StableDiffusionPipeline"]

    def _known(self, part: str) -> Mapping[str, Any]:
        if self.folder is not None:
            return self._files.get(part, {})
        module = getattr(self.pipeline, part, None)
        return dict(module.named_parameters()) if module is not None else {}

    def _encoders(self) -> list[ClipText]:
        return [self._encoder(part, part.replace("text_encoder", "tokenizer")) for part in self._parts]

    def _encoder(self, part: str, tokenizer: str) -> ClipText:
        penultimate = self.family == "sdxl"
        if self.pipeline is None:
            weights, config, clip = self._encoder_files[part]
        else:
            module, own = getattr(self.pipeline, part), getattr(self.pipeline, tokenizer)
            weights, config = dict(module.named_parameters()), module.config.to_dict()
            clip = ClipTokenizer.of(own)
        return ClipText(clip, without_prefix(weights), config, penultimate)

    @cached_property
    def _encoder_files(self) -> dict[str, tuple[dict[str, Tensor], dict[str, Any], ClipTokenizer]]:
        loaded = {}
        for part in self._parts:
            files = {n: f for n, f in self._files[part].items() if not n.endswith("position_ids")}
            weights = {n: t.to(self.device, self.dtype) for n, t in read(files, files).items()}
            clip = ClipTokenizer.load(self.files / part.replace("text_encoder", "tokenizer"))
            loaded[part] = weights, _json(self.files / part / "config.json"), clip
        return loaded


def _family(kind: str, unet: Mapping[str, Any], text: Mapping[str, Any]) -> Family:
    """OpenCLIP's text tower, with its plain GELU, tells 2.x from 1.x."""
    if kind == "StableDiffusionXLPipeline":
        return "sdxl"
    return "sd2" if text.get("hidden_act") == "gelu" or unet["cross_attention_dim"] == 1024 else "sd1"


def _build(folder: Path, dtype: torch.dtype) -> Pipeline:
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    plain = (folder / "unet/diffusion_pytorch_model.safetensors").exists() or list((folder / "unet").glob("*.index.json"))
    checker = {"safety_checker": None, "requires_safety_checker": False} if (folder / "safety_checker").exists() else {}
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, variant=None if plain else "fp16", **checker
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: diffusers cannot load it: {str(error).splitlines()[0]}") from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}; give a complete diffusers folder") from None
