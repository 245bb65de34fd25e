"""SD3 and FLUX as LoRAs and patches: added as diffusers, PEFT, kohya and ComfyUI add them they give the edited model,
and come back as they went.
"""

import pytest
import torch
from diffusers.loaders import lora_pipeline
from peft import PeftModel

from tests.edits.mmdit_toys import EACH, MAKERS, dense, exported, low_rank, picture, text_edit
from tests.edits.test_export import networks, parameters, stamped, stock
from unconcept.edits import DenseEdit, LowRankEdit
from unconcept.edits.export.bake import bake
from unconcept.edits.export.export import export_edit
from unconcept.edits.export.foreign import read_foreign_edit
from unconcept.models.families import families

pytestmark = pytest.mark.usefixtures("narrow_flux")


@EACH
@pytest.mark.parametrize("make", MAKERS)
def test_comfyui_patch_added_to_the_single_file_is_the_edited_one(family, make, mmdit_base, tmp_path) -> None:
    """`.diff` and `.diff_b` are added to the tensor of that name; exact, and no key is left over."""
    folder = mmdit_base(family)
    edit = make(folder, family)
    before, after = (exported(edit.scaled(s), folder, "single-file", tmp_path / f"{s}.safetensors") for s in (0.0, 1.0))
    patched = dict(before)
    for key, diff in exported(edit, folder, "comfyui", tmp_path / "c.safetensors").items():
        stem, _, kind = key.rpartition(".")
        name = next(
            n
            for n in (f"{stem}.{'bias' if kind == 'diff_b' else 'weight'}", stem)
            if f"model.{n}" in before or n in before
        )
        name = f"model.{name}" if name.startswith("diffusion_model.") else name
        patched[name] = before[name] + diff
    assert [name for name in after if not torch.equal(patched[name], after[name])] == []
    assert [name for name in after if not torch.equal(before[name], after[name])]


@EACH
@pytest.mark.parametrize("make", MAKERS[:2])
def test_kohya_lora_added_to_the_single_file_is_the_edited_one(family, make, mmdit_base, tmp_path) -> None:
    """As ComfyUI, Forge and kohya add it: the network's own name with underscores."""
    folder = mmdit_base(family)
    edit = make(folder, family)
    before, after = (exported(edit.scaled(s), folder, "single-file", tmp_path / f"{s}.safetensors") for s in (0.0, 1.0))
    flat = {
        f"lora_unet_{n.removeprefix('model.diffusion_model.').removesuffix('.weight').replace('.', '_')}": n
        for n in before
        if n.endswith(".weight")
    }
    start = families[family].encoders[0].single_file
    flat |= {
        f"lora_te1_{n.removeprefix(start).removesuffix('.weight').replace('.', '_')}": n
        for n in before
        if n.startswith(start)
    }
    lora = exported(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float32)
    patched = dict(before)
    for module in {key.partition(".")[0] for key in lora}:
        up, down, alpha = (lora[f"{module}.{end}"] for end in ("lora_up.weight", "lora_down.weight", "alpha"))
        patched[flat[module]] = before[flat[module]] + alpha / down.shape[0] * (up @ down)
    for name in after:
        torch.testing.assert_close(patched[name], after[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("make", MAKERS[:2])
def test_diffusers_own_converter_reads_flux_kohya(make, mmdit_base, tmp_path) -> None:
    """Every pair is the one that was meant.

    It leaves `transformer.` out before maps outside of the blocks, and its loader then loses those.
    """
    folder = mmdit_base("flux")
    edit = make(folder, "flux")
    there = parameters(folder, "transformer", "text_encoder")
    read_back = lora_pipeline._convert_kohya_flux_lora_to_diffusers(
        exported(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float32)
    )
    deltas = {}
    for key, down in read_back.items():
        if key.endswith(("lora_A.weight", ".down.weight")):
            up = read_back[key.replace("lora_A.", "lora_B.").replace(".down.", ".up.")]
            stem = (
                key.replace(".lora_A.weight", "")
                .replace(".lora_linear_layer.down.weight", "")
                .replace("text_model.", "")
            )
            deltas[stem if stem.startswith(("transformer.", "text_encoder.")) else f"transformer.{stem}"] = up @ down
    names = {name.removesuffix(".weight").replace("text_model.", ""): name for name in edit.names}
    assert names.keys() <= deltas.keys()
    for stem, delta in deltas.items():
        name = names.get(stem)
        wanted = edit.delta(name, there[name]) if name else torch.zeros_like(delta)
        torch.testing.assert_close(delta, wanted.float(), rtol=0, atol=2e-6)


def test_diffusers_loads_a_flux_lora(mmdit_base, tmp_path) -> None:
    """Into the live pipeline, maps of the blocks: each weight is the edited one, and so is the picture."""
    folder = mmdit_base("flux")
    pairs = {name: pair for name, pair in low_rank(folder, "flux").pairs.items() if "blocks." in name}
    edit = stamped(LowRankEdit(pairs), folder)
    export_edit(edit, folder, "kohya", tmp_path / "l.safetensors", torch.float32)
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


# PEFT asks transformers for it.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@EACH
def test_peft_folder(family, mmdit_base, tmp_path) -> None:
    folder = mmdit_base(family)
    edit = text_edit(folder, family)
    export_edit(edit, folder, "peft", tmp_path / "p", torch.float32)
    pipe = stock(folder)
    before = {name: p.clone() for name, p in networks(pipe).items()}
    merged = PeftModel.from_pretrained(pipe.transformer, tmp_path / "p").merge_and_unload()
    for name, after in merged.named_parameters():
        full = f"transformer.{name}"
        wanted = before[full] + edit.delta(full, before[full]) if full in edit.names else before[full]
        torch.testing.assert_close(after, wanted, rtol=0, atol=1e-6)


@EACH
@pytest.mark.parametrize(
    ("to", "make"), [("kohya", low_rank), ("kohya", text_edit), ("peft", low_rank), ("comfyui", dense)]
)
def test_what_was_exported_is_imported(family, to, make, mmdit_base, tmp_path) -> None:
    """A map that the original has in one piece comes back as those of ours that it was made of; the others' change is
    nothing.
    """
    folder = mmdit_base(family)
    edit, place = make(folder, family), tmp_path / ("p" if to == "peft" else "l.safetensors")
    if isinstance(edit, DenseEdit):
        edit = stamped(
            DenseEdit({name: delta for name, delta in edit.deltas.items() if not name.endswith("pos_embed.pos_embed")}),
            folder,
        )
    export_edit(edit, folder, to, place, torch.float32)
    there, again = (
        parameters(folder, *(p.name for p in folder.iterdir() if p.name.startswith(("transformer", "text_enc")))),
        read_foreign_edit(place, folder).edit,
    )
    assert set(edit.names) <= set(again.names)
    for name in again.names:
        wanted = edit.delta(name, there[name]) if name in edit.names else torch.zeros_like(there[name])
        torch.testing.assert_close(again.delta(name, there[name]), wanted.float(), rtol=0, atol=2e-6)
