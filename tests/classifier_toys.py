"""Image classifiers and detectors of transformers' real classes at toy size, on disk as transformers saves them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    YolosConfig,
    YolosForObjectDetection,
)

SIDE = 32
SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16}


def classifier_folder(path: Path, labels: Sequence[str], always: str | None = None) -> Path:
    """A classifier of these labels; with `always` it gives that label to every picture."""
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    model = ViTForImageClassification(ViTConfig(image_size=SIDE, id2label=names, **SHAPE))
    model.classifier.weight.data *= 50  # So that pictures differ in their label.
    if always is not None:
        model.classifier.bias.data[list(labels).index(always)] = 1e4
    model.save_pretrained(path)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(path)
    return path


def detector_folder(path: Path, finds: bool) -> Path:
    """A detector of faces that finds one in every picture, or in none."""
    torch.manual_seed(0)
    shape = {**SHAPE, "num_detection_tokens": 4}
    model = YolosForObjectDetection(YolosConfig(image_size=[SIDE, SIDE], id2label={0: "face"}, **shape))
    model.class_labels_classifier.layers[-1].bias.data[:] = torch.tensor([1e4, 0.0] if finds else [0.0, 1e4])
    model.save_pretrained(path)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(path)
    return path
