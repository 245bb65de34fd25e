"""SD3 and FLUX there and back: what is exported is read by diffusers' own converters, or added to the original file as ComfyUI adds it.

diffusers' converters know one width of FLUX, 3072 with 12288; the tests hand them the toy's. In SD3's single files diffusers
puts the identity in the place of CLIP-L's projection, so the toy has it there.
"""

import shutil
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline, StableDiffusion3Pipeline
from diffusers.loaders import lora_pipeline
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection

from tests import tiny
from tests.edits.test_export import drawn, networks, parameters, stamped, stock
from unconcept.core.errors import EditError, ModelError
from unconcept.core.request import Ask
from unconcept.edits import DenseEdit, Edit, LowRankEdit, bake
from unconcept.edits.export import export
from unconcept.edits.imported import read_lora
from unconcept.evaluation.editing import make_edit
from unconcept.evaluation.requests import choose
from unconcept.models import open_model
from unconcept.models.mmdit import MMDiTView
from unconcept.models.places import places
from unconcept.models.stream import read, shapes

PIPELINES = {"sd3": StableDiffusion3Pipeline, "flux": FluxPipeline}
WIDTHS = {3072: 32, 12288: 128}  # FLUX's and the toy's
A_MATRIX = ("context_embedder.weight", "text_embedder.linear_1.weight", "blocks.0.attn.to_q.weight", "blocks.0.attn.to_v.weight")
MATRICES = (*A_MATRIX, "blocks.1.attn.add_k_proj.weight", "blocks.0.attn.add_k_proj.weight", "norm_out.linear.weight", "0.ff.net.0.proj.weight")
MORE = {"sd3": ("transformer_blocks.1.norm1_context.linear.weight", "0.attn2.to_k.weight"), "flux": ("single_transformer_blocks.0.proj_mlp.weight",)}


def toy_width(function: FunctionType) -> FunctionType:
    """The function with the toy's width for FLUX's, in the functions it holds too."""

    def narrowed(code: CodeType) -> CodeType:
        def swap(value: object) -> object:
            if isinstance(value, CodeType):
                return narrowed(value)
            return tuple(map(swap, value)) if isinstance(value, tuple) else WIDTHS.get(value, value) if isinstance(value, int) else value

        return code.replace(co_consts=tuple(map(swap, code.co_consts)))

    return FunctionType(narrowed(function.__code__), function.__globals__, function.__name__, function.__defaults__, function.__closure__)


@pytest.fixture(autouse=True)
def narrow_flux(monkeypatch) -> None:
    known = SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(known, "checkpoint_mapping_fn", toy_width(known["checkpoint_mapping_fn"]))
    monkeypatch.setattr(lora_pipeline, "_convert_kohya_flux_lora_to_diffusers", toy_width(_convert_kohya_flux_lora_to_diffusers))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model on disk. SD3's CLIPs differ in width: by it diffusers tells them apart in a single file."""

    @cache
    def of(family: str) -> Path:
        pipe, folder = tiny.pipeline(family), tmp_path_factory.mktemp(family) / "base"
        if family == "sd3":
            config = tiny.text_config(pipe.tokenizer_2, 48, "gelu")
            config.projection_dim = 32
            pipe.register_modules(text_encoder_2=CLIPTextModelWithProjection(config))
            torch.nn.init.eye_(pipe.text_encoder.text_projection.weight)
        pipe.save_pretrained(folder)
        return folder

    return of


def matrices(folder: Path, family: str) -> list[str]:
    there = parameters(folder, "transformer")
    return sorted(name for name in there if name.endswith((*MATRICES, *MORE[family])))


def text_edit(folder: Path, family: str) -> Edit:
    chosen = choose(Ask(("dog face", "car"), ("goat",), ("cat",)), "tiny")
    return make_edit(open_model(str(folder), "cpu", "float32"), chosen, "uce", {})


def low_rank(folder: Path, family: str) -> Edit:
    """Ranks differ; of queries, keys and values only some are changed, and a map of the text encoder."""
    there, pairs = parameters(folder, "transformer", "text_encoder"), {}
    encoder = next(name for name in there if name.startswith("text_encoder.") and name.endswith("layers.0.mlp.fc1.weight"))
    for i, name in enumerate([*matrices(folder, family), encoder]):
        o, d = there[name].shape
        pairs[name] = drawn(torch.Size((o, 1 + i % 3)), i), drawn(torch.Size((1 + i % 3, d)), i + 99)
    return stamped(LowRankEdit(pairs), folder)


