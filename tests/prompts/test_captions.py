"""Caption sets by name or path."""

import pytest

from unconcept.core.errors import DataError, RecipeError, UnknownName
from unconcept.core.recipe import load_recipe
from unconcept.prompts.captions import load_captions, packaged_captions


@pytest.mark.parametrize("name", list(packaged_captions()))
def test_packaged_sets_are_distinct_lines(name) -> None:
    found = load_captions(name)
    assert len(found) == len(set(found)) > 300
    assert all(text == text.strip().lower() and len(text.split()) <= 16 for text in found)


def test_files_and_what_is_none(tmp_path) -> None:
    assert load_captions("") == ()
    path = tmp_path / "own.txt"
    path.write_text("a cat\n# no caption\n\na cat\na dog\n")
    assert load_captions(str(path)) == ("a cat", "a cat", "a dog")
    table = tmp_path / "coco.csv"
    table.write_text("prompt,coco_id\na cat,1\na dog,2\n")
    assert load_captions(str(table)) == ("a cat", "a dog")
    lines = tmp_path / "own.jsonl"
    lines.write_text('"a cat"\n{"prompt": "a dog"}\n')
    assert load_captions(str(lines)) == ("a cat", "a dog")
    with pytest.raises(UnknownName, match="did you mean 'everyday'"):
        load_captions("everydays")
    with pytest.raises(DataError, match="does not exist"):
        load_captions(str(tmp_path / "no.txt"))


@pytest.mark.parametrize("value", ["../other.txt", "/etc/hosts.txt", "a/../../b.csv", "link.txt", "\\u0000.txt"])
def test_a_path_in_a_recipe_cannot_leave_its_folder(tmp_path, value) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (tmp_path / "other.txt").write_text("a cat")
    (folder / "link.txt").symlink_to(tmp_path / "other.txt")
    (folder / "r.toml").write_text(f'method = "mace"\nsource = "x"\n[settings]\nprior = "{value}"')
    with pytest.raises(RecipeError, match="leaves the recipe's folder"):
        load_recipe(str(folder / "r.toml"))


def test_a_path_in_a_recipe_counts_from_its_folder(tmp_path) -> None:
    (tmp_path / "own.txt").write_text("a cat")
    (tmp_path / "r.toml").write_text('method = "mace"\nsource = "x"\n[settings]\nprior = "own.txt"\nlamb = 1.0')
    settings = load_recipe(str(tmp_path / "r.toml")).settings
    assert load_captions(settings["prior"]) == ("a cat",)
    assert settings["lamb"] == 1.0
