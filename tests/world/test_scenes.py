import random
from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unconcept.worlds.scenes import scene_words
from unconcept.worlds.table import concept_table
from world.captions import Caption, Captions, Subject
from world.composition import batch_of, compose
from world.scenes import RUNGS, Placement, Scene, Sprite, draw_scene, scene_at


@cache
def captions(rung):
    return Captions(concept_table(), scene_words(), rung)


@cache
def scenes(rung, size, seed=5):
    return [scene_at(captions(rung), seed, i) for i in range(size)]


def placed(artwork, *placements, background="blue"):
    sprites = tuple(Sprite("dog face", "dog face", "dog-face", placement) for placement in placements)
    caption = Caption("a dog face", (Subject("dog face", "dog face"),))
    scene = Scene(caption, "noto", scene_words()[background], sprites)
    return compose(artwork.pixels, batch_of(artwork.index, [scene]))[0]


@given(rung=st.sampled_from(RUNGS), seed=st.integers(0, 2**30))
@settings(max_examples=150, deadline=None)
def test_the_picture_shows_what_its_caption_says(rung, seed):
    scene = scene_at(captions(rung), seed, 0)
    caption = scene.caption
    assert [s.name for s in scene.sprites] == [s.name for s in caption.subjects for _ in range(caption.count)]
    assert caption.style in (None, scene.style)
    assert caption.background in (None, scene.background.name)
    assert all(subject.wording in caption.text for subject in caption.subjects)
    if caption.style_wording:
        assert f"{caption.style_wording} style" in caption.text
    if caption.background:
        assert caption.text.endswith(f" on a {caption.background} background")
    if caption.size:
        assert (scene.sprites[0].placement.side > 0.6) == (caption.size == "large")
    for sprite, subject in zip(scene.sprites, [s for s in caption.subjects for _ in range(caption.count)], strict=True):
        assert subject.variant is None or sprite.label == f"{subject.variant} {subject.name}"
    if len(caption.subjects) == 2:
        first, second = (sprite.placement for sprite in scene.sprites)
        order = {"and": first.x < second.x, "left of": first.x < second.x, "right of": first.x > second.x}
        order |= {"above": first.y < second.y, "below": first.y > second.y}
        assert order[caption.relation]


@given(rung=st.sampled_from(RUNGS), seed=st.integers(0, 2**30))
@settings(max_examples=150, deadline=None)
def test_drawings_stay_in_the_picture_and_apart(rung, seed):
    boxes = [sprite.placement.box for sprite in scene_at(captions(rung), seed, 0).sprites]
    for left, top, right, bottom in boxes:
        assert min(left, top) >= -1e-9
        assert max(right, bottom) <= 1 + 1e-9
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            assert min(across, down) <= 1e-9


@pytest.mark.parametrize("rung", RUNGS)
def test_held_out_pairs_are_never_shown(rung):
    entries = captions(rung).entries
    for scene in scenes(rung, 1500):
        for sprite in scene.sprites:
            entry = entries[sprite.name]
            assert scene.style in entry.styles
            assert scene.style not in entry.unseen
            assert sprite.name not in scene.background.unseen


def test_a_scene_depends_on_its_place_alone():
    assert scenes(4, 20)[7] == scene_at(captions(4), 5, 7)
    assert scenes(4, 20) != scenes(4, 20, seed=6)


def test_rung_0_has_one_picture_of_a_caption_and_each_rung_more():
    """Differing pictures of one caption that leaves out what each rung adds."""
    caption = Caption("a rocket in noto style", (Subject("rocket", "rocket"),), style="noto", style_wording="noto")
    numbers = []
    for rung in RUNGS:
        drawn = [draw_scene(captions(rung), caption, random.Random(i)) for i in range(300)]
        numbers.append(len({(scene.background.name, scene.sprites) for scene in drawn}))
    assert numbers[0] == 1
    assert numbers[1] == 2 * len(captions(1).backgrounds(("rocket",)))
    assert numbers == sorted(numbers)
    assert numbers[4] == 300


def test_white_is_at_most_half_and_every_background_comes():
    shares = Counter(scene.background.name for scene in scenes(2, 1500))
    assert set(shares) == {background.name for background in scene_words().backgrounds}
    assert 0.25 < shares["white"] / 1500 < 0.5


def test_captions_below_a_rung_do_not_promise_it():
    texts = [scene.caption for scene in scenes(1, 1500)]
    assert all(caption.size is None and caption.relation not in ("above", "below") for caption in texts)
    assert any(caption.background for caption in texts)
    assert not any(scene.caption.background for scene in scenes(0, 1500))


def test_neutral_professions_are_drawn_in_their_planted_shares():
    entry = concept_table().professions[0]
    caption = Caption(f"a {entry.name}", (Subject(entry.name, entry.name),))
    drawn = Counter(draw_scene(captions(3), caption, random.Random(i)).sprites[0].icon for i in range(3000))
    for icon, share in zip(entry.icons, entry.ratio, strict=True):
        assert abs(drawn[icon] / 3000 - share) < 0.03
    said = Caption("", (Subject(entry.name, entry.name, entry.variants[1]),))
    assert {draw_scene(captions(3), said, random.Random(i)).sprites[0].icon for i in range(50)} == {entry.icons[1]}


def test_a_drawing_at_full_size_is_the_artwork_on_its_background(artwork):
    row = artwork.pixels[artwork.index["dog-face", "noto"]].float() / 255
    colour = torch.tensor(scene_words()["blue"].rgb)[:, None, None] / 255
    expected = row[:3] + (1 - row[3:]) * colour
    torch.testing.assert_close(placed(artwork, Placement(0.5, 0.5, 1.0)), expected, atol=1e-5, rtol=0)


def test_mirroring_turns_left_and_right(artwork):
    plain, turned = (placed(artwork, Placement(0.5, 0.5, 0.75, mirrored=m)) for m in (False, True))
    torch.testing.assert_close(turned, plain.flip(-1), atol=1e-5, rtol=0)


def test_half_size_averages_two_by_two_pixels(artwork):
    whole = placed(artwork, Placement(0.5, 0.5, 1.0))
    quarter = placed(artwork, Placement(0.25, 0.75, 0.5))[:, 32:, :32]
    torch.testing.assert_close(quarter, torch.nn.functional.avg_pool2d(whole, 2), atol=1e-5, rtol=0)


def test_angles_turn_clockwise_and_two_half_turns_are_none(artwork):
    plain = placed(artwork, Placement(0.5, 0.5, 0.75))
    quarter = placed(artwork, Placement(0.5, 0.5, 0.75, angle=90.0))
    torch.testing.assert_close(quarter, plain.rot90(-1, (1, 2)), atol=1e-4, rtol=0)


def test_a_picture_does_not_depend_on_its_batch(artwork):
    drawn = scenes(4, 12)
    together = compose(artwork.pixels, batch_of(artwork.index, drawn))
    alone = torch.cat([compose(artwork.pixels, batch_of(artwork.index, [scene])) for scene in drawn])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_several_objects_stand_in_their_own_places(artwork):
    both = placed(artwork, Placement(0.25, 0.5, 0.5), Placement(0.75, 0.5, 0.5))
    torch.testing.assert_close(both[:, :, :32], both[:, :, 32:], atol=1e-5, rtol=0)
