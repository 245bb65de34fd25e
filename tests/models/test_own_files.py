"""What only looks like a file of a model: pipes, devices and links out of its folder are refused before a read."""

import os
import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.test_bad_models import refused
from tests.edits.test_export import text_map
from unconcept.core import regular_files
from unconcept.core.errors import EditError, ModelError
from unconcept.core.regular_files import require_own_files
from unconcept.edits.export.bake import bake
from unconcept.edits.export.foreign import read_foreign_edit
from unconcept.models import find_model

WEIGHTS, CONFIG = "unet/diffusion_pytorch_model.safetensors", "unet/config.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return tiny.folder("sd1", tmp_path_factory.mktemp("sound") / "m")


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "in" / "m")


def replaced(path: Path, target: str | Path | None) -> None:
    """By a link, or by a pipe."""
    path.unlink(missing_ok=True)
    if target is None:
        os.mkfifo(path)
    else:
        path.symlink_to(target)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "model_index.json", "tokenizer/tokenizer.json", "notes/more.txt"])
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/dev/zero", "is a link out of its folder, to /dev/zero"),
        ("/etc/passwd", "is a link out of its folder, to /etc/passwd"),
        (None, "is a pipe, a socket or a device"),
    ],
)
def test_in_a_folder(name, target, said, folder) -> None:
    (folder / "notes").mkdir()
    replaced(folder / name, target)
    refused(
        folder.parent / "o", "erase", "dog", "--anchor", "cat", "--no-report", "--quiet", "--model", folder, said=said
    )


def test_every_command_that_opens_a_model(folder, tmp_path) -> None:
    """`apply` copies every file of the folder."""
    edit = text_map(folder)
    edit.save(tmp_path / "e.safetensors")
    replaced(folder / "notes.txt", "/etc/passwd")
    for words in (
        ("apply", tmp_path / "e.safetensors"),
        ("export", tmp_path / "e.safetensors", "--to", "diffusers"),
        ("sample", "a dog", "--steps", 1),
    ):
        refused(tmp_path / "out", *words, "--model", folder, said="notes.txt is a link out of its folder")
    with pytest.raises(ModelError, match="link out of its folder"):
        bake(edit, folder, tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_a_linked_folder_and_a_link_within(folder) -> None:
    """A link to another file of the model is legal, and so is a model's name that is itself a link."""
    (folder / "copy.json").symlink_to("model_index.json")
    named = folder.parent / "named"
    named.symlink_to(folder)
    assert find_model(str(named)) == named
    (folder / "unet").rename(folder.parent / "unet")
    (folder / "unet").symlink_to("../unet")
    with pytest.raises(ModelError, match="unet is a link out of its folder"):
        find_model(str(folder))


def test_a_snapshot_in_the_hub_cache(sound, tmp_path) -> None:
    """Its files are links to its own repository's blobs, and to no other's."""
    cache = tmp_path / "models--a--b"
    folder = shutil.copytree(sound, cache / "snapshots" / "0a1b")
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        path.rename(cache / "blobs" / str(number))
        path.symlink_to(os.path.relpath(cache / "blobs" / str(number), path.parent))
    assert find_model(str(folder)) == folder
    other = tmp_path / "models--a--c" / "blobs"
    other.mkdir(parents=True)
    (folder / "unet/config.json").unlink()
    (folder / "unet/config.json").symlink_to(other)
    with pytest.raises(ModelError, match=r"config\.json is a link out of its folder"):
        require_own_files(folder, ModelError)


def test_a_lora_that_is_a_pipe_or_holds_a_link(folder, tmp_path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/adapter_config.json").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "l.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for name, said in (
        ("p", "link out of its folder"),
        ("l.safetensors", "is a pipe"),
        ("zero.safetensors", "is a pipe, a socket or a device"),
    ):
        with pytest.raises(EditError, match=said):
            read_foreign_edit(tmp_path / name, folder)


def test_a_package_that_an_installer_has_linked(sound, tmp_path, monkeypatch) -> None:
    """Some installers fill a package with links to a cache of theirs."""
    installed, kept = tmp_path / "site" / "unconcept", tmp_path / "cache" / "unconcept"
    shutil.copytree(sound, kept / "m")
    (installed / "m").mkdir(parents=True)
    (installed / "m/model_index.json").symlink_to(kept / "m/model_index.json")
    with pytest.raises(ModelError, match="link out of its folder"):
        require_own_files(installed / "m", ModelError)
    monkeypatch.setattr(regular_files, "_PACKAGE", installed)
    monkeypatch.setattr(regular_files, "_PACKAGE_FILES", kept)
    require_own_files(installed / "m", ModelError)
    (installed / "m/other").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match="link out of its folder"):
        require_own_files(installed / "m", ModelError)
