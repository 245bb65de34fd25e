"""Fusion on rows of one's own choosing."""

import torch

from unconcept.linalg.low_rank import changes_on_rows, fuse_pairs, sum_pairs, without_preserved
from unconcept.linalg.moments import SecondMoments
from unconcept.linalg.ridge import ridge_system


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_concepts_that_share_no_direction_keep_their_changes() -> None:
    """With orthogonal spans W* C_i = (W + dW_i) C_i for each."""
    span = torch.linalg.qr(draw(16, 16, seed=0)).Q
    rows = [3 * span[:5], 0.5 * span[5:12]]
    changes = [{"w": (draw(6, 2, seed=1), draw(2, 16, seed=2))}, {"w": (draw(6, 1, seed=3), draw(1, 16, seed=4))}]
    moments = [SecondMoments.of(part) for part in rows]
    up, down = fuse_pairs(
        [changes_on_rows(*pair) for pair in zip(changes, moments, strict=True)],
        ridge_system(moments[0] + moments[1], SecondMoments.empty(16), 1e-12),
    )["w"]
    for part, change in zip(rows, changes, strict=True):
        alone = change["w"][0] @ change["w"][1]
        assert torch.allclose(up @ down @ part.T, alone @ part.T, atol=1e-9)


def test_joined_is_the_sum() -> None:
    one, two = (draw(6, 2, seed=1), draw(2, 8, seed=2)), (draw(6, 3, seed=3).float(), draw(3, 8, seed=4).float())
    found = sum_pairs([{"a": one, "b": one}, {"a": two}])
    assert torch.allclose(found["a"][0] @ found["a"][1], one[0] @ one[1] + two[0].double() @ two[1].double())
    assert torch.equal(found["b"][0], one[0])


def test_what_heavy_preserved_rows_leave_of_a_change() -> None:
    pair, system = (
        (draw(6, 2, seed=1), draw(2, 8, seed=2)),
        ridge_system(SecondMoments.of(draw(4, 8, seed=3)), SecondMoments.of(draw(20, 8, seed=4)).weighted(1e9), 0.1),
    )
    up, down = without_preserved({"w": pair}, system)["w"]
    assert (up @ down).abs().max() < 1e-6
    light = ridge_system(SecondMoments.of(draw(4, 8, seed=3)), SecondMoments.empty(8), 0.1)
    up, down = without_preserved({"w": pair}, light)["w"]
    assert torch.equal(up @ down, pair[0] @ pair[1])


def test_one_concept_that_fills_the_space_keeps_its_change() -> None:
    """Nothing preserved, no ridge, rows of full rank: W* = W + dW exactly."""
    rows, pair = SecondMoments.of(draw(40, 8, seed=0)), (draw(6, 2, seed=1), draw(2, 8, seed=2))
    up, down = fuse_pairs([changes_on_rows({"w": pair}, rows)], ridge_system(rows, SecondMoments.empty(8), 0.0))["w"]
    assert torch.allclose(up @ down, pair[0] @ pair[1], atol=1e-12)


def test_fusion_is_the_normal_equations() -> None:
    """Delta form against (sum_i (W + dW_i) G_i + P W + lam W)(sum_i G_i + P + lam I)^-1, with W as the preserved rows'
    own.
    """
    w, lamb, rows, kept = draw(6, 8, seed=0), 0.3, [draw(5, 8, seed=i) for i in (1, 2)], draw(9, 8, seed=3)
    changes = [{"w": (draw(6, 1, seed=i), draw(1, 8, seed=i + 1))} for i in (4, 6)]
    moments, eye = [SecondMoments.of(part) for part in rows], torch.eye(8, dtype=torch.float64)
    up, down = fuse_pairs(
        [changes_on_rows(*pair) for pair in zip(changes, moments, strict=True)],
        ridge_system(moments[0] + moments[1], SecondMoments.of(kept), lamb),
    )["w"]
    right = sum(part.T @ part for part in rows) + kept.T @ kept + lamb * eye
    left = sum((w + one["w"][0] @ one["w"][1]) @ part.T @ part for one, part in zip(changes, rows, strict=True)) + w @ (
        kept.T @ kept + lamb * eye
    )
    assert torch.allclose(w + up @ down, left @ torch.linalg.inv(right), atol=1e-10)