def dense(folder: Path, family: str) -> Edit:
    """Weights, biases, norms and tables of every network but the VAE."""
    parts = sorted(path.name for path in folder.iterdir() if path.name.startswith(("transformer", "text_encoder")))
    there = parameters(folder, *parts)
    names = [*matrices(folder, family), "transformer.norm_out.linear.bias", "transformer.transformer_blocks.0.attn.add_q_proj.bias"]
    names += ["transformer.transformer_blocks.0.attn.norm_q.weight", *(["transformer.pos_embed.pos_embed"] if family == "sd3" else [])]
    names += [next(name for name in there if name.startswith(f"{part}.") and name.endswith(("v_proj.weight", "SelfAttention.v.weight"))) for part in parts[:-1]]
    return stamped(DenseEdit({name: drawn(there[name].shape, i) for i, name in enumerate(names)}), folder)


def transformers_own(edit: Edit, folder: Path) -> Edit:
    """What an edit changes of the transformer: CLIPs go by other names in folders that transformers 5 wrote."""
    there = parameters(folder, "transformer")
    return stamped(DenseEdit({name: edit.delta(name, there[name]) for name in edit.names if name in there}), folder)


MAKERS = [text_edit, low_rank, dense]
EACH = pytest.mark.parametrize("family", tiny.MMDITS)


