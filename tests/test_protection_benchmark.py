"""`benchmarks.protection`: its pictures are of the artwork, its page says what is measured and what is not."""

import json

import pytest
import torch

from benchmarks import protection, protection_page
from unconcept.metrics.intervals import wilson
from unconcept.worlds.table import concept_table
from world.render import SETS


def test_no_emoji_is_of_the_table() -> None:
    drawn = {icon for entry in concept_table().entries for icon in entry.icons}
    assert not drawn & set(protection.EMOJI)
    assert len(protection.EMOJI) == 10


def test_pictures_are_composed_of_the_packages_drawings(tmp_path) -> None:
    folder = tmp_path / SETS[protection.STYLE].removeprefix("@").replace("/", "-") / "package"
    folder.mkdir(parents=True)
    body = '<path fill="#f00" d="M0 0h16v16H0z"/>'
    icons = {name: {"body": body} for name in protection.EMOJI}
    (folder / "icons.json").write_text(json.dumps({"icons": icons, "aliases": {}, "width": 16}))
    found = protection.clean_pictures(tmp_path)
    assert list(found) == list(protection.EMOJI)
    for pictures in found.values():
        assert pictures.shape == (protection_page.PICTURES, 3, 64, 64)
        red = (pictures - torch.tensor([1.0, 0, 0])[:, None, None]).abs().amax(1) < 0.02
        assert red.flatten(1).float().mean(1).tolist() == pytest.approx([0.766, 0.5625, 0.766], abs=0.05)


def row(learner, pictures, hits):
    return {"learner": learner, "pictures": pictures, "steps": 8, "recognised": vars(wilson(hits, 10)), "likeness": 0.5}


def stage(emoji, protected):
    figures = {"pixels": 0.04, "psnr": 28.0, "judge-features": 0.3, "loss": 0.2}
    rows = [row("lora", "clean", 8), row("lora", "trajectory-shift", protected)]
    rows.append(row("none: the pictures themselves", "trajectory-shift", 10))
    names = ("clean", *protection.METHODS)
    return {"emoji": emoji, "stage": "lora", "rows": rows, "figures": dict.fromkeys(names, figures), "seconds": 3.0}


def test_a_page_says_whether_the_goal_was_reached_and_what_is_missing() -> None:
    empty = protection_page.page([], {}, protection.EMOJI)
    assert "Nothing is measured yet" in empty
    page = protection_page.page([stage("crayon", 1), stage("giraffe", 5)], {"jpeg": {"quality": 3}}, protection.EMOJI)
    assert "- lora: crayon, giraffe; **not measured yet: 8 of 10**" in page
    assert "- adaptive: none; **not measured yet: 10 of 10**" in page
    assert "80% of the copies of clean pictures are recognised, 30% of those of protected ones: +62% gone" in page
    assert "goal 50% reached" in page
    assert "| trajectory-shift | 0.040 | 28.0 | 0.300 | 0.200 | 100%" in page
    missed = protection_page.page([stage("crayon", 6)], {}, protection.EMOJI)
    assert "+25% gone, goal 50% **missed**" in missed
