"""The picture store: whole files, no loss, one clear line on what is broken."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from tests import tiny
from unconcept.core.errors import OutputError, StoreError
from unconcept.core.output_folder import STORE_VARIABLE, default_store
from unconcept.evaluation.sampling import DrawSpec
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.picture_store import PictureStore, hash_folder
from unconcept.prompts.checks import Prompt

PICTURE = torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(0)).float() / 255


def test_pictures_come_back_without_loss(tmp_path) -> None:
    store = PictureStore(tmp_path)
    assert not store.has("ab12")
    store.save("ab12", PICTURE)
    assert store.has("ab12")
    assert torch.equal(store.load("ab12"), PICTURE)
    store.save("ab12", torch.zeros_like(PICTURE))
    assert torch.equal(PictureStore(tmp_path).load("ab12"), PICTURE), "what is there stays"


def test_scores_are_found_by_picture_and_question(tmp_path) -> None:
    store = PictureStore(tmp_path)
    store.save_scores("judge@1", [("a", "whole", {"x": [0.5]}), ("a", "left", {"x": [1.5]})])
    found = store.load_scores("judge@1", [("a", "whole"), ("b", "whole")])
    assert found == {("a", "whole"): {"x": [0.5]}}
    assert store.load_scores("judge@2", [("a", "whole")]) == {}
    many = [(str(i), "whole") for i in range(1200)]
    store.save_scores("judge@1", [(*pair, {"x": 1}) for pair in many])
    assert len(store.load_scores("judge@1", many)) == 1200


def test_two_runs_may_use_one_store(tmp_path) -> None:
    stores = [PictureStore(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: stores[i % 4].save(f"{i % 7:04d}", PICTURE), range(60)))
        list(pool.map(lambda i: stores[i % 4].save_scores("s", [(str(i), "q", {"v": i})]), range(60)))
    assert all(torch.equal(stores[0].load(f"{i:04d}"), PICTURE) for i in range(7))
    assert len(stores[0].load_scores("s", [(str(i), "q") for i in range(60)])) == 60
    assert not list(tmp_path.rglob("*.part"))


def test_broken_pictures_are_named(tmp_path, monkeypatch) -> None:
    store = PictureStore(tmp_path)
    store.save("ab12", PICTURE)
    whole = store.path("ab12").read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"not a picture"):
        store.path("ab12").write_bytes(damage)
        with pytest.raises(StoreError, match="remove it"):
            store.load("ab12")
    monkeypatch.setattr("unconcept.models.images._MOST_PIXELS", 100)
    Image.new("RGB", (20, 20)).save(store.path("ab12"))
    with pytest.raises(StoreError, match="has 20x20 pixels, more than"):
        store.load("ab12")


def test_a_full_disk_is_named_and_leaves_no_piece(tmp_path, monkeypatch) -> None:
    store = PictureStore(tmp_path)

    def full(*given) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unconcept.core.output_folder.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        store.save("ab12", PICTURE)
    assert not [path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]


def test_scores_that_cannot_be_kept(tmp_path) -> None:
    store = PictureStore(tmp_path)
    (tmp_path / "scores.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(OutputError, match="not a database"):
        store.save_scores("judge@1", [("a", "whole", {"x": 1})])
    with pytest.raises(OutputError, match=STORE_VARIABLE):
        PictureStore(tmp_path)


def test_a_store_of_another_version_is_refused(tmp_path) -> None:
    PictureStore(tmp_path / "s")
    for text in (json.dumps({"format": 99}), json.dumps({"format": 1}), "[]", "x"):
        (tmp_path / "s/store.json").write_text(text)
        with pytest.raises(StoreError, match=STORE_VARIABLE):
            PictureStore(tmp_path / "s")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can be written"):
        PictureStore(tmp_path / "file")


def test_the_store_can_be_moved(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "there"))
    assert default_store() == tmp_path / "there"
    monkeypatch.delenv(STORE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_store() == tmp_path / "unconcept/store"


def test_keys_are_of_what_a_picture_depends_on(tmp_path) -> None:
    subject, spec, prompt = EditedModel(), DrawSpec(), Prompt("a goat", 7)
    key = subject.picture_key(spec, prompt)
    assert key == EditedModel().picture_key(DrawSpec(batch_size=3), prompt), "not on the batch size"
    others = [
        subject.picture_key(DrawSpec(steps=5), prompt),
        subject.picture_key(DrawSpec(guidance_scale=2.0), prompt),
        subject.picture_key(DrawSpec(sampler="ddim"), prompt),
        subject.picture_key(spec, Prompt("a goat", 8)),
        subject.picture_key(spec, Prompt("goat", 7)),
        subject.picture_key(spec, prompt, "found"),
        EditedModel(dtype="float64").picture_key(spec, prompt),
        EditedModel(edit_path="x", edit_hash="y").picture_key(spec, prompt),
        EditedModel(edit_path="x", edit_hash="y", strength=0.5).picture_key(spec, prompt),
    ]
    assert len({key, *others}) == 10
    assert EditedModel(edit_path="x", edit_hash="y", strength=0.0).picture_key(spec, prompt) == key, (
        "strength 0 is the unedited model"
    )
    assert EditedModel(edit_path="x", edit_hash="y").picture_key(spec, prompt) == EditedModel(
        edit_path="z", edit_hash="y"
    ).picture_key(spec, prompt), "files may move"


def test_a_models_hash_is_of_its_bytes(tmp_path) -> None:
    folder = tiny.folder("sd1", tmp_path / "m")
    before = hash_folder(folder)
    (folder / "notes.md").write_text("x")
    assert hash_folder(folder) == before
    config = folder / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013") + " ")
    assert hash_folder(folder) != before
