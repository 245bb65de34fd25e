"""Complete folders of embedded models: parts that several share are shipped once."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from unconcept.core.errors import ModelError, OutputError, RecipeError, UnknownName
from unconcept.models import find_model
from unconcept.models.checkpoint.model_card import base_id
from unconcept.models.loading import absolute_source
from unconcept.worlds import folder, registry
from unconcept.worlds.recipes import current_recipe
from unconcept.worlds.registry import DEFAULT_MODEL, embedded_world, outdated_note, worlds

NAMES = ["model_index.json", "text/config.json", "text/weights", "vae/config.json", "vae/weights"]


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A world whose autoencoder another one ships, both with files of a few bytes."""
    for name, content in {
        "one/model/vae/config.json": '{"scale": 1.0, "shift": null}',
        "one/model/vae/weights": "autoencoder",
        "two/model/model_index.json": "{}",
        "two/model/text/config.json": "{}",
        "two/model/text/weights": "encoder",
    }.items():
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(registry, "_FOLDER", tmp_path / "package")
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    one = replace(worlds[DEFAULT_MODEL], name="one")
    two = replace(one, name="two", shared={"vae": "one"}, config={"vae": {"shift": 0.0}})
    monkeypatch.setitem(worlds._known, "one", one)
    monkeypatch.setitem(worlds._known, "two", two)
    return tmp_path


def files_of(place: Path) -> list[str]:
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


def test_a_folder_is_complete_and_made_once(shared) -> None:
    assert folder("one") == shared / "package/one/model"
    place = folder("two")
    assert files_of(place) == NAMES
    assert (place / "vae/weights").read_text() == "autoencoder"
    assert json.loads((place / "vae/config.json").read_text()) == {"scale": 1.0, "shift": 0.0}
    assert json.loads((shared / "package/one/model/vae/config.json").read_text())["shift"] is None
    made = (place / "vae/config.json").stat().st_mtime_ns
    assert folder("two") == place
    assert (place / "vae/config.json").stat().st_mtime_ns == made
    assert [path.name for path in (shared / "store/worlds").iterdir()] == [place.name]


def test_a_changed_part_makes_another_folder(shared) -> None:
    before = folder("two")
    weights = shared / "package/one/model/vae/weights"
    weights.unlink()
    weights.write_text("a better autoencoder")
    after = folder("two")
    assert after != before
    assert (after / "vae/weights").read_text() == "a better autoencoder"


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_folder_is_made_anew(shared, damage) -> None:
    place = folder("two")
    (place / "vae/weights").unlink()
    if damage == "cut":
        (place / "vae/weights").write_text("auto")
    assert folder("two") == place
    assert (place / "vae/weights").read_text() == "autoencoder"
    assert [path.name for path in (shared / "store/worlds").iterdir()] == [place.name]


def test_a_disk_without_links_gets_copies(shared, monkeypatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    place = folder("two")
    assert files_of(place) == NAMES
    assert (place / "vae/weights").stat().st_nlink == 1


def assemble_at_once(gate, found) -> None:
    gate.wait()
    found.put((str(folder("two")), files_of(folder("two"))))


def test_processes_may_assemble_at_once(shared) -> None:
    fork = multiprocessing.get_context("fork")
    gate, found = fork.Barrier(4), fork.Queue()
    workers = [fork.Process(target=assemble_at_once, args=(gate, found)) for _ in range(4)]
    for worker in workers:
        worker.start()
    answers = [found.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join()
    assert answers == [(str(folder("two")), NAMES)] * 4
    assert len(list((shared / "store/worlds").iterdir())) == 1


def test_a_place_that_cannot_be_written_is_told(shared) -> None:
    (shared / "store").write_text("a file")
    with pytest.raises(OutputError, match="UNCONCEPT_STORE"):
        folder("two")


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(UnknownName, match="did you mean 'moji'"):
        folder("moj")


def test_records_name_the_version(monkeypatch) -> None:
    world = replace(worlds[DEFAULT_MODEL], version="2")
    monkeypatch.setitem(worlds._known, DEFAULT_MODEL, world)
    assert absolute_source("moji") == absolute_source("moji@2") == base_id("moji") == "moji@2"
    assert embedded_world("moji@2") is embedded_world("moji") is world
    assert embedded_world("moji@1") is None
    assert find_model("moji@2") == find_model("moji")
    told = "moji@1 is not in this package, which has moji@2 with other words and weights"
    assert (outdated_note("moji"), outdated_note("moji@1")) == (told, told)
    assert (outdated_note("moji@2"), outdated_note("somewhere/moji"), outdated_note("other")) == ("", "", "")
    with pytest.raises(ModelError, match=r"^model 'moji@1': moji@1 is not in this package, which has moji@2"):
        find_model("moji@1")


@pytest.mark.parametrize("tuned_on", ['world = "moji@1"', 'table_hash = "4be64a"'])
def test_a_recipe_of_another_version_is_refused(tmp_path, monkeypatch, tuned_on) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(f'method = "uce"\nsource = "tried"\n{tuned_on}\n')
    monkeypatch.setitem(worlds._known, DEFAULT_MODEL, replace(worlds[DEFAULT_MODEL], version="1"))
    assert current_recipe(str(recipe)).method == "uce"
    monkeypatch.setitem(worlds._known, DEFAULT_MODEL, replace(worlds[DEFAULT_MODEL], version="2"))
    with pytest.raises(RecipeError, match=r"was tuned on moji.*moji@1 is not in this package.*; tune it anew$") as told:
        current_recipe(str(recipe))
    assert "\n" not in str(told.value)
