"""Every option and setting that names a file refuses a pipe at once: whoever reads one may wait for ever."""

import inspect
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny
from tests.cli.test_cli import run
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK
from unconcept.cli import app
from unconcept.core import Request
from unconcept.core.errors import UnconceptError
from unconcept.edits import load_edit
from unconcept.erasing.vision_towers import open_vision_towers
from unconcept.jobs.edit_base import base_of_edits
from unconcept.methods import MethodServices, methods

SECONDS = 30
REFUSED = r"is (a pipe, a socket or a device|a folder or a device|not a diffusers folder)"
OUTPUTS = {"out"}
NAMES = {"recipe": "r.toml", "model": "m.safetensors", "judge": "c", "method_judge": "c"}  # texts that may name a file
FLAGS = {
    "concepts_file": "--concepts",
    "edits": "--edit",
    "anchors": "--anchor",
    "source": "--from",
    "models": "--model",
}
BY_POSITION = {  # arguments of each command
    "erase": ("concepts",),
    "apply": ("edit",),
    "export": ("edit",),
    "import": ("source", "concepts"),
    "sample": ("prompts",),
    "invert": ("picture",),
    "evaluate": ("concepts",),
    "attack": ("name", "concepts"),
    "bench": ("concepts",),
    "explain": ("recipe",),
    "recheck": ("edit",),
    "worst-case": ("concepts",),
    "protect": ("pictures",),
}


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Whoever reads a pipe is interrupted."""

    def stop(number: int, frame: object) -> None:
        raise AssertionError("it waits for the pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a model and an edit of it."""
    folder = tmp_path_factory.mktemp("made")
    tiny.folder("sd1", folder / "m")
    Image.new("RGB", (16, 16)).save(folder / "picture.png")
    words = ("erase", "dog", "--anchor", "cat", "--no-report", "--quiet", "--model", folder / "m")
    assert run(*words, "--out", folder / "e").exit_code == 0
    return folder


