"""Image classifiers and object detectors of transformers, from a folder on disk: labels and boxes of pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from ...core.errors import ModelError, require
from ...core.hashing import hash_tensors
from ...core.regular_files import require_own_files
from ..checkpoint.weight_files import weight_files
from .clip import ClipPreprocessing, Resampling

_BATCH = 32
_UNREADABLE = (AttributeError, ImportError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)
_HALF = (0.5, 0.5, 0.5)  # mean and deviation of ViT's processor
_RESAMPLING: dict[int, Resampling] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclass(frozen=True)
class ImageClassifier:
    """A network that names what a picture shows."""

    name: str
    """Name of its folder."""
    hash: str
    labels: tuple[str, ...]
    network: Any
    prepare: ClipPreprocessing
    device: torch.device

    @torch.no_grad()
    def probabilities(self, pictures: Tensor) -> Tensor:
        """Return probabilities (b, labels) float32 on the CPU of pictures (b, 3, h, w) in [0, 1]."""
        rows = []
        for part in pictures.split(_BATCH):
            logits: Tensor = self.network(pixel_values=self.prepare(part.to(self.device, torch.float32))).logits
            rows.append(logits.softmax(1).cpu())
        return torch.cat(rows)


class BoxReader(Protocol):
    """An image processor of transformers: knows what its detector's logits are, and which of them is for nothing."""

    def post_process_object_detection(self, outputs: Any, threshold: float) -> list[dict[str, Tensor]]:
        """Return `scores`, `labels` and `boxes` (things, 4) of each picture, as shares of its sides."""
        ...


@dataclass(frozen=True)
class ObjectDetector:
    """A network that finds where things are in a picture."""

    hash: str
    labels: tuple[str, ...]
    network: Any
    prepare: ClipPreprocessing
    boxes: BoxReader
    device: torch.device

    @torch.no_grad()
    def first_boxes(self, pictures: Tensor, label: str, least: float) -> list[tuple[float, ...] | None]:
        """Return the box of the surest thing of a label in each picture (b, 3, h, w) in [0, 1], with a probability
        above `least`; None without any. A box is left, top, right, bottom, as shares of the sides.
        """
        column, boxes = self.labels.index(label), list[tuple[float, ...] | None]()
        for part in pictures.split(_BATCH):
            found = self.network(pixel_values=self.prepare(part.to(self.device, torch.float32)))
            for things in self.boxes.post_process_object_detection(found, threshold=least):
                own = things["labels"] == column
                surest = things["scores"].masked_fill(~own, -1.0).argmax() if own.any() else None
                boxes.append(None if surest is None else tuple(things["boxes"][surest].tolist()))
        return boxes


def load_image_classifier(folder: Path, device: torch.device) -> ImageClassifier:
    """Load an image classifier; `ModelError` for any other folder."""
    from transformers import AutoModelForImageClassification  # The import takes seconds.

    network, prepare = _loaded(AutoModelForImageClassification, folder, device, "image classifier")
    return ImageClassifier(folder.name, _hash(network), _labels(network), network, prepare, device)


def load_object_detector(folder: Path, device: torch.device) -> ObjectDetector:
    """Load an object detector; `ModelError` for any other folder."""
    from transformers import AutoImageProcessor, AutoModelForObjectDetection  # The import takes seconds.

    network, prepare = _loaded(AutoModelForObjectDetection, folder, device, "object detector")
    try:
        boxes: BoxReader = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except _UNREADABLE as error:
        raise ModelError(f"{folder}/preprocessor_config.json: {_reason(error)}") from None
    message = f"{folder}/preprocessor_config.json: {type(boxes).__name__} reads no boxes; give the detector's own"
    require(hasattr(boxes, "post_process_object_detection"), message, ModelError)
    return ObjectDetector(_hash(network), _labels(network), network, prepare, boxes, device)


def _loaded(kind: Any, folder: Path, device: torch.device, what: str) -> tuple[Any, ClipPreprocessing]:
    from transformers.utils import logging

    require(folder.is_dir(), f"{folder}: give the folder of an {what} that transformers wrote", ModelError)
    require_own_files(folder, ModelError)
    weight_files(folder)  # Raises an error on pickles, and on a folder without weights.
    logging.disable_progress_bar()
    try:
        given = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
        network, found = kind.from_pretrained(folder, output_loading_info=True, **given)
        config = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        prepare = _preprocessing(config, folder)
    except _UNREADABLE as error:
        raise ModelError(f"{folder} is no {what} that transformers opens: {_reason(error)}") from None
    lacking = sorted(found["missing_keys"])  # transformers would draw them at random.
    message = f"{folder} is no whole {what}: its weights lack {', '.join(lacking[:1])}; give one that was trained"
    require(not lacking, message, ModelError)
    _require_labels(network, folder)
    return network.to(device).eval().requires_grad_(False), prepare


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _preprocessing(config: dict[str, Any], folder: Path) -> ClipPreprocessing:
    """What `preprocessor_config.json` says, by default as ViT's processor does."""
    size, crop = config.get("size", {"height": 224, "width": 224}), None
    if isinstance(size, dict):
        size = size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    elif not config.get("do_center_crop"):
        size = (size, size)
    if config.get("do_center_crop"):
        cut = config["crop_size"]
        crop = (cut["height"], cut["width"]) if isinstance(cut, dict) else (cut, cut)
    resample = config.get("resample", 2)
    require(
        resample in _RESAMPLING,
        f"{folder}: resample {resample} is not supported; only {', '.join(map(str, _RESAMPLING))} are",
        ModelError,
    )
    mean, std = (tuple(config.get(name, _HALF)) for name in ("image_mean", "image_std"))
    if not config.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return ClipPreprocessing(size, crop, mean, std, _RESAMPLING[resample])


def _require_labels(network: Any, folder: Path) -> None:
    names = network.config.id2label
    message = f"{folder}/config.json: id2label numbers its {len(names)} labels otherwise than from 0 on"
    require(set(names) == set(range(len(names))), message, ModelError)


def _labels(network: Any) -> tuple[str, ...]:
    names: dict[int, str] = network.config.id2label
    return tuple(names[i] for i in range(len(names)))


def _hash(network: Any) -> str:
    return hash_tensors(network.state_dict())


def crop_boxes(pictures: Tensor, boxes: Sequence[tuple[float, ...]], margin: float) -> list[Tensor]:
    """Cut boxes out of pictures (b, 3, h, w), each widened by a share of its sides: (1, 3, h', w') each."""
    height, width = pictures.shape[-2:]
    found = []
    for picture, (left, top, right, bottom) in zip(pictures, boxes, strict=True):
        wide, high = margin * (right - left) / 2, margin * (bottom - top) / 2
        x = [round(width * min(1.0, max(0.0, share))) for share in (left - wide, right + wide)]
        y = [round(height * min(1.0, max(0.0, share))) for share in (top - high, bottom + high)]
        x[0], y[0] = min(x[0], width - 1), min(y[0], height - 1)
        found.append(picture[None, :, y[0] : max(y[1], y[0] + 1), x[0] : max(x[1], x[0] + 1)])
    return found
