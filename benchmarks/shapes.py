"""Checkpoints of random weights in the exact shape of published models, to measure time and memory with.

`python -m benchmarks.shapes sdxl OUT`: a diffusers folder; of its VAE, which no text edit reads, the config alone.
Weights are written one by one, so that the shape may be larger than memory. CLIP's vocabulary comes from an installed
`open_clip_torch`.
"""

import argparse
import importlib.util
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.shape_encoders import CLIP_G, CLIP_L, MISTRAL3, QWEN25_VL, T5_XXL
from benchmarks.shape_tokenizers import write_clip_tokenizer, write_t5_tokenizer
from tests import tiny
from unconcept.models.checkpoint.safetensors_io import DeferredTensor, write_deferred_tensors
from unconcept.models.layouts.unet import CROSS_ATTENTION_MAP
from unconcept.models.text.tokenizer_files import END_TOKEN

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
SHARD = 5 * 2**30  # bytes
POOL = 4_194_301  # random numbers; a prime, so that no two rows of a matrix are the same
SD14 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX = {"guidance_embeds": True}
FLUX2 = {"guidance_embeds": True}
CHAT_TOKENIZERS = {"qwen": lambda: tiny.qwen25_vl()[1], "mistral": lambda: tiny.mistral3(8, 1)[1]}


@dataclass(frozen=True)
class Shape:
    """Classes and configs by part of a diffusers folder."""

    pipeline: str
    dtype: torch.dtype
    denoiser: tuple[str, str, Mapping[str, Any]]  # folder, class in diffusers, config
    encoders: Mapping[str, tuple[str, Mapping[str, Any]]]  # class in transformers, config
    tokenizers: Mapping[str, str] = field(default_factory=lambda: {"tokenizer": END_TOKEN})
    """By folder: CLIP's pad token, "" for T5's, or the name of a toy of a chat tokenizer."""


