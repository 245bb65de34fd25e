"""Image classifiers and detectors of transformers' real classes at toy size, on disk as transformers saves them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessorPil,
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
    """A detector of faces that finds one in every picture, or in none; one of its outputs stands for nothing."""
    torch.manual_seed(0)
    shape = {**SHAPE, "num_detection_tokens": 4}
    model = YolosForObjectDetection(YolosConfig(image_size=[SIDE, SIDE], id2label={0: "face"}, **shape))
    model.class_labels_classifier.layers[-1].bias.data[:] = torch.tensor([1e4, 0.0] if finds else [0.0, 1e4])
    model.save_pretrained(path)
    YolosImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(path)
    return path


def sigmoid_detector_folder(path: Path, logit: float) -> Path:
    """A detector of faces with an independent output for each label: each query has about this logit."""
    torch.manual_seed(0)
    sizes = [8, 8, 8, 8]
    backbone = RTDetrResNetConfig(embedding_size=8, hidden_sizes=sizes, depths=[1, 1, 1, 1], layer_type="basic")
    backbone.out_features = ["stage2", "stage3", "stage4"]
    encoder = {"encoder_hidden_dim": 16, "encoder_in_channels": sizes[:3], "encoder_ffn_dim": 16, "encoder_layers": 1}
    decoder = {"decoder_in_channels": [16] * 3, "decoder_ffn_dim": 16, "decoder_layers": 1, "num_denoising": 0}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = RTDetrConfig(
        backbone_config=backbone, id2label={0: "face"}, d_model=16, num_queries=4, **encoder, **decoder, **heads
    )
    model = RTDetrForObjectDetection(config)
    for head in (model.model.enc_score_head, model.model.decoder.class_embed[-1]):
        head.weight.data.normal_(std=0.1)  # So that queries differ, and none is the surest by rounding.
        head.bias.data.fill_(logit)
    model.save_pretrained(path)
    RTDetrImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(path)
    return path


def drop_tensor(folder: Path, ending: str) -> None:
    """Take the one tensor whose name ends like this out of a folder's weights."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    (name,) = (name for name in tensors if name.endswith(ending))
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})
