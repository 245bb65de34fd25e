"""The judge's interface, and its word on pictures that are known."""

import torch

from unconcept.models.vision.judge_net import JudgeNet
from unconcept.scorers import NOTHING_LABEL
from unconcept.scorers.moji_judge import MojiJudge, crop_half
from unconcept.worlds.table import concept_table


def test_labels_are_the_tables() -> None:
    judge = MojiJudge()
    assert judge.objects == (*concept_table().labels, NOTHING_LABEL)
    assert judge.styles == (*(style.name for style in concept_table().styles), NOTHING_LABEL)
    assert len(judge.hash) == 64


def test_scores_are_log_probabilities_and_rows_do_not_mix() -> None:
    judge = MojiJudge()
    pictures = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scores = judge.score(pictures)
    assert torch.allclose(scores.objects.exp().sum(1), torch.ones(5), atol=1e-5)
    assert torch.allclose(scores.styles.exp().sum(1), torch.ones(5), atol=1e-5)
    assert torch.allclose(judge.score(pictures[2:3]).objects[0], scores.objects[2], atol=1e-4)


def test_noise_and_blank_pictures_show_nothing() -> None:
    judge = MojiJudge()
    noise = torch.rand(20, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    blank = torch.linspace(0, 1, 10)[:, None, None, None].expand(10, 3, 64, 64)
    said = [verdict.object for verdict in judge.decide(judge.score(torch.cat([noise, blank])))]
    assert said.count(NOTHING_LABEL) >= 28


def test_gradients_reach_the_pictures() -> None:
    pictures = torch.rand(1, 3, 64, 64, requires_grad=True)
    MojiJudge().score(pictures).objects[0, 0].backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0


def test_halves_are_enlarged() -> None:
    picture = torch.zeros(1, 3, 64, 64)
    picture[..., 16:48, 32:] = 1
    assert crop_half(picture, 1).min() == 1
    assert crop_half(picture, 0).max() == 0
    assert crop_half(picture, 0).shape == picture.shape


def test_a_million_parameters() -> None:
    assert sum(p.numel() for p in JudgeNet(274, 8).parameters()) < 1.2e6
