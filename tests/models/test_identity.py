"""What a model is called in a header."""

import pytest

from unconcept.models.identity import base_id


@pytest.mark.parametrize(("name", "told"), [("moji", "moji"), ("stabilityai/sd-turbo", "stabilityai/sd-turbo"), ("/home/me/models/sd", "sd"), ("./a/b", "b")])
def test_a_hub_id_stays_and_a_path_does_not(name, told) -> None:
    assert base_id(name) == told


def test_a_folder_is_no_hub_id(tmp_path, monkeypatch) -> None:
    (tmp_path / "out/edited").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_id("out/edited") == "edited"
