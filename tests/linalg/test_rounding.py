"""Rounded weights: errors within half a step, zeros and largest entries exact, NF4's levels as published."""

import pytest
import torch

from unconcept.core.errors import SettingsError
from unconcept.linalg.rounding import nf4_levels, round_weight

PUBLISHED = (-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0)
PUBLISHED += (0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0)


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("storage", "levels"), [("int8", 127), ("int4", 7)])
def test_integers_are_within_half_a_step_of_their_channel(storage, levels) -> None:
    weight = weights(5, 3, 7)
    weight[2] *= 100
    rounded = round_weight(weight, storage)
    step = weight.flatten(1).abs().amax(1) / levels
    assert torch.all((rounded - weight).flatten(1).abs().amax(1) <= step / 2 + 1e-12)
    assert torch.allclose(rounded.flatten(1) / step[:, None], (rounded.flatten(1) / step[:, None]).round())


def test_nf4_has_the_published_levels_and_takes_the_nearest() -> None:
    levels = nf4_levels()
    assert torch.allclose(levels, torch.tensor(PUBLISHED, dtype=torch.float64), atol=2e-6)
    weight = weights(3, 50)  # three blocks, the last one not full
    rounded = round_weight(weight, "nf4").flatten()
    for block in range(3):
        part = slice(64 * block, min(64 * (block + 1), 150))
        own = weight.flatten()[part]
        nearest = (own[:, None] / own.abs().max() - levels).abs().argmin(1)
        assert torch.allclose(rounded[part], levels[nearest] * own.abs().max())


@pytest.mark.parametrize("storage", ["int8", "int4", "nf4"])
def test_rounding_again_changes_nothing_and_zeros_stay(storage) -> None:
    weight = weights(4, 64)
    weight[1] = 0
    once = round_weight(weight, storage)
    assert not once[1].any()
    assert torch.allclose(round_weight(once, storage), once, atol=1e-12)
    assert torch.allclose(round_weight(-weight, storage)[0].abs().max(), weight[0].abs().max())


def test_a_vector_has_no_channels() -> None:
    with pytest.raises(SettingsError, match="no output channels"):
        round_weight(weights(4), "int8")
