"""Checkpoints with an edit in their weights: nothing built, nothing else touched, nothing left unedited in silence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.edits.test_export import base, text_map  # noqa: F401
from tests.models.test_single_file import single
from unconcept.core.errors import EditError
from unconcept.edits import load_edit
from unconcept.edits.export.bake import bake
from unconcept.edits.export.export import export_edit

UNET = "unet/diffusion_pytorch_model.safetensors"


def half(file: Path, variant: str, change: float = 0.0) -> Path:
    """A half precision copy beside a file."""
    copy = file.with_name(f"{file.name.removesuffix('.safetensors')}.{variant}.safetensors")
    save_file({name: (t + change).half() for name, t in load_file(file).items()}, copy, metadata={"format": "pt"})
    return copy


def differing(before: Path, after: Path) -> set[str]:
    old, new = load_file(before), load_file(after)
    assert {name: (t.dtype, t.shape) for name, t in old.items()} == {
        name: (t.dtype, t.shape) for name, t in new.items()
    }
    return {f"unet.{name}" for name in old if not torch.equal(old[name], new[name])}


def test_copies_of_the_same_weights_are_edited_and_others_left_out(tmp_path) -> None:
    """fp16 is a rounding of the base; the other variant, the pickle and the file at the top are unedited models."""
    folder = tiny.folder("sd1", tmp_path / "m")
    half(folder / UNET, "fp16")
    other = half(folder / UNET, "non_ema", 0.01)
    half(folder / "vae/diffusion_pytorch_model.safetensors", "fp16")
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"x")
    (folder / "whole.safetensors").write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / ".git/pack").write_bytes(b"x")
    edit = text_map(folder)
    left_out = bake(edit, folder, tmp_path / "b")
    assert left_out == ("unet/diffusion_pytorch_model.bin", f"unet/{other.name}", "whole.safetensors")
    there = {path.relative_to(tmp_path / "b").as_posix() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    all_files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == all_files - set(left_out) - {".git/pack"}
    for name in (UNET, UNET.replace(".safetensors", ".fp16.safetensors")):
        assert differing(folder / name, tmp_path / "b" / name) == set(edit.names)
    wide, narrow = (
        load_file(tmp_path / "b" / name) for name in (UNET, UNET.replace(".safetensors", ".fp16.safetensors"))
    )
    assert all(torch.allclose(wide[name], narrow[name].float(), rtol=2e-3, atol=3e-4) for name in wide)
    converted = export_edit(edit, folder, "diffusers", tmp_path / "h", torch.bfloat16)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in converted.left_out
    assert [path.name for path in (tmp_path / "h").rglob("*.safetensors") if path.parent.name == "unet"] == [
        "diffusion_pytorch_model.safetensors"
    ]


def test_shards_keep_their_index_and_untouched_files_their_bytes_on_disk(tmp_path) -> None:
    tiny.pipeline("sd1").to(dtype=torch.float16).save_pretrained(tmp_path / "m", max_shard_size="10KB", variant="fp16")
    folder = tmp_path / "m"
    (index,) = (folder / "unet").glob("*.index*.json")
    names = json.loads(index.read_text())["weight_map"]
    edit = text_map(folder)
    assert bake(edit, folder, tmp_path / "b") == ()
    assert (tmp_path / "b/unet" / index.name).read_bytes() == index.read_bytes()
    edited = {names[name.removeprefix("unet.")] for name in edit.names}
    assert edited < set(names.values())
    for file in sorted(folder.rglob("*.safetensors")):
        copy = tmp_path / "b" / file.relative_to(folder)
        if file.name in edited and file.parent.name == "unet":
            assert differing(file, copy) <= set(edit.names)
            assert not os.path.samefile(file, copy)
        else:
            assert copy.read_bytes() == file.read_bytes()
            assert copy.stat().st_ino == file.stat().st_ino or os.stat(copy).st_nlink == 1  # a hard link, or a reflink
    config = "unet/config.json"
    assert not os.path.samefile(folder / config, tmp_path / "b" / config)  # What is small may be written to later.


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_single_file_is_patched_as_its_folder_is(family, base, tmp_path) -> None:  # noqa: F811
    """The edit made from the file is the folder's, and every tensor of the patched file is that of the edited folder's
    export.
    """
    folder = base(family)
    file = single(folder, tmp_path / "s")
    edit, same = text_map(file), text_map(folder)
    assert (edit.hash, edit.origin.base_hash) == (same.hash, same.origin.base_hash)
    assert bake(edit, file, tmp_path / "b.safetensors") == ()
    export_edit(same, folder, "single-file", tmp_path / "w.safetensors")
    found, wanted = load_file(tmp_path / "b.safetensors"), load_file(tmp_path / "w.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert export_edit(edit, file, "kohya", tmp_path / "l.safetensors").error < 1e-6
    with pytest.raises(EditError, match="is a single file"):
        export_edit(edit, file, "single-file", tmp_path / "x.safetensors", torch.float16)


def test_a_running_mean_beside_the_network_is_refused(base, tmp_path) -> None:  # noqa: F811
    file = single(base("sd1"), tmp_path)
    edit = text_map(file)
    save_file(load_file(file) | {"model_ema.diffusion_modeltime_embed0weight": torch.zeros(1)}, file)
    with pytest.raises(EditError, match="would stay unedited: prune the file first"):
        bake(edit, file, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


RUN = """
import contextlib, resource, signal, sys
from unconcept.cli import app
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for words in {commands!r}:
    if words[0] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(words[1]), resource.RLIM_INFINITY))
        continue
    try:
        app(words)
    except SystemExit as stop:
        print(words[0], stop.code)
print(*[name for name in ("torch", "diffusers", "transformers") if name in sys.modules])
"""


def commanded(*commands: list[str]) -> tuple[list[str], str]:
    """Exit codes of commands in one fresh process, what heavy modules it held at the end,
    and what it said on stderr.
    """
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(commands=list(commands))], check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines(), done.stderr


def test_erase_and_apply_build_no_network_and_a_full_disk_harms_nothing(base, tmp_path) -> None:  # noqa: F811
    """Of a folder and of a single file."""
    sources = {"folder": tiny.folder("sd1", tmp_path / "s/m"), "file": single(base("sd1"), tmp_path / "s/f")}
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    room, no_room = [], []
    for kind, source in sources.items():
        end, made, model = source.suffix, tmp_path / kind, ["--model", str(source)]
        apply = ["apply", str(made / "edit.safetensors"), *model, "--out"]
        room.append(["erase", "dog", "--anchor", "cat", *model, "--no-report", "--quiet", "--out", str(made)])
        room.append([*apply, str(tmp_path / f"whole{end}")])
        no_room.append([*apply, str(tmp_path / f"cut{end}")])
    said, _ = commanded(*room, ["limit", "60000"], *no_room)
    assert said[-1] == "torch"
    codes = [line for line in said if line.split()[0] in ("erase", "apply")]
    assert codes == ["erase 0", "apply 0"] * 2 + ["apply 2"] * 2
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "s", "whole", "whole.safetensors"]
    for kind in sources:
        report = load_edit(tmp_path / kind / "edit.safetensors").origin.report
        assert report["residual of dog"] == pytest.approx(report["residual"])
