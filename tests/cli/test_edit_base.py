"""Commands that are given an edit and no model use the model that the edit was made for, or say what is missing."""

import atexit
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.cli.test_cli import run
from unconcept import UCE, Concept, Request, erase, open_model
from unconcept.core.errors import EditError, SettingsError
from unconcept.core.output_lock import own_command
from unconcept.core.recipe import without_folders
from unconcept.edits import edit_file, load_edit, origin_of
from unconcept.jobs import command_options, edit_base
from unconcept.jobs.command_options import AttackOptions, BenchOptions, EvaluateOptions
from unconcept.jobs.edit_base import base_of_edits
from unconcept.jobs.evaluate import plan_attack, plan_bench, plan_evaluation
from unconcept.jobs.evaluate_job import with_base
from unconcept.jobs.keywords import _on_disk
from unconcept.report.environment import command_line

TAKE_EDITS = {
    "ApplyOptions": ("apply", "{edit}", "--out", "{out}"),
    "ExportOptions": ("export", "{edit}", "--to", "kohya", "--out", "{out}.safetensors"),
    "SamplingOptions": ("sample", "a dog", "--edit", "{edit}", "--steps", 1, "--quiet", "--out", "{out}"),
    "InvertOptions": ("invert", "{picture}", "--edit", "{edit}", "--steps", 1, "--out", "{out}"),
    "EvaluateOptions": ("evaluate", "dog", "--edit", "{edit}", "--out", "{out}"),
    "BenchOptions": ("bench", "dog", "--methods", "uce", "--edit", "{edit}", "--out", "{out}"),
    "AttackOptions": ("attack", "p4d", "dog", "--edit", "{edit}", "--out", "{out}"),
}


def words_of(name: str, edit: Path, out: Path) -> list[str]:
    picture = Path(tempfile.gettempdir()) / f"tiny-{os.getpid()}.png"
    if name == "InvertOptions" and not picture.exists():
        Image.new("RGB", (16, 16), "red").save(picture)
        atexit.register(picture.unlink)
    return [str(word).format(edit=edit, out=out, picture=picture) for word in TAKE_EDITS[name]]


