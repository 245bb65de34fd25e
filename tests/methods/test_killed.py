"""Every trained method, killed at a random step and run again: the same edit, bit for bit."""

import random

import pytest
import torch

from tests import tiny
from tests.killed import Killed
from tests.methods.quick import QUICK
from unconcept.core import Request
from unconcept.core.settings import build_settings
from unconcept.methods import methods
from unconcept.training import TrainingSession, training_session

KILLS, STEPS = 20, 6
REQUEST = Request(("dog", "hound"), ("cat", "cat"), ("car", "sun"))
STEPWISE = [name for name in methods if methods[name].mechanism == "trained"]


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPWISE)
def test_killed_at_a_random_step_and_run_again(name, tmp_path) -> None:
    """Steps are counted over all trainings of a method: stages, adapters.

    The state on disk is that of the step before.
    """
    settings = QUICK[name] | ({"iterations": STEPS} if "iterations" in QUICK[name] else {})
    view, method = tiny.view("sd1", torch.float32), build_settings(methods[name].settings, settings)
    told: list[int] = []
    with training_session(TrainingSession(told.append)):
        whole = method.erase(view, REQUEST)
    assert len(told) >= 4
    for turn, kill in enumerate(random.Random(name).choices(range(1, len(told) + 1), k=KILLS)):
        left = [kill]

        def tell(progress, left=left):
            left[0] -= 1
            if not left[0]:
                raise Killed

        folder = tmp_path / str(turn)
        with pytest.raises(Killed), training_session(TrainingSession(tell, folder, seconds=0.0)):
            method.erase(view, REQUEST)
        with training_session(TrainingSession(folder=folder)):
            assert method.erase(view, REQUEST).hash == whole.hash, f"killed at step {kill} of {len(told)}"