SHAPES = {
    "sd14": Shape(
        "StableDiffusionPipeline",
        torch.float32,
        ("unet", "UNet2DConditionModel", SD14),
        {"text_encoder": ("CLIPTextModel", CLIP_L)},
    ),
    "sdxl": Shape(
        "StableDiffusionXLPipeline",
        torch.float16,
        ("unet", "UNet2DConditionModel", SDXL),
        {"text_encoder": ("CLIPTextModel", CLIP_L), "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G)},
        {"tokenizer": END_TOKEN, "tokenizer_2": "!"},
    ),
    "flux": Shape(
        "FluxPipeline",
        torch.bfloat16,
        ("transformer", "FluxTransformer2DModel", FLUX),
        {"text_encoder": ("CLIPTextModel", CLIP_L), "text_encoder_2": ("T5EncoderModel", T5_XXL)},
        {"tokenizer": END_TOKEN, "tokenizer_2": ""},
    ),
    "flux2": Shape(
        "Flux2Pipeline",
        torch.bfloat16,
        ("transformer", "Flux2Transformer2DModel", FLUX2),
        {"text_encoder": ("Mistral3ForConditionalGeneration", MISTRAL3)},
        {"tokenizer": "mistral"},
    ),
    "qwenimage": Shape(
        "QwenImagePipeline",
        torch.bfloat16,
        ("transformer", "QwenImageTransformer2DModel", {}),
        {"text_encoder": ("Qwen2_5_VLForConditionalGeneration", QWEN25_VL)},
        {"tokenizer": "qwen"},
    ),
}


def vocabulary(path: Path | None) -> Path:
    """CLIP's merges. `SystemExit` says where they come from if they are nowhere."""
    spec = importlib.util.find_spec("open_clip")
    found = path or (Path(spec.origin).parent / VOCABULARY if spec and spec.origin else None)
    if found is None or not found.exists():
        raise SystemExit(
            f"{found or 'open_clip_torch'} is not there: CLIP's vocabulary is in that wheel; install the extra `eval`,"
            f" or give --vocabulary {VOCABULARY}"
        )
    return found


def build(
    name: str,
    out: Path,
    words: Path | None = None,
    whole: bool = True,
    layers: int | None = None,
    text_layers: int | None = None,
) -> Path:
    """The folder, unless it is there already.

    Not `whole`: of the UNet the text maps alone. `layers`: of each kind of a transformer's blocks; `text_layers`: of a
    language model's.
    """
    import diffusers
    import transformers

    if (out / "model_index.json").exists():
        return out
    shape = SHAPES[name]
    has_clip = any(pad and pad not in CHAT_TOKENIZERS for pad in shape.tokenizers.values())
    words = vocabulary(words) if has_clip else Path()
    part, kind, config = shape.denoiser
    if layers is not None:
        config = {**config, "num_layers": layers}
        config |= {} if name == "qwenimage" else {"num_single_layers": layers}
    with torch.device("meta"):
        denoiser = getattr(diffusers, kind)(**config)
        encoders = {
            place: getattr(transformers, which)(_config(which, values, text_layers))
            for place, (which, values) in shape.encoders.items()
        }
    denoiser.save_config(out / part)
    wanted = {key: tensor for key, tensor in denoiser.state_dict().items() if whole or CROSS_ATTENTION_MAP.search(key)}
    write_weights(out / part, "diffusion_pytorch_model", wanted, shape.dtype)
    for place, encoder in encoders.items():
        encoder.config.save_pretrained(out / place)
        write_weights(out / place, "model", _untied(encoder), shape.dtype)
    for place, pad in shape.tokenizers.items():
        if pad in CHAT_TOKENIZERS:
            CHAT_TOKENIZERS[pad]().save_pretrained(out / place)
        else:
            write_clip_tokenizer(out / place, words, pad) if pad else write_t5_tokenizer(out / place)
    _vae(name).save_config(out / "vae")
    (out / "model_index.json").write_text(json.dumps({"_class_name": shape.pipeline}), encoding="utf-8")
    return out


def _vae(name: str) -> Any:
    import diffusers

    own = {"flux2": diffusers.AutoencoderKLFlux2, "qwenimage": diffusers.AutoencoderKLQwenImage}
    with torch.device("meta"):
        return own.get(name, diffusers.AutoencoderKL)()


def _config(kind: str, values: Mapping[str, Any], layers: int | None) -> Any:
    import transformers

    if kind.endswith("ForConditionalGeneration"):
        text = values["text_config"] | ({} if layers is None else {"num_hidden_layers": layers})
        which = transformers.Mistral3Config if kind.startswith("Mistral") else transformers.Qwen2_5_VLConfig
        return which(**values | {"text_config": text}, tie_word_embeddings=False)
    if kind.startswith("T5"):
        return transformers.T5Config(**values)
    return transformers.CLIPTextConfig(
        **values, vocab_size=49408, max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1
    )


def _untied(encoder: torch.nn.Module) -> dict[str, Tensor]:
    """T5's table of words is there under two names; files hold one."""
    return {key: tensor for key, tensor in encoder.state_dict().items() if key != "encoder.embed_tokens.weight"}


def write_weights(folder: Path, stem: str, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """One file, or shards with their index."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        size += tensor.numel() * dtype.itemsize
        if size > SHARD:
            shards.append({})
            size = tensor.numel() * dtype.itemsize
        shards[-1][key] = tensor
    folder.mkdir(parents=True, exist_ok=True)
    files = (
        [f"{stem}.safetensors"]
        if len(shards) == 1
        else [f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    )
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0))
    for file, shard in zip(files, shards, strict=True):
        slots = {
            key: DeferredTensor(
                tuple(tensor.shape), dtype, lambda key=key, tensor=tensor: drawn(key, tensor.shape, pool)
            )
            for key, tensor in shard.items()
        }
        write_deferred_tensors(folder / file, slots, {"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {},
            "weight_map": {key: file for file, shard in zip(files, shards, strict=True) for key in shard},
        }
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def drawn(name: str, shape: torch.Size, pool: Tensor) -> Tensor:
    """Norms are 1, biases 0, tables of embeddings small, matrices such that they keep the size of what they are given.

    Numbers are taken out of the pool over and over, from a place of the name's own: drawing twelve billion would take
    minutes.
    """
    if name.endswith("bias") or len(shape) < 2:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    scale = 0.02 if "embedding.weight" in name else torch.Size(shape[1:]).numel() ** -0.5
    own = scale * pool.roll(-(zlib.crc32(name.encode()) % len(pool)))
    return own.repeat(-(-shape.numel() // len(pool)))[: shape.numel()].view(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocabulary", type=Path, help=f"{VOCABULARY}, where open_clip_torch is not installed")
    parser.add_argument("--layers", type=int, help="a transformer's blocks of each kind, instead of FLUX's 19 and 38")
    parser.add_argument("--text-layers", type=int, help="a language model's layers, instead of all")
    args = parser.parse_args()
    print(build(args.shape, args.out, args.vocabulary, layers=args.layers, text_layers=args.text_layers))


if __name__ == "__main__":
    main()