def command(name: str, edit: Path, out: Path):
    return run(*words_of(name, edit, out))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The output of an erasure from a local model, whose folder is named like the embedded one."""
    root = tmp_path_factory.mktemp("made")
    model = tiny.folder("sd1", root / "moji")
    result = run("erase", "dog", "--anchor", "cat", "--model", model, "--no-report", "--quiet", "--out", root / "dog")
    assert result.exit_code == 0, result.stderr
    return root / "dog"


@pytest.fixture(autouse=True)
def no_base_is_remembered(tmp_path_factory, monkeypatch) -> None:
    """Tiny models of other tests have the same weights, and their folders may be in the store."""
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path_factory.mktemp("store")))


@pytest.fixture
def alone(made, tmp_path) -> Path:
    """The edit without the files beside it."""
    return Path(shutil.copy(made / "edit.safetensors", tmp_path / "alone.safetensors"))


def test_every_command_that_takes_an_edit_is_here() -> None:
    """None of them has the embedded model as its default; `recheck` is about other models and asks for one."""
    options = {name: kind for name, kind in vars(command_options).items() if name.endswith("Options")}
    taking = {
        name: kind
        for name, kind in options.items()
        if kind.__module__ == command_options.__name__ and {"edit", "edits"} & {field.name for field in fields(kind)}
    }
    found = {
        name: kind for name, kind in taking.items() if not any(kind in other.__mro__[1:] for other in taking.values())
    }
    assert found.pop("RecheckOptions").models == ()
    assert set(found) == set(TAKE_EDITS)
    assert all(kind.model is None for kind in found.values())


@pytest.mark.parametrize("name", ["ApplyOptions", "ExportOptions", "SamplingOptions"])
def test_a_local_base_is_found_through_the_run(name, made, tmp_path, monkeypatch) -> None:
    """From any working directory."""
    monkeypatch.chdir(tmp_path)
    result = command(name, made / "edit.safetensors", tmp_path / "out")
    assert result.exit_code == 0, result.stderr


def test_what_judges_finds_a_local_base_too(made) -> None:
    edit, told = made / "edit.safetensors", {"concepts": "dog", "out": Path("o")}
    for planned in (
        plan_evaluation(EvaluateOptions(edits=edit, **told)),
        plan_attack(AttackOptions(name="p4d", edits=edit, **told)),
        plan_bench(BenchOptions(methods="uce", edits=edit, **told)),
    ):
        assert with_base(planned).model == str(made.parent / "moji")


@pytest.mark.parametrize("name", TAKE_EDITS)
def test_an_edit_alone_says_what_its_base_is(name, alone, tmp_path) -> None:
    """Though its base is named as the embedded model is, that one is never taken in its place."""
    result = command(name, alone, tmp_path / "out")
    made = origin_of(load_edit(alone))
    assert result.exit_code == 2
    assert f"give --model; its base is moji, hash {made.base_hash[:12]}" in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [alone.name]


SLOW = {"AttackOptions": "wordings", "BenchOptions": "uce"}  # with what they attack or erase


@pytest.mark.parametrize(
    "name", [name if name not in SLOW else pytest.param(name, marks=pytest.mark.slow) for name in TAKE_EDITS]
)
def test_an_edit_is_read_once(name, made, tmp_path, monkeypatch) -> None:
    """A large one takes seconds each time, and memory each time that it is held twice."""
    reads, read = [], edit_file.read_edit_file
    monkeypatch.setattr(edit_file, "read_edit_file", lambda path: reads.append(path) or read(path))
    edit = shutil.copytree(made, tmp_path / "dog") / "edit.safetensors"
    words = words_of(name, edit, tmp_path / "out")
    if name in {"EvaluateOptions", *SLOW}:
        words = [SLOW[name] if word == "p4d" else word for word in words] + ["--limit", 1, "--workers", 1]
    if name in SLOW:
        words += ["--judge", f"clip-score={tiny.clip_folder(tmp_path / 'clip')}"]
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert edit in reads
    assert set(Counter(reads).values()) == {1}


def test_a_base_that_has_changed_is_not_taken(made, tmp_path) -> None:
    shutil.copytree(made.parent, tmp_path / "copy")
    run_json = tmp_path / "copy/dog/run.json"
    run_json.write_text(run_json.read_text().replace(str(made.parent), str(tmp_path / "copy")))
    edit = tmp_path / "copy/dog/edit.safetensors"
    assert base_of_edits([edit]) == str(tmp_path / "copy/moji")
    (file,) = (tmp_path / "copy/moji/unet").glob("*.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(EditError, match="give --model"):
        base_of_edits([edit])
    shutil.rmtree(tmp_path / "copy/moji")
    for text in ("[]", "{", '{"base": 3}', '{"base": "/nowhere"}'):
        run_json.write_text(text)
        with pytest.raises(EditError, match="give --model"):
            base_of_edits([edit])


def test_what_is_made_to_be_published_finds_its_base_on_this_machine(made, tmp_path, monkeypatch) -> None:
    """A release of a ledger and an imported edit: no file of theirs names a folder, the store of this machine does."""
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    base, book, out = made.parent / "moji", tmp_path / "book", tmp_path / "out"
    for words in (
        ("ledger", "init", book, "--model", base),
        ("ledger", "add", book, "car", "--anchor", "bus", "--quiet"),
        ("ledger", "materialize", book, "--out", out, "--quiet"),
        ("export", made / "edit.safetensors", "--to", "kohya", "--out", tmp_path / "k.safetensors"),
        ("import", tmp_path / "k.safetensors", "dog", "--model", base, "--out", out / "imported.safetensors"),
    ):
        result = run(*words)
        assert result.exit_code == 0, result.stderr
    for path in out.rglob("*"):
        assert path.is_dir() or str(tmp_path.parent).encode() not in path.read_bytes(), path
    released = [Path(shutil.copy(path, tmp_path / path.name)) for path in out.glob("*.safetensors")]
    for path in released:
        assert base_of_edits([path]) == str(base)
    shutil.rmtree(tmp_path / "store/bases")
    with pytest.raises(EditError, match="give --model; its base is moji, hash"):
        base_of_edits([released[0]])


def test_a_header_leads_nowhere(tmp_path, monkeypatch) -> None:
    """The hash in a header is the name of a file in the store, and no path."""
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    for name in ("../../x", "/etc/passwd", "a" * 64):
        assert edit_base._remembered(name).resolve().parent == tmp_path / "store/bases"


def test_headers_name_embedded_models_and_hub_ids(made, tmp_path) -> None:
    dog = tmp_path / "dog"
    assert run("erase", "guitar", "--no-report", "--quiet", "--out", dog).exit_code == 0
    own = shutil.copy(dog / "edit.safetensors", tmp_path / "own.safetensors")
    assert base_of_edits([own]) == "moji"
    first = load_edit(made / "edit.safetensors")
    first.stamped(replace(origin_of(first), base="owner/name")).save(tmp_path / "hub.safetensors")
    assert base_of_edits([tmp_path / "hub.safetensors"]) == "owner/name"
    assert base_of_edits([own], "other") == "other"
    assert base_of_edits([]) == "moji"
    with pytest.raises(EditError, match=r"different models: .*own.safetensors is for moji, .* is for owner/name"):
        base_of_edits([own, tmp_path / "hub.safetensors"])


def test_an_edit_of_another_version_is_refused_in_one_line(tmp_path) -> None:
    assert run("erase", "guitar", "--no-report", "--quiet", "--out", tmp_path / "dog").exit_code == 0
    edit = load_edit(tmp_path / "dog/edit.safetensors")
    old = edit.stamped(replace(origin_of(edit), base="moji@0", base_hash="0" * 64))
    told = r"moji@0 is not in this package, which has moji@\d with other words and weights"
    with (
        pytest.raises(EditError, match=rf"^the edit was made for moji@0: {told}; make it anew$"),
        old.applied(open_model("moji", "cpu")),
    ):
        pass
    old.save(tmp_path / "old.safetensors")
    with pytest.raises(EditError, match=rf"give --model; its base is moji@0, hash 0+; .*{told}, so make the edit anew"):
        base_of_edits([tmp_path / "old.safetensors"])


def test_a_bench_and_edits_in_memory_know_their_base(made, tmp_path) -> None:
    (tmp_path / "edits").mkdir()
    shutil.copy(made / "run.json", tmp_path)
    edit = shutil.copy(made / "edit.safetensors", tmp_path / "edits/dog-uce.safetensors")
    assert base_of_edits([edit]) == str(made.parent / "moji")
    model = open_model(str(made.parent / "moji"), "cpu")
    fresh = UCE().erase(model, Request.of([Concept("dog", "object")], ("cat",), ()))
    with _on_disk({"edits": fresh}) as stored:
        assert base_of_edits(stored["edits"]) == str(made.parent / "moji")


@pytest.mark.slow
def test_what_is_published_names_no_folder(made, tmp_path) -> None:
    """The report's files, headers and exported files; run.json stays where it was made."""
    assert str(made.parent).encode() in (made / "run.json").read_bytes()
    home = str(tmp_path.parent.parent).encode()
    recipe = tmp_path / "own.toml"
    recipe.write_text('source = "own"\nmethod = "uce"\n')
    erase("cat", out=tmp_path / "cat", recipe=str(recipe), model=str(made.parent / "moji"), anchors="dog", limit=1)
    for to, name in (("diffusers", "m"), ("kohya", "k.safetensors"), ("peft", "p"), ("comfyui", "c.safetensors")):
        result = run("export", tmp_path / "cat/edit.safetensors", "--to", to, "--out", tmp_path / "cat" / name)
        assert result.exit_code == 0, result.stderr
    files = [path for path in (tmp_path / "cat").rglob("*") if path.is_file() and path.name != "run.json"]
    assert len(files) > 12
    assert [path.name for path in files if home in path.read_bytes()] == []


