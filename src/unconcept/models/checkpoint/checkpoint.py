"""A diffusers folder or single file on disk, or a pipeline in memory: configs, tensors and tokenizers by part, whatever
the family.

Files are read tensor by tensor until something must be drawn or trained; only then is the pipeline built.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ModelError, require
from ..family import TextEncoderSpec
from ..text.tokenizer import ClipTokenizer, TokenPosition
from .config import config_folder, read_config
from .locations import has_part, tensor_locations
from .pipeline import Pipeline, build_pipeline
from .safetensors_io import LazyTensors, TensorLocation


@dataclass
class Checkpoint:
    """`denoiser` is the folder of the network that is edited: unet or transformer."""

    denoiser: str
    device: torch.device
    dtype: torch.dtype
    source: Path | None = None  # the folder or single file; None for a pipeline in memory
    pipeline: Pipeline | None = None
    _places: dict[str, dict[str, TensorLocation]] = field(default_factory=dict)  # where the tensors of each part stand
    _held: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # text encoders small enough to stay in memory
    _tokenizers: dict[str, ClipTokenizer] = field(default_factory=dict)
    _states: dict[str, dict[TokenPosition, dict[str, Tensor]]] = field(default_factory=dict)  # of texts, by encoder

    @property
    def built_pipeline(self) -> Pipeline:
        """The pipeline, built when it is first asked for."""
        if self.pipeline is None:
            self.pipeline = build_pipeline(self.path, self.dtype).to(self.device)
            self._held.clear()  # They stand in the pipeline now, and would be there twice.
            self._states.clear()
        return self.pipeline

    @property
    def path(self) -> Path:
        """The files of a checkpoint that has some."""
        assert self.source is not None
        return self.source

    def config(self, part: str) -> Mapping[str, Any]:
        """A part's own config.json."""
        if self.source is not None:
            return read_config(config_folder(self.source) / part / "config.json")
        own = getattr(self.pipeline, part).config
        config: Mapping[str, Any] = own.to_dict() if hasattr(own, "to_dict") else own
        return config

    def has(self, part: str) -> bool:
        """Whether there is such a part: SD3 is also published without its T5."""
        if self.source is not None:
            return has_part(self.source, part)
        return getattr(self.pipeline, part, None) is not None

    def lazy_parameters(self, part: str) -> Mapping[str, Any]:
        """A part's parameters by name, of which nothing is read; empty if there is no such part."""
        if not self.has(part):
            return {}
        if self.source is None:
            return dict(getattr(self.pipeline, part).named_parameters())
        if part not in self._places:
            self._places[part] = tensor_locations(self.source, part)
        return self._places[part]

    def lazy_tensors(self, part: str) -> Mapping[str, Tensor]:
        """A part's tensors, each read when it is asked for; those the pipeline computes with once it is built."""
        if self.pipeline is not None:
            return dict(getattr(self.pipeline, part).named_parameters())
        return LazyTensors(self.lazy_parameters(part), self.device, self.dtype)

    def weights(self, part: str) -> Mapping[str, Tensor]:
        """As `streamed`, but read at once and kept."""
        if self.pipeline is not None:
            return self.lazy_tensors(part)
        if part not in self._held:
            streamed = self.lazy_tensors(part)
            # One by one: a file that stays open is in memory as far as it was read, beside what is made of it.
            self._held[part] = {name: streamed[name] for name in streamed if not name.endswith("position_ids")}
        return self._held[part]

    def states(self, part: str) -> dict[TokenPosition, dict[str, Tensor]] | None:
        """Where a text encoder's states of texts are kept, as long as its weights are those of the files; None of a
        pipeline, which may be trained.
        """
        return None if self.pipeline is not None else self._states.setdefault(part, {})

    def tokenizer(self, encoder: TextEncoderSpec) -> ClipTokenizer:
        """The tokenizer of a text encoder."""
        part = encoder.tokenizer
        if part not in self._tokenizers:
            own = (
                ClipTokenizer.load(config_folder(self.source) / part)
                if self.source
                else ClipTokenizer.of(getattr(self.pipeline, part))
            )
            self._tokenizers[part] = own.given_to(encoder)
        return self._tokenizers[part]

    def reference(self, names: Iterable[str], saved: Mapping[str, Tensor], model: str) -> Mapping[str, Tensor]:
        """Parameters by full name as they were before any edit; where there are files, each is read when it is asked
        for.

        `saved` are weights before the edits now applied. `ModelError` names what a model has not.
        """
        found: dict[str, Any] = {}
        for name in names:
            part, _, rest = name.partition(".")
            known = self.lazy_parameters(part)
            require(rest in known, f"model {model} has no {name}: it is of another family", ModelError)
            found[name] = known[rest] if self.source is not None else saved.get(name, known[rest])
        return LazyTensors(found) if self.source is not None else found
