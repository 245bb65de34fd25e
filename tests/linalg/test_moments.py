"""Moments add up, whatever the order and the pieces."""

import pytest
import torch

from unconcept.core.errors import UsageError
from unconcept.linalg.moments import COLUMN_BLOCK, ROW_CHUNK, SecondMoments


def test_pieces_add_up_to_the_whole(tmp_path) -> None:
    rows = torch.randn(ROW_CHUNK + 50, 6, generator=torch.Generator().manual_seed(0))
    whole = SecondMoments.of(rows)
    assert torch.allclose(whole.gram, rows.double().T @ rows.double(), atol=1e-9)
    pieces = SecondMoments.empty(6) + SecondMoments.of(rows[:100]) + SecondMoments.of(rows[100:])
    assert pieces.count == whole.count == len(rows)
    assert torch.allclose(pieces.gram, whole.gram, atol=1e-9)
    whole.save(tmp_path / "m.safetensors")
    loaded = SecondMoments.load(tmp_path / "m.safetensors")
    assert torch.equal(loaded.gram, whole.gram)
    assert loaded.count == whole.count


def test_wide_rows_are_summed_block_by_block() -> None:
    rows = torch.randn(30, 2 * COLUMN_BLOCK + 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = SecondMoments.of(rows).gram
    assert torch.allclose(gram, rows.T @ rows, atol=1e-12)
    assert torch.equal(gram, gram.T)


def test_what_is_no_moments(tmp_path) -> None:
    with pytest.raises(UsageError, match="width 3 and 4"):
        _ = SecondMoments.empty(3) + SecondMoments.empty(4)
    with pytest.raises(UsageError, match="contains something else"):
        SecondMoments.load(tmp_path / "no.safetensors")


def test_weights_scale_sums_and_none_leaves_nothing() -> None:
    some = SecondMoments.of(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(some.weighted(2.5).gram, 2.5 * some.gram)
    assert (some.weighted(2.5).count, some.weighted(0.0).count) == (5, 0)
    with pytest.raises(UsageError, match="got -1"):
        some.weighted(-1.0)
