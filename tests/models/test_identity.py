"""What a model is called in a header, and its licence."""

import pytest

from tests import tiny
from unconcept.models import find_model
from unconcept.models.checkpoint.model_card import base_id, read_licence
from unconcept.worlds.registry import worlds


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("moji", worlds["moji"].dated_name),
        ("stabilityai/sd-turbo", "stabilityai/sd-turbo"),
        ("/home/me/models/sd", "sd"),
        ("./a/b", "b"),
    ],
)
def test_a_hub_id_stays_and_a_path_does_not(name, told) -> None:
    assert base_id(name) == told


def test_a_folder_is_no_hub_id(tmp_path, monkeypatch) -> None:
    (tmp_path / "out/edited").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_id("out/edited") == "edited"


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ("---\nlicense: openrail++\ntags:\n- x\n---\n# A model\n", "openrail++"),
        ("---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: flux-1-dev\nlicense_link: L.md\n---\n", "flux-1-dev"),
        ("---\nlicense:\ntags: [x]\n---\n", ""),
        ("---\ntags: [x]\n---\nlicense: mit\n", ""),
        ("license: mit\n", ""),
        ("", ""),
    ],
)
def test_the_licence_is_what_the_front_matter_says(card, told, tmp_path) -> None:
    (tmp_path / "README.md").write_text(card, encoding="utf-8", newline="")
    assert read_licence(tmp_path) == told


def test_the_licence_of_a_single_file_stands_in_its_configs(tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model_index.json").write_text("{}")
    assert read_licence(tmp_path / "model.safetensors") == ""
    (tmp_path / "model/README.md").write_text("---\nlicense: openrail\n---\n")
    assert read_licence(tmp_path / "model.safetensors") == "openrail"


def test_moji_has_a_licence_and_a_pipeline_in_memory_none() -> None:
    assert read_licence(find_model("moji")) == "apache-2.0"
    assert read_licence(tiny.shared("sd1").checkpoint.source) == ""
