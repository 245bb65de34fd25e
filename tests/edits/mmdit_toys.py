"""Toys of SD3 and FLUX to export from: a base on the disk, edits of its every kind of place, and diffusers' converters
at the toy's width.

diffusers' converters know one width of FLUX, 3072 with 12288; they are handed the toy's. In SD3's single files
diffusers puts the identity in the place of CLIP-L's projection, so the toy has it there.
"""

from pathlib import Path
from types import CodeType, FunctionType

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import lora_pipeline
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from safetensors.torch import load_file
from transformers import CLIPTextModelWithProjection

from tests import tiny, toy_text
from tests.edits.test_export import drawn, parameters, stamped
from unconcept.core.request import RequestSpec
from unconcept.edits import DenseEdit, Edit, LowRankEdit
from unconcept.edits.export.export import export_edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.models import open_model
from unconcept.models.views import view_of_pipeline

WIDTHS = {3072: 32, 12288: 128}  # FLUX's and the toy's
A_MATRIX = (
    "context_embedder.weight",
    "text_embedder.linear_1.weight",
    "blocks.0.attn.to_q.weight",
    "blocks.0.attn.to_v.weight",
)
MATRICES = (
    *A_MATRIX,
    "blocks.1.attn.add_k_proj.weight",
    "blocks.0.attn.add_k_proj.weight",
    "norm_out.linear.weight",
    "0.ff.net.0.proj.weight",
)
NORM = "transformer_blocks.0.attn.norm_q.weight"
MORE = {
    "sd3": ("transformer_blocks.1.norm1_context.linear.weight", "0.attn2.to_k.weight"),
    "flux": ("single_transformer_blocks.0.proj_mlp.weight",),
    "chroma": ("single_transformer_blocks.0.proj_mlp.weight", "distilled_guidance_layer.layers.1.linear_2.weight"),
}


def toy_width(function: FunctionType) -> FunctionType:
    """The function with the toy's width for FLUX's, in the functions it holds too."""

    def narrowed(code: CodeType) -> CodeType:
        def swap(value: object) -> object:
            if isinstance(value, CodeType):
                return narrowed(value)
            return (
                tuple(map(swap, value))
                if isinstance(value, tuple)
                else WIDTHS.get(value, value)
                if isinstance(value, int)
                else value
            )

        return code.replace(co_consts=tuple(map(swap, code.co_consts)))

    return FunctionType(
        narrowed(function.__code__),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def narrow_flux(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("FluxTransformer2DModel", "ChromaTransformer2DModel"):
        known = SINGLE_FILE_LOADABLE_CLASSES[kind]
        monkeypatch.setitem(known, "checkpoint_mapping_fn", toy_width(known["checkpoint_mapping_fn"]))
    monkeypatch.setattr(
        lora_pipeline, "_convert_kohya_flux_lora_to_diffusers", toy_width(_convert_kohya_flux_lora_to_diffusers)
    )


def saved(family: str, folder: Path) -> Path:
    """A model on disk. SD3's CLIPs differ in width: by it diffusers tells them apart in a single file."""
    pipe = tiny.pipeline(family)
    if family == "sd3":
        config = toy_text.text_config(pipe.tokenizer_2, 48, "gelu")
        config.projection_dim = 32
        pipe.register_modules(text_encoder_2=CLIPTextModelWithProjection(config))
        torch.nn.init.eye_(pipe.text_encoder.text_projection.weight)
    pipe.save_pretrained(folder)
    return folder


def matrices(folder: Path, family: str) -> list[str]:
    there = parameters(folder, "transformer")
    return sorted(name for name in there if name.endswith((*MATRICES, *MORE[family])))


def text_edit(folder: Path, family: str) -> Edit:
    chosen = resolve_request(RequestSpec(("dog face", "car"), ("goat",), ("cat",)), "tiny")
    return make_edit(open_model(str(folder), "cpu", "float32"), chosen, "uce", {})


def low_rank(folder: Path, family: str) -> Edit:
    """Ranks differ; of queries, keys and values only some are changed, and a map of the text encoder."""
    there, pairs = parameters(folder, "transformer", "text_encoder"), {}
    ends = ("layers.0.mlp.fc1.weight", "block.0.layer.0.SelfAttention.q.weight")
    encoder = next(name for name in there if name.startswith("text_encoder.") and name.endswith(ends))
    for i, name in enumerate([*matrices(folder, family), encoder]):
        o, d = there[name].shape
        pairs[name] = drawn(torch.Size((o, 1 + i % 3)), i), drawn(torch.Size((1 + i % 3, d)), i + 99)
    return stamped(LowRankEdit(pairs), folder)


def dense(folder: Path, family: str) -> Edit:
    """Weights, biases, norms and tables of every network but the VAE."""
    parts = sorted(path.name for path in folder.iterdir() if path.name.startswith(("transformer", "text_encoder")))
    there = parameters(folder, *parts)
    names, others = matrices(folder, family), ("norm_out.linear.bias", "pos_embed.pos_embed")
    names += ["transformer.transformer_blocks.0.attn.add_q_proj.bias", f"transformer.{NORM}"]
    names += [f"transformer.{name}" for name in others if f"transformer.{name}" in there]
    names += [
        next(
            name
            for name in there
            if name.startswith(f"{part}.") and name.endswith(("v_proj.weight", "SelfAttention.v.weight"))
        )
        for part in (parts[:-1] if len(parts) > 2 else parts[:1])
    ]
    return stamped(DenseEdit({name: drawn(there[name].shape, i) for i, name in enumerate(names)}), folder)


def transformers_own(edit: Edit, folder: Path) -> Edit:
    """What an edit changes of the transformer: CLIPs go by other names in folders that transformers 5 wrote."""
    there = parameters(folder, "transformer")
    return stamped(DenseEdit({name: edit.delta(name, there[name]) for name in edit.names if name in there}), folder)


MAKERS = [text_edit, low_rank, dense]
EACH = pytest.mark.parametrize("family", [*tiny.MMDITS, pytest.param("chroma", marks=pytest.mark.slow)])


def exported(
    edit: Edit, folder: Path, to: str, place: Path, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    export_edit(edit, folder, to, place, dtype)
    return load_file(place)


def picture(pipe: DiffusionPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # diffusers leaves T5 in training
    view = view_of_pipeline(pipe.to(dtype=torch.float32))
    return view.sample(
        ["a dog"], torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0)), 2, 3.0
    )
