"""`moji`'s scorers as rows: what is kept says the same as the networks themselves."""

import json

import pytest
import torch

from unconcept.core.errors import SettingsError
from unconcept.metrics.score_policies import argmax, probability, top_k
from unconcept.models import open_model
from unconcept.scorers import scorers
from unconcept.scorers.features import JudgeEmbedding
from unconcept.scorers.moji_clip import MojiClip, MojiClipScore
from unconcept.scorers.moji_judge import JudgeScore, MojiJudge, crop_half


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Flat shapes on flat grounds: the judge is sure of some and not of others."""
    rng = torch.Generator().manual_seed(0)
    ground, shape = torch.rand(2, 6, 3, 1, 1, generator=rng)
    stack = ground.expand(6, 3, 64, 64).clone()
    for i in range(6):
        stack[i, :, 8 + 4 * i : 50, 10 : 60 - 3 * i] = shape[i]
    return stack


def test_rows_are_the_judges_log_probabilities(pictures) -> None:
    judge, scorer = MojiJudge(), JudgeScore()
    rows = json.loads(json.dumps(scorer.score(pictures, ["whole"] * 6)))
    exact = judge.score(pictures)
    assert torch.allclose(torch.tensor([row["objects"] for row in rows]), exact.objects, atol=6e-5)
    assert torch.allclose(torch.tensor([row["styles"] for row in rows]), exact.styles, atol=6e-5)
    said = [argmax(row["objects"], scorer.labels["objects"]) for row in rows]
    assert said == [verdict.object for verdict in judge.decide(exact)]
    assert scorer.hash == judge.hash


def test_policies_read_the_rows(pictures) -> None:
    scorer = JudgeScore()
    row = scorer.score(pictures[:1], ["whole"])[0]
    labels = scorer.labels["objects"]
    best = top_k(row["objects"], labels, 5)
    assert best[0] == argmax(row["objects"], labels)
    assert probability(row["objects"], labels, labels) == pytest.approx(1, abs=1e-3)
    assert probability(row["objects"], labels, best) > probability(row["objects"], labels, best[:1])


def test_halves_are_asked_for_by_name(pictures) -> None:
    scorer = JudgeScore()
    mixed = scorer.score(pictures[:3], ["left", "whole", "right"])
    alone = [
        *scorer.score(crop_half(pictures[:1], 0), ["whole"]),
        *scorer.score(pictures[1:2], ["whole"]),
        *scorer.score(crop_half(pictures[2:3], 1), ["whole"]),
    ]
    for one, other in zip(mixed, alone, strict=True):
        assert one["objects"] == pytest.approx(other["objects"], abs=1e-3)


def test_what_cannot_be_asked(pictures) -> None:
    with pytest.raises(SettingsError, match="whole, left, right"):
        JudgeScore().score(pictures[:1], ["top"])
    with pytest.raises(SettingsError, match="1 questions about 2 images"):
        JudgeScore().score(pictures[:2], ["whole"])


def test_the_embedding_feeds_the_heads(pictures) -> None:
    scorer, features = JudgeScore(), JudgeEmbedding()
    assert torch.equal(scorer.features(pictures), features.features(pictures))
    logits = scorer.judge.net.object(features.features(pictures))
    assert torch.allclose(logits.log_softmax(1), scorer.judge.score(pictures).objects, atol=1e-5)
    assert features.hash == scorer.hash


def test_moji_clip_rows(pictures) -> None:
    embed = lambda texts: open_model("moji").embed(texts, at="first_eot")  # noqa: E731
    scorer = MojiClipScore(embed, ("cat", "dog"))
    rows = scorer.score(pictures[:2], ["a cat", "dog"])
    cosines = MojiClip(embed).score(pictures[:2], ["a cat", "dog", "cat"])
    assert [row["asked"] for row in rows] == pytest.approx([float(cosines[0, 0]), float(cosines[1, 1])], abs=1e-5)
    assert rows[0]["labels"] == pytest.approx([float(cosines[0, 2]), float(cosines[0, 1])], abs=1e-5)
    assert len(scorer.hash) == 64
    assert scorers["moji-clip"].build is MojiClipScore
