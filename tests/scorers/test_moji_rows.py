"""`moji-clip` as rows: what is kept says the same as the network itself, and methods get another one."""

import pytest
import torch

from unconcept.erasing.vision_towers import open_vision_towers
from unconcept.models import open_model
from unconcept.scorers import scorers
from unconcept.scorers.moji_clip import MojiClip, MojiClipScore


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_moji_clip_rows(pictures) -> None:
    embed = lambda texts: open_model("moji").embed(texts, at="first_eot")  # noqa: E731
    scorer = MojiClipScore(embed, ("cat", "dog"))
    rows = scorer.score(pictures, ["a cat", "dog"])
    cosines = MojiClip(embed).score(pictures, ["a cat", "dog", "cat"])
    assert [row["asked"] for row in rows] == pytest.approx([float(cosines[0, 0]), float(cosines[1, 1])], abs=1e-5)
    assert rows[0]["labels"] == pytest.approx([float(cosines[0, 2]), float(cosines[0, 1])], abs=1e-5)
    assert len(scorer.hash) == 64
    assert scorers["moji-clip"].build is MojiClipScore


def test_methods_look_through_another_judge_than_the_one_that_grades(pictures) -> None:
    view = open_model("moji", "cpu")
    (tower,) = open_vision_towers(view, {}).values()
    grading = MojiClip(lambda texts: view.embed(texts, at="first_eot"))
    assert tower.hash != grading.hash
    assert type(tower.net) is not type(grading.net)