def test_settings_that_are_paths_keep_their_last_part() -> None:
    given = {"clip": "/a/b", "images": "", "prior": "/c/d.txt", "lamb": 0.5, "methods": {"slug": {"images": "/e/f"}}}
    assert without_folders(given) == {
        "clip": "b", "images": "", "prior": "d.txt", "lamb": 0.5, "methods": {"slug": {"images": "f"}}
    }  # fmt: skip


def test_the_command_on_a_page_names_no_folder(monkeypatch) -> None:
    typed = ["erase", "a dog", "--model", "/a/b/m.safetensors", "--set", "images=/c/d", "--out", "~/e/f", "--seed", "3"]
    monkeypatch.setattr("sys.argv", ["/bin/unconcept", *typed])
    assert command_line(with_folders=False) == (
        "unconcept erase 'a dog' --model m.safetensors --set images=d --out f --seed 3"
    )
    assert "--model /a/b/m.safetensors" in command_line()


def test_the_command_in_a_record_has_no_password(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/unconcept", "bench", "dog", "--store", "sftp://ada:p@ss@host:22/f"])
    assert command_line() == "unconcept bench dog --store sftp://host:22/f"
    assert own_command()[-1] == "sftp://host:22/f"


OPTIONS = [kind for name, kind in vars(command_options).items() if name.endswith("Options")]


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_group_of_a_command_is_checked(kind) -> None:
    """A command has several groups of options; the check of one does not hide another's."""
    names = {field.name for field in fields(kind)}
    needed = {"out": Path("o"), "edit": Path("e"), "edits": (), "name": "p4d", "source": Path("l"), "to": "kohya"}
    needed |= {"size": 1} if kind.__name__ == "WorstCaseOptions" else {}
    needed["picture"] = Path("p.png")
    given = {name: value for name, value in needed.items() if name in names}
    given |= {"recipe": "moji-uce"} if kind.__name__ == "ExplainOptions" else {}
    given |= {"concepts": "dog"} if "concepts" in names else {}
    if "config" in names:
        assert kind(**given, model="m.safetensors", config=Path("c")).model == "m.safetensors?config=c"
    if "seed" in names and kind.__name__ != "ExplainOptions":
        with pytest.raises(SettingsError, match="--seed"):
            kind(**given, seed=-1)


def test_where_nobody_judges_that_is_said_once_and_no_empty_table(made, tmp_path) -> None:
    """On stderr before drawing, as a message and not as a stage, and on stdout with what was found."""
    edit, said = made / "edit.safetensors", "not judged: this model has no judge of its own"
    words = (*words_of("EvaluateOptions", edit, tmp_path / "e"), "--suite", "smoke", "--limit", 1)
    model = ("--model", made.parent / "moji", "--limit", 1, "--out", tmp_path / "o")
    for command_words in (words, ("erase", "dog", "--anchor", "cat", *model)):
        result = run(*command_words)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.count(said) == 1
        (line,) = [line for line in result.stderr.splitlines() if said in line]
        assert not line.endswith("1/1")
        assert "┃" not in result.stdout
