"""The weights of the best epoch are put back, and a training that goes on knows them."""

import pytest
import torch

from unconcept.training.best_epoch import BestEpoch

FIGURES = [9.0, 9.0, 1.0, 3.0, 2.5, 2.5, 0.5]  # means of epochs of two: 9, 2, 2.5, then a half one


def walked(figures, kill=None):
    tensor = torch.zeros(3)
    best = BestEpoch([tensor], 2)
    for step, figure in enumerate(figures):
        if step == kill:
            state, best = {name: t.clone() for name, t in best.state().items()}, BestEpoch([tensor], 2)
            best.restore(state)
        best.start_step(step)
        best.record_figure(figure)
        tensor.fill_(step + 1.0)
    best.restore_best()
    return tensor


@pytest.mark.parametrize("kill", [None, *range(7)])
def test_the_end_of_the_lowest_epoch(kill) -> None:
    assert walked(FIGURES[:6], kill).tolist() == [4.0] * 3
    assert walked(FIGURES, kill).tolist() == [7.0] * 3


def test_steps_that_tell_nothing_do_not_count() -> None:
    tensor = torch.ones(2)
    best = BestEpoch([tensor], 2)
    for step in range(3):
        best.start_step(step)
        if step > 1:
            best.record_figure(1.0)
            tensor.fill_(5.0)
    best.restore_best()
    assert tensor.tolist() == [5.0, 5.0]
    BestEpoch([tensor], 2).restore_best()
    assert tensor.tolist() == [5.0, 5.0]