def pipe(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def file_options() -> list[tuple[str, str]]:
    """Commands with their options that read a file, without those of `ledger`."""
    found = []
    for command in app.registered_commands:
        parameters = inspect.signature(command.callback).parameters
        for name, parameter in parameters.items():
            is_path = "Path" in str(parameter.annotation) and name not in OUTPUTS
            found += [(command.name, name)] if is_path or name in NAMES else []
    return found


def words_of(command: str, option: str, given: dict[str, object]) -> list[object]:
    words: list[object] = [command]
    for name in BY_POSITION[command]:
        value = given.pop(name, [])
        words += value if isinstance(value, list) else [value]
    for name, value in given.items():
        words += [FLAGS.get(name, f"--{name.replace('_', '-')}"), *([] if value is True else [value])]
    return words


@pytest.mark.parametrize(("command", "option"), file_options())
def test_an_option_that_names_a_file(command, option, made, tmp_path) -> None:
    edit, model = made / "e/edit.safetensors", made / "m"
    known = {
        "erase": {"concepts": "dog", "anchors": "cat", "retain": "cow", "model": model},
        "apply": {"edit": edit, "model": model},
        "export": {"edit": edit, "to": "kohya", "model": model},
        "import": {"source": edit, "concepts": "dog", "model": model},
        "sample": {"prompts": "a dog", "edits": edit, "model": model},
        "invert": {"picture": made / "picture.png", "model": model},
        "evaluate": {"concepts": "dog", "edits": edit, "model": model},
        "attack": {"name": "p4d", "concepts": "dog", "edits": edit, "model": model, "judge": "moji-judge"},
        "bench": {"concepts": "dog", "methods": "uce", "model": model},
        "worst-case": {"concepts": ["dog", "house"], "size": 1, "model": model, "judge": "moji-judge"},
        "explain": {"recipe": "moji-uce"},
        "protect": {"pictures": made / "picture.png", "model": model},
        "recheck": {"edit": edit, "models": str(model), "pictures": 1},
    }
    given: dict[str, object] = {**known[command], "out": tmp_path / "o.safetensors"}
    if command == "explain":
        del given["out"]
    file = pipe(tmp_path / NAMES.get(option, "f.txt"))
    given[option] = f"clip-score={file}" if option in ("judge", "method_judge") else file
    if option == "config":
        given["model"] = shutil.copy(model / "unet/diffusion_pytorch_model.safetensors", tmp_path / "w.safetensors")
    for other in {"found": ("prompts", "edits"), "concepts_file": ("concepts",)}.get(option, ()):
        given.pop(other, None)
    if option == "others":
        given |= {"prove": True, "features": "moji-judge-features"}
    if option == "method_judge":  # Debiasing always asks one, and takes no anchors.
        given = {name: value for name, value in given.items() if name != "anchors"} | {"method": "uce-debias"}
    result = run(*words_of(command, option, given))
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert str(file) in line
    assert not (tmp_path / "o.safetensors").exists()


FILES = {  # settings of methods that name a file, or a folder with one
    ("ace", "sc_clip_path"): "c.json",
    ("advunlearn", "dataset_retain"): "c.txt",
    ("ant", "prior"): "c.csv",
    ("concept-ablation", "anchor_prompts"): "c.txt",
    ("doco", "anchor_prompts"): "c.txt",
    ("eraseanything", "images"): "d/a.png",
    ("erasediff", "images"): "d/a.png",
    ("erasediff", "retain_prompts"): "c.txt",
    ("few-shot", "images"): "d/a.png",
    ("forget-me-not", "images"): "d/a.png",
    ("mace", "prior"): "c.jsonl",
    ("mace", "pictures_file"): "t.csv",
    ("realera", "prior"): "c.csv",
    ("salun", "images"): "d/a.png",
    ("salun", "retain_prompts"): "c.txt",
    ("scissorhands", "images"): "d/a.png",
    ("scissorhands", "retain_prompts"): "c.txt",
    ("slug", "clip"): "d/config.json",
    ("slug", "clip_2"): "d/config.json",
    ("slug", "images"): "d/a.png",
    ("trce", "prior"): "c.tsv",
}
TEXTS = {
    ("esd", "erase_from"),
    ("mace", "picture_prompt"),
    ("negative-prompt", "prefix"),
    ("sculpting-memory", "prompt"),
    ("sld", "prefix"),
    ("slug", "layer"),
    ("trce", "picture_prompt"),
}


def test_every_setting_that_is_a_text_is_told_apart() -> None:
    found = {(name, each.name) for name in methods for each in fields(methods[name].settings) if each.type is str}
    assert found == FILES.keys() | TEXTS


@pytest.mark.parametrize(("name", "setting"), FILES)
def test_a_setting_that_names_a_file(name, setting, tmp_path) -> None:
    file = tmp_path / FILES[name, setting]
    file.parent.mkdir(exist_ok=True)
    pipe(file)
    if setting == "images":
        pipe(file.with_name("b.png"))
    if setting.startswith("clip"):
        pipe(file.with_name("model.safetensors"))
    given = file if file.parent == tmp_path else file.parent
    family = "sdxl" if setting == "clip_2" else "sd1"
    view = tiny.view(family if family in methods[name].families else methods[name].families[0])
    services = planted_services(view)
    if setting.startswith("clip"):
        services = MethodServices(services.attribute_counter, services.presence_judge, open_vision_towers)
    more = {"clip": str(tiny.clip_folder(tmp_path / "sound"))} if setting == "clip_2" else {}
    if name == "ant":
        more = {"variant": "fusion"}
    settings = QUICK.get(name, {}) | more | {setting: str(given)}
    with pytest.raises(UnconceptError, match=REFUSED if setting != "clip_2" else "CLIP") as caught:
        methods[name].settings(**settings).erase(view, Request(("dog",), ("cat",), ("cow",)), services)
    assert "\n" not in str(caught.value)


def test_pictures_of_a_table_and_what_lies_beside_an_edit(made, tmp_path) -> None:
    pipe(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("target,picture,mask\ndog,a.png,\n")
    settings = QUICK["mace"] | {"pictures_file": str(tmp_path / "t.csv")}
    with pytest.raises(UnconceptError, match=REFUSED):
        methods["mace"].settings(**settings).erase(tiny.view("sd1"), Request(("dog",), ("cat",), ("cow",)))
    edit = Path(shutil.copy(made / "e/edit.safetensors", tmp_path / "edit.safetensors"))
    assert load_edit(edit).names
    pipe(tmp_path / "run.json")
    with pytest.raises(UnconceptError, match=REFUSED):
        base_of_edits([edit])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"])
def test_every_file_of_a_judge(name, made, tmp_path) -> None:
    folder = tiny.clip_folder(tmp_path / "clip")
    pipe(folder / name)
    words = ("evaluate", "dog", "--edit", made / "e/edit.safetensors", "--model", made / "m", "--suite", "smoke")
    result = run(*words, "--judge", f"clip-score={folder}", "--workers", 1, "--out", tmp_path / "o")
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert f"{name} is a pipe, a socket or a device" in line
    assert not (tmp_path / "o").exists()
