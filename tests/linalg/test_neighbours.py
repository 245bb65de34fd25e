"""The sampler of neighbours holds both constraints, on every draw."""

import pytest
import torch
from scipy import stats

from unconcept.core.errors import SettingsError
from unconcept.linalg.neighbours import in_neighbourhood, sample_beyond, sample_neighbours


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cosines(rows: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(drawn, rows[:, None], dim=-1)


def test_ten_thousand_draws_satisfy_both_constraints_and_are_uniform() -> None:
    rows = 20 * torch.randn(1, 768, dtype=torch.float64, generator=generator(1))
    drawn = sample_neighbours(rows, 10_000, (0.85, 0.99), 0.6, generator())
    found, far = cosines(rows, drawn).flatten(), (drawn - rows[:, None]).norm(dim=-1).flatten() / rows.norm()
    assert found.min() >= 0.85 - 1e-6
    assert found.max() <= 0.99 + 1e-6
    assert far.max() <= 0.6 + 1e-6
    assert stats.kstest(found.numpy(), stats.uniform(0.85, 0.14).cdf).pvalue > 1e-3
    assert in_neighbourhood(drawn[0], rows, 0.85 - 1e-9, 0.6 + 1e-9).all()


def test_a_short_distance_cuts_the_interval() -> None:
    """Within 0.3 of the length no cosine below sqrt(1 - 0.09) is reached."""
    rows = torch.randn(3, 64, dtype=torch.float64, generator=generator(2))
    drawn = sample_neighbours(rows, 500, (0.5, 1.0), 0.3, generator())
    assert cosines(rows, drawn).min() >= (1 - 0.3**2) ** 0.5 - 1e-9
    assert ((drawn - rows[:, None]).norm(dim=-1) <= 0.3 * rows.norm(dim=1)[:, None] + 1e-9).all()
    with pytest.raises(SettingsError, match=r"distance must be >= 0\.600"):
        sample_neighbours(rows, 1, (0.5, 0.8), 0.3, generator())


def test_no_room_is_the_row_itself() -> None:
    rows = torch.randn(3, 64, dtype=torch.float64, generator=generator(3))
    assert torch.allclose(
        sample_neighbours(rows, 4, (1.0, 1.0), 0.0, generator()), rows[:, None].expand(-1, 4, -1), atol=1e-12
    )


def test_beyond_is_outside_and_as_long() -> None:
    rows = torch.randn(3, 64, dtype=torch.float64, generator=generator(4))
    drawn = sample_beyond(rows, 2000, (0.3, 0.75), 0.6, generator())
    found = cosines(rows, drawn)
    assert ((found >= 0.3 - 1e-9) & (found <= 0.75 + 1e-9)).all()
    assert torch.allclose(drawn.norm(dim=-1), rows.norm(dim=1)[:, None].expand(-1, 2000))
    assert ((drawn - rows[:, None]).norm(dim=-1) > 0.6 * rows.norm(dim=1)[:, None]).all()
    assert not any(in_neighbourhood(drawn[i], rows[i : i + 1], 0.85, 0.6).any() for i in range(3))
    with pytest.raises(SettingsError, match=r"must be < 0\.820"):
        sample_beyond(rows, 1, (0.3, 0.9), 0.6, generator())


@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.9, 0.8), (0.5, 1.1)])
def test_intervals_that_are_none(interval) -> None:
    with pytest.raises(SettingsError, match="give two numbers"):
        sample_neighbours(torch.ones(1, 4), 1, interval, 0.6, generator())