def exported(edit: Edit, folder: Path, to: str, place: Path, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    export(edit, folder, to, place, dtype)
    return load_file(place)


def single(folder: Path, place: Path, family: str) -> Path:
    """The folder's weights in one file, its configs alone in the folder of that name beside it."""
    place.mkdir(parents=True, exist_ok=True)
    export(text_edit(folder, family).scaled(0.0), folder, "single-file", place / "m.safetensors")
    shutil.copytree(folder, place / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    return place / "m.safetensors"


def picture(pipe: DiffusionPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # diffusers leaves T5 in training
    view = MMDiTView.from_pipeline(pipe.to(dtype=torch.float32))
    return view.sample(["a dog"], torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0)), 2, 3.0)


@EACH
@pytest.mark.parametrize("make", MAKERS)
def test_diffusers_reads_the_single_file_as_the_baked_folder(family, make, base, tmp_path) -> None:
    folder = base(family)
    edit = make(folder, family)
    export(edit, folder, "single-file", tmp_path / "m.safetensors")
    bake(edit, folder, tmp_path / "baked")
    read_back = PIPELINES[family].from_single_file(str(tmp_path / "m.safetensors"), config=str(folder), local_files_only=True)
    found, wanted = networks(read_back), networks(stock(tmp_path / "baked"))
    assert {name for name in found if not name.endswith("encoder.embed_tokens.weight")} == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    torch.testing.assert_close(picture(read_back), picture(stock(tmp_path / "baked")), rtol=0, atol=1e-5)


@EACH
def test_a_single_file_is_a_model(family, base, tmp_path) -> None:
    """Names, shapes and bits are the folder's; nothing is built to edit it; the edited file is what is exported of the edited folder; the pictures agree."""
    folder = base(family)
    file = single(folder, tmp_path, family)
    for part in sorted(path.name for path in folder.iterdir() if path.name.startswith(("transformer", "text_encoder"))):
        known, wanted = places(file, part), places(folder, part)
        ours = {name.removeprefix("text_model."): name for name in known if name != "encoder.embed_tokens.weight"}
        theirs = {name.removeprefix("text_model."): name for name in wanted if not name.endswith("position_ids")}
        assert ours.keys() == theirs.keys()
        assert all(shapes(known)[ours[name]] == shapes(wanted)[theirs[name]] for name in ours)
        found, there = read(known, known), read(wanted, wanted)
        assert all(torch.equal(found[ours[name]], there[theirs[name]]) for name in ours)
    view = open_model(str(file), "cpu", "float32")
    edit = text_edit(folder, family)
    again = make_edit(view, choose(Ask(("dog face", "car"), ("goat",), ("cat",)), "tiny"), "uce", {})
    assert (view.family, view.pipeline, again.origin.base_hash) == (family, None, edit.origin.base_hash)
    for make in MAKERS:
        changed = transformers_own(make(folder, family), folder)
        bake(changed, file, tmp_path / f"{make.__name__}.safetensors")
        patched, wanted = (
            load_file(tmp_path / f"{make.__name__}.safetensors"),
            exported(changed, folder, "single-file", tmp_path / f"w-{make.__name__}.safetensors"),
        )
        assert patched.keys() == wanted.keys()
        assert [name for name in wanted if not torch.equal(patched[name], wanted[name])] == []
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    other = open_model(str(folder), "cpu", "float32")
    torch.testing.assert_close(view.sample(["a dog"], noise, 2, 3.0), other.sample(["a dog"], noise, 2, 3.0), rtol=0, atol=1e-5)


def test_flux_as_it_is_published(base, tmp_path) -> None:
    """The transformer alone, without a prefix; text encoders and VAE stand in the folder of its configs."""
    folder = base("flux")
    file = single(folder, tmp_path, "flux")
    own = {name.removeprefix("model.diffusion_model."): t for name, t in load_file(file).items() if name.startswith("model.diffusion_model.")}
    shutil.rmtree(tmp_path / "m")
    shutil.copytree(folder, tmp_path / "m", ignore=lambda where, names: [n for n in names if where.endswith("transformer") and n.endswith(".safetensors")])
    save_file(own, file)
    view, other = open_model(str(file), "cpu", "float32"), open_model(str(folder), "cpu", "float32")
    torch.testing.assert_close(view.embed(["a dog", ""]), other.embed(["a dog", ""]), rtol=0, atol=1e-6)
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(view.sample(["a dog"], noise, 2, 3.0), other.sample(["a dog"], noise, 2, 3.0), rtol=0, atol=1e-5)
    shutil.rmtree(tmp_path / "m/text_encoder_2")
    with pytest.raises(ModelError, match="text_encoder_2"):
        open_model(str(file), "cpu", "float32")


@EACH
@pytest.mark.parametrize("make", MAKERS)
def test_comfyui_patch_added_to_the_single_file_is_the_edited_one(family, make, base, tmp_path) -> None:
    """`.diff` and `.diff_b` are added to the tensor of that name; exact, and no key is left over."""
    folder = base(family)
    edit = make(folder, family)
    before, after = (exported(edit.scaled(s), folder, "single-file", tmp_path / f"{s}.safetensors") for s in (0.0, 1.0))
    patched = dict(before)
    for key, diff in exported(edit, folder, "comfyui", tmp_path / "c.safetensors").items():
        stem, _, kind = key.rpartition(".")
        name = next(n for n in (f"{stem}.{'bias' if kind == 'diff_b' else 'weight'}", stem) if f"model.{n}" in before or n in before)
        name = f"model.{name}" if name.startswith("diffusion_model.") else name
        patched[name] = before[name] + diff
    assert [name for name in after if not torch.equal(patched[name], after[name])] == []
    assert [name for name in after if not torch.equal(before[name], after[name])]


@EACH
@pytest.mark.parametrize("make", MAKERS[:2])
def test_kohya_lora_added_to_the_single_file_is_the_edited_one(family, make, base, tmp_path) -> None:
    """As ComfyUI, Forge and kohya add it: the network's own name with underscores."""
    folder = base(family)
    edit = make(folder, family)
    before, after = (exported(edit.scaled(s), folder, "single-file", tmp_path / f"{s}.safetensors") for s in (0.0, 1.0))
    flat = {f"lora_unet_{n.removeprefix('model.diffusion_model.').removesuffix('.weight').replace('.', '_')}": n for n in before if n.endswith(".weight")}
    start = "text_encoders.clip_l.transformer."
    flat |= {f"lora_te1_{n.removeprefix(start).removesuffix('.weight').replace('.', '_')}": n for n in before if n.startswith(start)}
    lora = exported(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float32)
    patched = dict(before)
    for module in {key.partition(".")[0] for key in lora}:
        up, down, alpha = (lora[f"{module}.{end}"] for end in ("lora_up.weight", "lora_down.weight", "alpha"))
        patched[flat[module]] = before[flat[module]] + alpha / down.shape[0] * (up @ down)
    for name in after:
        torch.testing.assert_close(patched[name], after[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("make", MAKERS[:2])
def test_diffusers_own_converter_reads_flux_kohya(make, base, tmp_path) -> None:
    """Every pair is the one that was meant. It leaves `transformer.` out before maps outside of the blocks, and its loader then loses those."""
    folder = base("flux")
    edit = make(folder, "flux")
    there = parameters(folder, "transformer", "text_encoder")
    read_back = lora_pipeline._convert_kohya_flux_lora_to_diffusers(exported(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float32))
    deltas = {}
    for key, down in read_back.items():
        if key.endswith(("lora_A.weight", ".down.weight")):
            up = read_back[key.replace("lora_A.", "lora_B.").replace(".down.", ".up.")]
            stem = key.replace(".lora_A.weight", "").replace(".lora_linear_layer.down.weight", "").replace("text_model.", "")
            deltas[stem if stem.startswith(("transformer.", "text_encoder.")) else f"transformer.{stem}"] = up @ down
    names = {name.removesuffix(".weight").replace("text_model.", ""): name for name in edit.names}
    assert names.keys() <= deltas.keys()
    for stem, delta in deltas.items():
        name = names.get(stem)
        wanted = edit.delta(name, there[name]) if name else torch.zeros_like(delta)
        torch.testing.assert_close(delta, wanted.float(), rtol=0, atol=2e-6)


def test_diffusers_loads_a_flux_lora(base, tmp_path) -> None:
    """Into the live pipeline, maps of the blocks: each weight is the edited one, and so is the picture."""
    folder = base("flux")
    pairs = {name: pair for name, pair in low_rank(folder, "flux").pairs.items() if "blocks." in name}
    edit = stamped(LowRankEdit(pairs), folder)
    export(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float32)
    pipe = stock(folder)
    before = {name: p.clone() for name, p in networks(pipe).items()}
    pipe.load_lora_weights(tmp_path / "l.safetensors", local_files_only=True)
    pipe.fuse_lora(components=["transformer"])
    pipe.unload_lora_weights()
    for name, after in networks(pipe).items():
        wanted = before[name] + edit.delta(name, before[name]) if name in edit.names else before[name]
        torch.testing.assert_close(after, wanted, rtol=0, atol=2e-6)
    bake(edit, folder, tmp_path / "baked")
    torch.testing.assert_close(picture(pipe), picture(stock(tmp_path / "baked")), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks transformers for it.
@EACH
def test_peft_folder(family, base, tmp_path) -> None:
    folder = base(family)
    edit = text_edit(folder, family)
    export(edit, folder, "peft", tmp_path / "p", torch.float32)
    pipe = stock(folder)
    before = {name: p.clone() for name, p in networks(pipe).items()}
    merged = PeftModel.from_pretrained(pipe.transformer, tmp_path / "p").merge_and_unload()
    for name, after in merged.named_parameters():
        full = f"transformer.{name}"
        wanted = before[full] + edit.delta(full, before[full]) if full in edit.names else before[full]
        torch.testing.assert_close(after, wanted, rtol=0, atol=1e-6)


@EACH
def test_diffusers_folder_in_another_dtype(family, base, tmp_path) -> None:
    folder = base(family)
    edit = dense(folder, family)
    export(edit, folder, "diffusers", tmp_path / "half", torch.float16)
    before = parameters(folder, "transformer", "text_encoder", "vae")
    for name, tensor in parameters(tmp_path / "half", "transformer", "text_encoder", "vae").items():
        wanted = before[name] + edit.delta(name, before[name]) if name in edit.names else before[name]
        assert torch.equal(tensor, wanted.half()), name
    assert picture(stock(tmp_path / "half")).isfinite().all()


@EACH
@pytest.mark.parametrize(("to", "make"), [("kohya", low_rank), ("kohya", text_edit), ("peft", low_rank), ("comfyui", dense)])
def test_what_was_exported_is_imported(family, to, make, base, tmp_path) -> None:
    """A map that the original has in one piece comes back as those of ours that it was made of; the others' change is nothing."""
    folder = base(family)
    edit, place = make(folder, family), tmp_path / ("p" if to == "peft" else "l.safetensors")
    if isinstance(edit, DenseEdit):
        edit = stamped(DenseEdit({name: delta for name, delta in edit.deltas.items() if not name.endswith("pos_embed.pos_embed")}), folder)
    export(edit, folder, to, place, torch.float32)
    there, again = parameters(folder, *(p.name for p in folder.iterdir() if p.name.startswith(("transformer", "text_enc")))), read_lora(place, folder)
    assert set(edit.names) <= set(again.names)
    for name in again.names:
        wanted = edit.delta(name, there[name]) if name in edit.names else torch.zeros_like(there[name])
        torch.testing.assert_close(again.delta(name, there[name]), wanted.float(), rtol=0, atol=2e-6)


@EACH
def test_what_has_no_place_is_refused(family, base, tmp_path) -> None:
    """Neither in an export nor in an import is a key left out in silence."""
    folder = tmp_path / "m"
    shutil.copytree(base(family), folder)
    (file,) = (folder / "transformer").glob("*.safetensors")
    whole = load_file(file)
    edit = text_edit(base(family), family)
    save_file(whole | {"transformer_blocks.0.attn.novelty.weight": torch.ones(2)}, file)
    with pytest.raises(ModelError, match=r"novelty\.weight has no name in the original layout"):
        export(edit, folder, "single-file", tmp_path / "o.safetensors")
    save_file({name: t for name, t in whole.items() if not name.endswith("blocks.0.attn.to_q.bias")}, file)
    with pytest.raises(ModelError, match="parts, of which"):
        export(edit, folder, "single-file", tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()
    lora = exported(edit, base(family), "kohya", tmp_path / "l.safetensors")
    save_file({key.replace("lora_unet_", "lora_unet_x_"): t for key, t in lora.items()}, tmp_path / "x.safetensors")
    with pytest.raises(EditError, match="are not in base, the first is lora_unet_x_"):
        read_lora(tmp_path / "x.safetensors", base(family))
