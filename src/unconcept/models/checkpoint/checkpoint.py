"""Configs, tensors and tokenizers of a model of any family: a diffusers folder, a single file or a pipeline in memory.

Files are read tensor by tensor. The pipeline is built only when something must be drawn or trained.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ModelError, require
from ..family import TextEncoderSpec
from ..pipeline_checks import resident_parameters
from ..text.templates import load_chat_tokenizer
from ..text.tokenizer import TextTokenizer, TokenPosition
from .config import config_folder, read_config
from .locations import has_part, tensor_locations
from .pipeline import Pipeline, build_pipeline
from .published import vocabulary_folder
from .safetensors_io import LazyTensors, TensorLocation


@dataclass
class Checkpoint:
    """The files or the pipeline of a model. `denoiser` is the folder of the network to edit: unet or transformer."""

    denoiser: str
    device: torch.device
    dtype: torch.dtype
    source: Path | None = None  # the folder or single file; None for a pipeline in memory
    pipeline: Pipeline | None = None
    _places: dict[str, dict[str, TensorLocation]] = field(default_factory=dict)  # tensors of each part in the files
    _held: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # text encoders small enough to stay in memory
    _tokenizers: dict[str, TextTokenizer] = field(default_factory=dict)
    _states: dict[str, dict[TokenPosition, dict[str, Tensor]]] = field(
        default_factory=dict
    )  # cached text states, by encoder

    @property
    def built_pipeline(self) -> Pipeline:
        """The pipeline, built on the first access."""
        if self.pipeline is None:
            self.pipeline = build_pipeline(self.path, self.dtype).to(self.device)
            self._held.clear()  # The pipeline now has them, and a second copy would waste memory.
            self._states.clear()
        return self.pipeline

    @property
    def path(self) -> Path:
        """The path of the files; only for a checkpoint with files."""
        assert self.source is not None
        return self.source

    def config(self, part: str) -> Mapping[str, Any]:
        """The config.json of a part."""
        if self.source is not None:
            return read_config(config_folder(self.source) / part / "config.json")
        own = getattr(self.pipeline, part).config
        config: Mapping[str, Any] = own.to_dict() if hasattr(own, "to_dict") else own
        return config

    def has(self, part: str) -> bool:
        """Whether the model has this part: SD3 is also published without its T5."""
        if self.source is not None:
            return has_part(self.source, part)
        return getattr(self.pipeline, part, None) is not None

    def lazy_parameters(self, part: str) -> Mapping[str, Any]:
        """A part's parameters by name, without reading them; empty if the model has no such part."""
        if not self.has(part):
            return {}
        if self.source is None:
            return resident_parameters(getattr(self.pipeline, part))
        if part not in self._places:
            self._places[part] = tensor_locations(self.source, part)
        return self._places[part]

    def lazy_tensors(self, part: str) -> Mapping[str, Tensor]:
        """A part's tensors, each read on access; once the pipeline is built, its live parameters."""
        if self.pipeline is not None:
            return dict(getattr(self.pipeline, part).named_parameters())
        return LazyTensors(self.lazy_parameters(part), self.device, self.dtype)

    def weights(self, part: str) -> Mapping[str, Tensor]:
        """Like `lazy_tensors`, but all tensors are read at once and stay in memory."""
        if self.pipeline is not None:
            return self.lazy_tensors(part)
        if part not in self._held:
            streamed = self.lazy_tensors(part)
            # One by one: an open file keeps everything read from it in memory, beside the tensors made from it.
            self._held[part] = {name: streamed[name] for name in streamed if not name.endswith("position_ids")}
        return self._held[part]

    def states(self, part: str) -> dict[TokenPosition, dict[str, Tensor]] | None:
        """The cache of a text encoder's states. None for a pipeline, whose weights may be trained."""
        return None if self.pipeline is not None else self._states.setdefault(part, {})

    def tokenizer(self, encoder: TextEncoderSpec) -> TextTokenizer:
        """The tokenizer of a text encoder."""
        part = encoder.tokenizer
        if part not in self._tokenizers:
            own = (
                _load_tokenizer(config_folder(self.source) / part, encoder)
                if self.source
                else TextTokenizer.of(getattr(self.pipeline, part), encoder.template)
            )
            self._tokenizers[part] = own.given_to(encoder)
        return self._tokenizers[part]

    def reference(self, names: Iterable[str], saved: Mapping[str, Tensor], model: str) -> Mapping[str, Tensor]:
        """Parameters by full name as they were before any edit; from files, each is read on access.

        `saved` are the weights from before the edits that are applied now. `ModelError` names a missing parameter.
        """
        found: dict[str, Any] = {}
        for name in names:
            part, _, rest = name.partition(".")
            known = self.lazy_parameters(part)
            require(
                rest in known,
                f"model {model} has no {name}, so it is of another family: give a model of the edit's family",
                ModelError,
            )
            found[name] = known[rest] if self.source is not None else saved.get(name, known[rest])
        return LazyTensors(found) if self.source is not None else found


def _load_tokenizer(folder: Path, encoder: TextEncoderSpec) -> TextTokenizer:
    if encoder.template is None:
        return TextTokenizer.load(folder, vocabulary_folder(folder, encoder.kind))
    try:
        return TextTokenizer.of(load_chat_tokenizer(folder), encoder.template)
    except ModelError as error:
        raise ModelError(f"tokenizer {folder}: {error}") from None
