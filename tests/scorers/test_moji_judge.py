"""The judge of the embedded models: its labels, its rows, and what the rows say about planted answers."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from unconcept.core.errors import ModelError, SettingsError
from unconcept.metrics.score_policies import share_of
from unconcept.models.vision.judge_answers import object_centres, object_shares, object_words
from unconcept.models.vision.judge_net import CELLS, Answers, ConvJudge, JudgeLabels, judge_answers, load_judge_net
from unconcept.scorers import NOTHING_LABEL
from unconcept.scorers.features import JudgeEmbedding
from unconcept.scorers.lpips import JudgeDistance
from unconcept.scorers.moji_judge import JudgeScore, _rows
from unconcept.worlds.registry import JUDGE_WEIGHTS, METHOD_JUDGE_WEIGHTS
from unconcept.worlds.scenes import ABOVE, LEFT, RIGHT, WHOLE, scene_words
from unconcept.worlds.table import concept_table

LABELS = JudgeLabels.of(concept_table(), scene_words())


@pytest.fixture(scope="module")
def judge() -> JudgeScore:
    return JudgeScore()


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Flat shapes on flat grounds, noise and blank ones."""
    rng = torch.Generator().manual_seed(0)
    ground, shape = torch.rand(2, 6, 3, 1, 1, generator=rng)
    stack = ground.expand(6, 3, 64, 64).clone()
    for i in range(6):
        stack[i, :, 8 + 4 * i : 50, 10 : 60 - 3 * i] = shape[i]
    return torch.cat([stack, torch.rand(4, 3, 64, 64, generator=rng), torch.ones(2, 3, 64, 64)])


def planted(objects: dict[str, tuple[slice, slice]], **heads: str) -> Answers:
    """Sure answers: each object's label in its cells, "nothing" elsewhere."""
    cells = torch.zeros(1, len(LABELS.objects) + 1, CELLS, CELLS)
    cells[:, -1] = 20
    for name, (rows, columns) in objects.items():
        cells[:, -1, rows, columns] = 0
        cells[:, LABELS.objects.index(name), rows, columns] = 20
    whole = {}
    for head, labels in {
        "style": LABELS.styles,
        "background": LABELS.backgrounds,
        "count": ("nothing", "one", "two", "three"),
    }.items():
        logits = torch.zeros(1, len(labels) + (head != "count"))
        logits[:, labels.index(heads[head])] = 5
        whole[head] = logits
    return Answers(cells, **whole)


def test_labels_are_the_tables(judge) -> None:
    assert judge.labels["objects"] == LABELS.objects == concept_table().labels
    assert judge.labels["styles"] == (*(style.name for style in concept_table().styles), NOTHING_LABEL)
    assert judge.labels["backgrounds"] == (*(b.name for b in scene_words().backgrounds), NOTHING_LABEL)
    assert judge.labels["counts"] == (NOTHING_LABEL, "one", "two", "three")
    assert len(judge.hash) == 64


def test_the_judge_that_methods_see_through_is_another_one() -> None:
    (first, labels), (third, others) = load_judge_net(JUDGE_WEIGHTS), load_judge_net(METHOD_JUDGE_WEIGHTS)
    assert labels == others == LABELS
    assert type(first) is not type(third)
    assert all(sum(p.numel() for p in net.parameters()) < 3.2e6 for net in (first, third))
    with pytest.raises(ModelError, match="give the first or second"):
        JudgeDistance(METHOD_JUDGE_WEIGHTS)


