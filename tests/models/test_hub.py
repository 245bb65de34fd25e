"""Hub ids are fetched when they are not in the cache: from a server on the loopback that speaks the Hub's protocol."""

import re
import shutil
import socket
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import save_file

from tests import tiny
from tests.cli.test_cli import run
from tests.models.hub_server import Hub, serve_hub
from unconcept import open_model
from unconcept.core.errors import ModelError
from unconcept.core.progress import report_downloads
from unconcept.edits import load_edit, origin_of
from unconcept.evaluation.judging.judge import Judge
from unconcept.models.checkpoint import hub as hub_module
from unconcept.models.checkpoint.hub import is_hub_id
from unconcept.models.checkpoint.model_card import base_id
from unconcept.models.loading import find_model, find_network

NAME = "owner/model"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A pipeline as people publish it: in two precisions, with pickles and with a single file at the top."""
    root = tmp_path_factory.mktemp("made")
    folder = tiny.folder("sd1", root / "model")
    (weights,) = (folder / "unet").glob("*.safetensors")
    shutil.copy(weights, weights.with_suffix(".fp16.safetensors"))
    for place in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin", "v1.safetensors", "v1.ckpt"):
        (folder / place).write_bytes(b"never fetched")
    (folder / "safety_checker").mkdir()
    save_file({}, folder / "safety_checker/model.safetensors")
    tiny.clip_folder(root / "clip")
    return root


@pytest.fixture
def hub(made, tmp_path, monkeypatch):
    with serve_hub() as server:
        server.add(NAME, made / "model")
        server.add("owner/clip", made / "clip", **{"pytorch_model.bin": b"never fetched"})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # as it was when the client was imported
        yield server


def test_only_what_is_read_is_fetched_and_only_once(hub: Hub, made) -> None:
    """Configs, vocabularies and one set of safetensors, with progress; then the cache serves, even without the Hub."""
    told: list[tuple[str, int, int]] = []
    with report_downloads(lambda *step: told.append(step)):
        view = open_model(NAME, "cpu", "float32")
    assert view.text_maps()
    assert sorted(hub.fetched) == [
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
        "text_encoder/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    assert [name.endswith(".safetensors") for name in hub.fetched] == [False] * 7 + [True] * 3
    assert {what for what, _, _ in told} == {f"fetch {NAME} (MB)"}
    assert told[0][1] == 0
    assert told[-1][1] == told[-1][2] > 0
    hub.fetched.clear()
    hub.repositories.clear()
    assert find_model(NAME).name == find_model(f"{NAME}@main").name
    assert hub.fetched == []


def test_an_interrupted_download_goes_on(hub: Hub) -> None:
    place = find_model(NAME)
    (weights,) = (place / "vae").glob("*.safetensors")
    weights.resolve().unlink()
    weights.unlink()
    hub.fetched.clear()
    find_model(NAME)
    assert hub.fetched == ["vae/diffusion_pytorch_model.safetensors"]


def test_a_revision_is_pinned(hub: Hub, made) -> None:
    """By branch, tag or commit, each of which has its own folder; the edit's header keeps it."""
    hub.add(NAME, made / "model", "v2", **{"unet/note.txt": b"two"})
    assert not (find_model(NAME) / "unet/note.txt").exists()
    place = find_model(f"{NAME}@v2")
    assert (place / "unet/note.txt").read_bytes() == b"two"
    assert find_model(f"{NAME}@{place.name}") == place


