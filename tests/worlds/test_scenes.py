import pytest

from unconcept.core.errors import UnconceptError
from unconcept.worlds.scenes import count_phrase, one_phrase, pair_phrase, scene_caption, scene_words
from unconcept.worlds.table import concept_table


def test_backgrounds_are_pale_apart_and_share_one():
    backgrounds = scene_words().backgrounds
    assert len(backgrounds) == 8
    assert sum(background.share for background in backgrounds) == pytest.approx(1)
    assert max(background.share for background in backgrounds) <= 0.5
    for i, one in enumerate(backgrounds):
        assert min(one.rgb) >= 140
        for other in backgrounds[:i]:
            assert max(abs(a - b) for a, b in zip(one.rgb, other.rgb, strict=True)) >= 40


def test_held_out_pairs_name_objects_of_the_table():
    names = {entry.name for entry in concept_table().objects}
    held_out = [name for background in scene_words().backgrounds for name in background.unseen]
    assert len(held_out) == len(set(held_out)) == 105
    assert set(held_out) <= names
    assert scene_words().uncounted | scene_words().irregular.keys() <= names


@pytest.mark.parametrize(
    ("name", "plural"),
    [
        ("dog face", "dog faces"),
        ("fox", "foxes"),
        ("wolf", "wolves"),
        ("church", "churches"),
        ("candy", "candies"),
        ("key", "keys"),
    ],
)
def test_plurals(name, plural):
    assert scene_words().plural(name) == plural


def test_captions():
    assert scene_caption(one_phrase("fox"), "ink", "blue") == "a fox in ink style on a blue background"
    assert scene_caption(one_phrase("fox", article=False), "ink", style_first=True) == "ink style fox"
    assert scene_caption(one_phrase("fox", "small")) == "a small fox"
    assert (
        scene_caption(pair_phrase("fox", "key", "left of"), background="gray")
        == "a fox left of a key on a gray background"
    )
    assert scene_caption(count_phrase("foxes", 3), "noto") == "three foxes in noto style"


def test_an_unknown_background_is_told():
    with pytest.raises(UnconceptError, match=r"no background 'black': choose one of white, gray"):
        scene_words()["black"]