def test_weights_of_another_network_are_refused_in_one_line(tmp_path) -> None:
    with safe_open(JUDGE_WEIGHTS, "pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    save_file({**weights, "heads.style.bias": torch.zeros(3)}, tmp_path / "other.safetensors", metadata=metadata)
    with pytest.raises(ModelError, match=r"other.safetensors holds the first judge of another version of this package"):
        load_judge_net(tmp_path / "other.safetensors")
    save_file(weights, tmp_path / "nameless.safetensors")
    with pytest.raises(ModelError, match=r"holds no judge of this version, but '': give one of first, second, third"):
        load_judge_net(tmp_path / "nameless.safetensors")


def test_a_row_answers_every_question(judge) -> None:
    half = CELLS // 2
    left, right = (slice(2, 6), slice(0, half)), (slice(2, 6), slice(half, CELLS))
    (row,) = _rows(planted({"fox": left, "key": right}, style="ink", background="blue", count="two"))
    row = json.loads(json.dumps(row))
    asked = ("style", "background", "count", "left", "right", "left-right")
    assert [judge.answer(row, by) for by in asked] == ["ink", "blue", "two", "fox", "key", "fox left of key"]
    assert judge.answer(row, "object") in ("fox", "key")
    assert share_of(row["parts"]["object"]["shares"], judge.labels["objects"], ["fox"]) == pytest.approx(0.5, abs=0.01)
    assert row["x"][:2] in ([0.25, 0.75], [0.75, 0.25])
    above, below = (slice(0, half), slice(2, 6)), (slice(half, CELLS), slice(2, 6))
    (row,) = _rows(planted({"key": above, "fox": below}, style="noto", background="white", count="two"))
    assert [judge.answer(row, by) for by in ("above", "below", "above-below")] == ["key", "fox", "key above fox"]


def test_an_order_needs_two_and_nothing_is_nothing(judge) -> None:
    everywhere = (slice(0, CELLS), slice(0, CELLS))
    (row,) = _rows(planted({"fox": everywhere}, style="ink", background="blue", count="one"))
    assert judge.answer(row, "left-right") == "fox"
    (row,) = _rows(planted({}, style="ink", background="blue", count="one"))
    assert [judge.answer(row, by) for by in ("object", "left", "left-right")] == [NOTHING_LABEL] * 3
    (row,) = _rows(planted({"fox": everywhere}, style="ink", background="blue", count="nothing"))
    assert [judge.answer(row, by) for by in ("object", "count")] == [NOTHING_LABEL] * 2
    left = (slice(0, CELLS), slice(0, CELLS // 2))
    (row,) = _rows(planted({"fox": left}, style="ink", background="blue", count="one"))
    assert [judge.answer(row, by) for by in ("left", "right")] == ["fox", NOTHING_LABEL]


def test_rows_say_what_the_networks_answers_say(judge, pictures) -> None:
    answers = judge_answers(judge.net, pictures)
    rows = judge.score(pictures, ["scene"] * len(pictures))
    for by, part in {"object": WHOLE, "left": LEFT, "right": RIGHT, "above": ABOVE}.items():
        assert [judge.answer(row, by) for row in rows] == object_words(answers, LABELS, part)
        best = object_shares(answers, part).max(1)
        kept = torch.tensor([row["parts"][by]["shares"][0] for row in rows])
        assert torch.allclose(kept[:, 1], best.values, atol=6e-4)
    centres = object_centres(answers)
    for i, row in enumerate(rows):
        first = row["parts"]["object"]["shares"][0][0]
        assert [row["x"][0], row["y"][0]] == pytest.approx(centres[i, first].tolist(), abs=6e-4)
    styles = torch.tensor([row["styles"] for row in rows])
    assert torch.allclose(styles, answers.style.log_softmax(1), atol=6e-4)


def test_rows_are_small_and_do_not_mix(judge, pictures) -> None:
    rows = judge.score(pictures, ["scene"] * len(pictures))
    assert max(len(json.dumps(row)) for row in rows) < 1000
    alone = judge.score(pictures[2:3], ["scene"])[0]
    assert alone["styles"] == pytest.approx(rows[2]["styles"], abs=1.1e-3)


def test_what_cannot_be_asked(judge, pictures) -> None:
    with pytest.raises(SettingsError, match="unknown question \\['left'\\]"):
        judge.score(pictures[:1], ["left"])
    with pytest.raises(SettingsError, match="1 questions about 2 images"):
        judge.score(pictures[:2], ["scene"])


def test_gradients_reach_the_pictures(judge) -> None:
    pictures = torch.rand(1, 3, 64, 64, requires_grad=True)
    judge_answers(judge.net, pictures).objects[0, 0].sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0


def test_the_embedding_feeds_the_heads(judge, pictures) -> None:
    features = JudgeEmbedding()
    assert torch.equal(judge.features(pictures), features.features(pictures))
    style = judge.net.heads.style(features.features(pictures))
    assert torch.allclose(style, judge_answers(judge.net, pictures).style, atol=1e-4)
    assert features.hash == judge.hash


def test_layers_have_falling_sizes(judge, pictures) -> None:
    assert isinstance(judge.net, ConvJudge)
    maps = judge.net.feature_maps(pictures[:2])
    assert [tuple(one.shape[1:]) for one in maps] == [(48, 32, 32), (96, 16, 16), (160, 8, 8), (160, 8, 8)]
    assert torch.equal(maps[-1], judge.net.body((pictures[:2] - 0.5) * 4))