@pytest.mark.parametrize(
    ("name", "refusal", "said"),
    [
        ("owner/gated", (403, "GatedRepo"), "is gated: accept its terms on its page, then log in with `hf auth login`"),
        ("owner/private", (401, "RepoNotFound"), "is not on the Hub, or is private: check the name, or log in"),
        ("owner/none", None, "is not on the Hub, or is private"),
        ("owner/token", (401, ""), "is not on the Hub, or is private|answered 401"),
        ("owner/broken", (500, ""), "could not be fetched"),
        (f"{NAME}@v9", None, "has no revision 'v9'"),
        ("owner/clip", None, "is no diffusers pipeline or CLIP"),
    ],
)
def test_what_the_hub_refuses_is_one_line(name, refusal, said, hub: Hub, monkeypatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if refusal:
        hub.refused[name] = refusal
    with pytest.raises(ModelError, match=said) as raised:
        find_model(name)
    assert "\n" not in str(raised.value)


def test_pickles_are_refused_before_anything_is_fetched(hub: Hub, made, tmp_path) -> None:
    folder = shutil.copytree(made / "model", tmp_path / "pickled")
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()
    hub.add("owner/pickled", folder)
    with pytest.raises(ModelError, match=r"unet .*has only diffusion_pytorch_model.bin: pickled checkpoints can run"):
        find_model("owner/pickled")
    assert hub.fetched == ["model_index.json"]


def test_other_pipelines_are_refused_before_anything_is_fetched(hub: Hub, made) -> None:
    hub.add("owner/other", made / "model", **{"model_index.json": b'{"_class_name": "KandinskyPipeline"}'})
    with pytest.raises(ModelError, match="holds a KandinskyPipeline; supported are"):
        find_model("owner/other")
    assert hub.fetched == ["model_index.json"]


@pytest.mark.parametrize("how", ["closed", "silent"])
def test_no_network_is_one_line_at_once(how, hub: Hub, monkeypatch, tmp_path) -> None:
    """A port that nobody listens to, and one that never answers: no second try, no half minute."""
    monkeypatch.setattr(hub_module, "_ANSWER_SECONDS", 0.5)
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if how == "silent":
            port.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port.getsockname()[1]}")
        begun = time.monotonic()
        result = run("erase", "dog", "--anchor", "cat", "--model", NAME, "--no-report", "--out", tmp_path / "o")
    assert time.monotonic() - begun < 5
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert re.search(r"could not be fetched: .*(refused|timed out).*; check the connection", line)


def test_a_download_that_was_cut_goes_on(hub: Hub, monkeypatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    name = "unet/diffusion_pytorch_model.safetensors"
    hub.cut.add(name)
    place = find_model(NAME)
    assert hub.fetched.count(name) == 2
    assert (place / name).read_bytes() == hub.repositories[NAME]["main"][name]


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_offline_forbids(how, hub: Hub, tmp_path, monkeypatch) -> None:
    if how == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    flags, name = ("--offline",) if how == "flag" else (), f"owner/{how}"
    hub.repositories[name] = hub.repositories[NAME]
    words = ("erase", "dog", "--anchor", "cat", "--model", name, "--no-report", "--out", tmp_path / "o")
    result = run(*words, "--quiet", *flags)
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1)
    assert "--offline or HF_HUB_OFFLINE forbids to fetch it" in result.stderr
    assert hub.fetched == []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert f"fetch {name} (MB): " in result.stderr
    edit = tmp_path / "o/edit.safetensors"
    assert origin_of(load_edit(edit)).base == name
    assert run("apply", edit, "--out", tmp_path / "m", "--offline").exit_code == 0


def test_a_judge_is_fetched_too(hub: Hub) -> None:
    judge = Judge.parse("clip-score=owner/clip").with_labels(["dog", "cat"])
    assert judge.open().labels == ("dog", "cat")
    assert "pytorch_model.bin" not in hub.fetched
    assert find_network("owner/clip").joinpath("model.safetensors").exists()


def test_names_of_hub_ids() -> None:
    for name in ("owner/model", "o.w-n_er/m.1", "owner/model@refs/pr/1", "owner/model@0123abc"):
        assert is_hub_id(name)
    assert base_id("owner/model@refs/pr/1") == "owner/model@refs/pr/1"
    assert base_id("/a/model") == base_id("a/b/model") == "model"
    for name in ("moji", "../model", "./model", "a/b/c", "owner/model@", "owner/", "/abs", "owner/model@../x"):
        assert not is_hub_id(name)
