"""What tells published models of one kind of network apart: some tensors of the original layout, with shapes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..family import Config, DenoiserNames, NamedShapes
from .mmdit import sd3_attention_tensors, sd3_names
from .unet import UNetNames, unet_maps

Shapes = Mapping[str, tuple[int, ...]]
LABEL_EMBEDDING = "label_emb.0.0.weight"  # reads SDXL's sizes and pooled text; in a 2.x unCLIP, a picture


@dataclass(frozen=True)
class TellingTensors:
    """The tensors by which models of one kind of network are recognised, by original names without a prefix."""

    network: str
    """What messages call the network."""
    folder: str
    """Its folder: unet or transformer."""
    prediction: str
    """What these networks predict, but for fine-tunes that no packaged config fits."""
    marker: str
    """A weight that these networks alone have."""
    latents: str
    """The weight that reads latents."""
    compared: str
    """What messages call the tensors that are compared."""
    pattern: re.Pattern[str]
    """Pattern of their names."""
    shapes: Callable[[Config], Shapes]
    """Those names and their shapes, by the network's config."""


def _original(tensors: NamedShapes, names: DenoiserNames) -> dict[str, tuple[int, ...]]:
    """Original names and shapes of tensors of a folder."""
    found = {}
    for own, shape in tensors:
        original = names.original(own)
        assert original is not None
        found[original[0]] = original[1].packed_shape(shape)
    return found


def _unet_shapes(config: Config) -> Shapes:
    labels = config.get("projection_class_embeddings_input_dim")
    more = {LABEL_EMBEDDING: (4 * config["block_out_channels"][0], labels)} if labels else {}
    return _original(unet_maps(config), UNetNames.of(config)) | more


def _sd3_shapes(config: Config) -> Shapes:
    return _original(sd3_attention_tensors(config), sd3_names(config))


UNETS = TellingTensors(
    "UNet",
    folder="unet",
    prediction="noise",
    marker="input_blocks.0.0.weight",
    latents="input_blocks.0.0.weight",
    compared="maps of the text",
    pattern=re.compile(rf"\.attn2\.to_[kv]\.weight$|^{re.escape(LABEL_EMBEDDING)}$"),
    shapes=_unet_shapes,
)
SD3_TRANSFORMERS = TellingTensors(
    "transformer",
    folder="transformer",
    prediction="a flow",
    marker="joint_blocks.0.x_block.attn.qkv.weight",
    latents="x_embedder.proj.weight",
    compared="tensors of texts, places and attentions",
    pattern=re.compile(
        r"^(pos_embed|(x_embedder\.proj|context_embedder|y_embedder\.mlp\.0)\.weight)$"
        r"|^joint_blocks\..*\.attn2?\.(qkv|ln_[qk])\.weight$"
    ),
    shapes=_sd3_shapes,
)
