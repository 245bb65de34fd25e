"""Models that are no plain text-to-image models, and pipelines that do not compute with exactly their own weights."""

import json
from collections.abc import Callable

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers.hooks import FirstBlockCacheConfig
from peft import LoHaConfig, LoraConfig
from torch import nn

import unconcept
from tests import tiny
from tests.cli.test_bad_models import refused
from tests.models.test_single_file import single
from unconcept.core.errors import ModelError
from unconcept.edits import DenseEdit
from unconcept.models import open_model
from unconcept.models.views import view_of_pipeline
from unconcept.models.views.unet import UNetView


class OwnWeights(nn.Module):
    """An attention processor with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 2)

    def __call__(self, attn: nn.Module, hidden_states: torch.Tensor, **_: object) -> torch.Tensor:
        return hidden_states


def cast(pipe) -> None:
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def grouped(pipe) -> None:
    device = torch.device("cpu")
    pipe.unet.enable_group_offload(device, device, offload_type="block_level", num_blocks_per_group=1)


def replaced(pipe) -> None:
    pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.processor = OwnWeights()


def packed(pipe) -> None:
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    attention.to_k.weight = nn.Parameter(torch.zeros(16, 32, dtype=torch.uint8), requires_grad=False)


def subclassed(pipe) -> None:
    """As torchao does."""
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    attention.to_k.weight = nn.Parameter(attention.to_k.weight.data.as_subclass(Packed))


class Packed(torch.Tensor):
    """A tensor of another kind."""


def replaced_unet(pipe, change: Callable[[nn.Module], nn.Module]) -> None:
    pipe.unet = change(pipe.unet)


STATES: list[tuple[Callable[[object], object], str]] = [
    (
        lambda pipe: pipe.fuse_qkv_projections(vae=False),
        "unet has fused attention projections: call unfuse_qkv_projections",
    ),
    (lambda pipe: pipe.fuse_qkv_projections(unet=False), "vae has fused attention projections"),
    (cast, "casts its layers while it runs: load the pipeline without"),
    (lambda pipe: pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"])), "carries PEFT adapters: fuse or"),
    (lambda pipe: pipe.unet.add_adapter(LoHaConfig(r=2, target_modules=["to_k"])), "carries PEFT adapters"),
    (
        lambda pipe: pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"])),
        "text_encoder carries PEFT adapters",
    ),
    (lambda pipe: replaced_unet(pipe, torch.compile), "is compiled: open the pipeline before torch.compile"),
    (lambda pipe: pipe.unet.compile(), "is compiled: open the pipeline before torch.compile"),
    (lambda pipe: pipe.unet.down_blocks[0].compile(), "is compiled"),
    (grouped, "moves its weights between devices while it runs: load the pipeline without offloading"),
    (lambda pipe: add_hook_to_module(pipe.unet, ModelHook()), "moves its weights between devices"),
    (lambda pipe: cpu_offload(pipe.text_encoder, torch.device("cpu")), "text_encoder moves its weights|no weights in"),
    (lambda pipe: pipe.unet.to("meta"), "has no weights in memory"),
    (lambda pipe: setattr(pipe.unet, "encoder_hid_proj", nn.Linear(2, 2)), "has an IP-Adapter"),
    (replaced, "has attention processors with weights of their own"),
    (packed, "has quantised weights: load the pipeline in float32"),
    (subclassed, "has quantised weights"),
    (lambda pipe: pipe.unet.to(torch.float8_e4m3fn), "has quantised weights"),
]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # of torch.compile itself
@pytest.mark.parametrize(("change", "said"), STATES)
def test_what_would_not_compute_with_its_own_weights(change, said) -> None:
    """In one line, by every way to a view, before anything is made."""
    pipe = tiny.pipeline("sd1")
    change(pipe)
    for opened in (open_model, view_of_pipeline, UNetView.from_pipeline):
        with pytest.raises(ModelError, match=said) as error:
            opened(pipe)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # of torch.compile itself
@pytest.mark.parametrize(("change", "said"), STATES)
def test_a_pipeline_that_is_open_is_looked_at_again(change, said) -> None:
    """It stays the same view while it is in use; only compiling it afterwards is what we tell people to do."""
    pipe = tiny.pipeline("sd1")
    view = open_model(pipe)
    assert open_model(pipe) is view
    change(pipe)
    if said.startswith("is compiled"):
        assert open_model(pipe) is view
        return
    with pytest.raises(ModelError, match=said):
        open_model(pipe)


def test_a_token_that_is_loaded_after_opening_is_read() -> None:
    """Spelled out by letters, an edit of it would leave the learned embedding as it is."""
    pipe = tiny.pipeline("sd1")
    view, text = open_model(pipe), "a <gizmo>"
    assert len(view.tokenizer([text]).ids[0]) > 4
    pipe.load_textual_inversion(torch.randn(1, 32), token="<gizmo>")
    again = open_model(pipe)
    assert again.tokenizer([text]).ids[0] == tuple(pipe.tokenizer(text).input_ids)
    assert torch.isfinite(again.embed([text])).all()
    with DenseEdit({"unet.conv_in.weight": torch.ones(8, 4, 3, 3)}).applied(again):
        pipe.load_textual_inversion(torch.randn(1, 32), token="<other>")
        with pytest.raises(ModelError, match="changed while an edit is applied to it: remove the edit first"):
            open_model(pipe)
    assert open_model(pipe) is not again


def test_caches_of_transformers() -> None:
    pipe = tiny.pipeline("flux")
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ModelError, match=r"skips or reuses parts of its computation: call disable_cache\(\)"):
        open_model(pipe)


def test_erase_makes_nothing(tmp_path) -> None:
    pipe = tiny.pipeline("sd1")
    pipe.fuse_qkv_projections()
    with pytest.raises(ModelError, match="fused attention projections"):
        unconcept.erase("dog", model=pipe, out=tmp_path / "o")
    assert not list(tmp_path.iterdir())


def channels(pipe, count: int) -> None:
    pipe.register_modules(unet=tiny.unet(32, in_channels=count))


@pytest.mark.parametrize(("count", "kind"), [(9, "inpainting"), (8, "edit"), (5, "depth")])
def test_a_denoiser_with_other_inputs(count, kind, tmp_path) -> None:
    """Of an inpainting, edit or depth model: a folder and a pipeline, by closed forms and by training."""
    pipe = tiny.pipeline("sd1")
    channels(pipe, count)
    pipe.save_pretrained(tmp_path / "m")
    said = f"its unet takes {count} channels and its autoencoder gives 4: it is an inpainting, edit or depth model"
    for method, more in (("uce", ()), ("esd", ("--no-report",))):
        words = ("erase", "red hat", "--method", method, "--model", tmp_path / "m", "--quiet", *more)
        refused(tmp_path / "o", *words, said=said)
    with pytest.raises(ModelError, match=said):
        open_model(pipe)


def test_a_flux_with_other_inputs(tmp_path) -> None:
    """FLUX packs four latents into one: Fill takes 384 channels, Canny and Depth 128."""
    folder = tiny.folder("flux", tmp_path / "m")
    told = json.loads((folder / "transformer/config.json").read_text())
    for count in (32, 96):
        (folder / "transformer/config.json").write_text(json.dumps(told | {"in_channels": count}))
        with pytest.raises(ModelError, match=f"its transformer takes {count} channels and its autoencoder gives 16"):
            open_model(str(folder), "cpu")


def test_a_single_file_with_other_inputs(tmp_path) -> None:
    file = single(tiny.folder("sd1", tmp_path / "base"), tmp_path / "s")
    told = json.loads((tmp_path / "s/m/unet/config.json").read_text())
    (tmp_path / "s/m/unet/config.json").write_text(json.dumps(told | {"in_channels": 9}))
    with pytest.raises(ModelError, match="takes 9 channels"):
        open_model(str(file), "cpu")


def test_a_denoiser_that_takes_labels() -> None:
    pipe = tiny.pipeline("sd1")
    pipe.register_modules(unet=tiny.unet(32, num_class_embeds=3))
    with pytest.raises(ModelError, match="its unet needs other inputs too, by num_class_embeds in its config"):
        open_model(pipe)
