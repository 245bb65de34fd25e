"""Image classifiers and object detectors of transformers, from a folder on disk: labels and boxes of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ...core.errors import ModelError, require
from ...core.hashing import hash_tensors
from ..checkpoint.library_errors import library_errors
from .preprocessing import PicturePreprocessing, read_preprocessing
from .transformers_folder import load_network

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BATCH = 32
_HALF = (0.5, 0.5, 0.5)  # mean and deviation of ViT's processor
_DEFAULTS = {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": _HALF, "image_std": _HALF}


@dataclass(frozen=True)
class ImageClassifier:
    """A network that names what a picture shows."""

    name: str
    """Name of its folder."""
    hash: str
    labels: tuple[str, ...]
    network: "PreTrainedModel"
    prepare: PicturePreprocessing
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

    def post_process_object_detection(self, outputs: object, threshold: float) -> list[dict[str, Tensor]]:
        """Return `scores`, `labels` and `boxes` (things, 4) of each picture, as shares of its sides."""
        ...


@dataclass(frozen=True)
class ObjectDetector:
    """A network that finds where things are in a picture."""

    hash: str
    labels: tuple[str, ...]
    network: "PreTrainedModel"
    prepare: PicturePreprocessing
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
    network: PreTrainedModel = load_network("AutoModelForImageClassification", folder, "image classifier", device)
    prepare = read_preprocessing(folder, _DEFAULTS)
    return ImageClassifier(folder.name, _hash(network), _labels(network, folder), network, prepare, device)


def load_object_detector(folder: Path, device: torch.device) -> ObjectDetector:
    """Load an object detector; `ModelError` for any other folder."""
    network: PreTrainedModel = load_network("AutoModelForObjectDetection", folder, "object detector", device)
    prepare, boxes = read_preprocessing(folder, _DEFAULTS), _box_reader(folder)
    return ObjectDetector(_hash(network), _labels(network, folder), network, prepare, boxes, device)


def _box_reader(folder: Path) -> BoxReader:
    from transformers import AutoImageProcessor  # The import takes seconds.

    path = folder / "preprocessor_config.json"
    with library_errors(path, "transformers opens no image processor of it"):
        boxes: BoxReader = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    message = f"{path}: {type(boxes).__name__} reads no boxes; give the detector's own"
    require(hasattr(boxes, "post_process_object_detection"), message, ModelError)
    return boxes


def _labels(network: "PreTrainedModel", folder: Path) -> tuple[str, ...]:
    names = network.config.id2label or {}
    message = f"{folder}/config.json: id2label numbers its {len(names)} labels otherwise than from 0 on"
    require(set(names) == set(range(len(names))), message, ModelError)
    return tuple(str(name) for _, name in sorted(names.items()))


def _hash(network: "PreTrainedModel") -> str:
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
