"""Mixed precision and several processes: close to float32, the same in every process, and nothing where neither is
asked for.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.fast_cases import fast_ends
from tests.training.test_run import EVERY, QUICK, REQUEST, plain_edit, weights
from unconcept.core.errors import DataError, NumericsError, SettingsError
from unconcept.training import Descent, TrainingOptions, TrainingSession, training_session
from unconcept.training.precision import Precision

CPU = torch.device("cpu")


def flat(edit) -> torch.Tensor:
    return torch.cat([t.flatten() for t in edit.tensors().values()])


@pytest.mark.parametrize("name", fast_ends(EVERY))
def test_bf16_trains_every_method_and_hands_over_float32(name) -> None:
    view = tiny.view("sd1", torch.float32)
    before, plain = weights(view), plain_edit(name)
    with training_session(TrainingSession(options=TrainingOptions(mixed_precision="bf16"))):
        narrow = EVERY[name].erase(view, REQUEST)
    assert weights(view) == before
    assert all(t.dtype == torch.float32 for t in narrow.tensors().values() if t.is_floating_point())
    assert narrow.hash != plain.hash
    # Adam's first steps are the signs of gradients, so few entries go another way.
    assert float(F.cosine_similarity(flat(narrow).double(), flat(plain).double(), 0)) > 0.8


@pytest.mark.parametrize("checkpointing", [False, True])
def test_attention_stays_in_float32_on_a_cpu(checkpointing, monkeypatch) -> None:
    """Within autocast the stock function would be given bfloat16; recomputed activations come to the same."""
    view, seen = tiny.view("sd1", torch.float32), []
    own = F.scaled_dot_product_attention
    with training_session(
        TrainingSession(options=TrainingOptions(mixed_precision="bf16", checkpointing=checkpointing))
    ):
        plain = QUICK["esd"].erase(view, REQUEST)

    class Seen(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is own:
                seen.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    with (
        Seen(),
        training_session(TrainingSession(options=TrainingOptions(mixed_precision="bf16", checkpointing=checkpointing))),
    ):
        assert QUICK["esd"].erase(view, REQUEST).hash == plain.hash
    assert set(seen) == {torch.float32}


def test_another_precision_is_another_training(tmp_path) -> None:
    view = tiny.view("sd1", torch.float32)
    with training_session(TrainingSession(folder=tmp_path)):
        QUICK["esd"].erase(view, REQUEST)
    with (
        pytest.raises(DataError, match="other settings"),
        training_session(TrainingSession(folder=tmp_path, options=TrainingOptions(mixed_precision="bf16"))),
    ):
        QUICK["esd"].erase(view, REQUEST)


def test_fp16_needs_a_gpu() -> None:
    with (
        pytest.raises(SettingsError, match="take bf16"),
        training_session(TrainingSession(options=TrainingOptions(mixed_precision="fp16"))),
    ):
        QUICK["esd"].erase(tiny.view("sd1", torch.float32), REQUEST)


def scaling(scale: float) -> Precision:
    """As on a GPU; torch's scaler works on a CPU too."""
    precision = Precision(CPU)
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return precision


def half(x: torch.Tensor):
    """(x - 3)^2, whose gradient goes through float16: above 65504 it overflows."""

    def loss(step, rng):
        return (x.half() - 3).square().float().sum()

    return loss


def test_an_overflow_leaves_out_steps_and_halves_the_scale() -> None:
    x = torch.zeros(2, requires_grad=True)
    descent = Descent([x], 0.1, "sgd", precision=scaling(2.0**17))
    descent.run(half(x), 1)
    assert torch.equal(x, torch.zeros(2))  # The scale alone is beyond float16.
    descent.run(half(x), 40)
    assert torch.allclose(x, torch.full((2,), 3.0), atol=1e-2)
    assert descent.precision.scaler.get_scale() < 2.0**17


def test_scaled_steps_are_those_of_float32_and_go_on_after_a_stop() -> None:
    x, y = (torch.zeros(2, requires_grad=True) for _ in range(2))
    one, two = Descent([x], 0.1, "adam", precision=scaling(1024.0)), Descent([y], 0.1, "adam")
    one.run(half(x), 5)
    two.run(lambda step, rng: (y - 3).square().sum(), 5)
    assert torch.allclose(x, y, atol=1e-4)
    z = torch.zeros(2, requires_grad=True)
    three = Descent([z], 0.1, "adam", precision=scaling(8.0))
    three.restore({name: t.clone() for name, t in one.state().items()})
    assert three.precision.scaler.state_dict() == one.precision.scaler.state_dict()
    one.run(half(x), 3)
    three.run(half(z), 3)
    assert torch.equal(x, z)


def test_what_stays_no_number_stops() -> None:
    x = torch.zeros(2, requires_grad=True)
    descent = Descent([x], 0.1, "sgd", precision=scaling(4.0))
    with pytest.raises(NumericsError, match="NaN or infinity"):
        descent.run(lambda step, rng: (x * 0).sqrt().sum(), 9)


TWO = """
import sys, torch
from pathlib import Path
from accelerate import PartialState
from tests import tiny
from tests.killed import Killed, dying
from tests.training.test_run import EVERY, REQUEST
from unconcept.training import TrainingOptions, TrainingSession, training_session

folder, rank = Path(sys.argv[1]), PartialState(cpu=True).process_index
view = tiny.view("sd1", torch.float32)
for name in ("esd", "esd, student", "kscu", "receler", "spm"):
    method = EVERY[name]
    losses = []
    whole_session = TrainingSession(lambda progress: losses.append(progress.loss), folder / f"{name}-whole", 0.0)
    with training_session(whole_session):
        whole = method.erase(view, REQUEST)
    try:
        with training_session(TrainingSession(dying(3), folder / f"{name}-cut", 0.0)):
            method.erase(view, REQUEST)
    except Killed:
        pass
    with training_session(TrainingSession(folder=folder / f"{name}-cut")):
        again = method.erase(view, REQUEST)
    with training_session(TrainingSession(options=TrainingOptions(random_erasing=0.5, dom=0.9, dom_warm_up=0.0))):
        other = method.erase(view, REQUEST)
    (folder / f"{rank} {name}").write_text(f"{whole.hash}|{again.hash}|{other.hash}|{losses}")
PartialState().destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_come_to_the_same_edit_and_go_on_after_a_kill(tmp_path) -> None:
    """Over gloo, as `accelerate launch --cpu --num_processes 2` would run it."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29517",
        str(script),
        str(tmp_path),
    ]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(launch, capture_output=True, text=True, timeout=550, env=here)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("esd", "esd, student", "kscu", "receler", "spm"):
        one, two = ((tmp_path / f"{rank} {name}").read_text() for rank in (0, 1))
        assert one == two  # The same edits and losses in both processes.
        whole, again, other, _ = one.split("|")
        assert whole == again != other
        assert whole != plain_edit(name).hash  # Of twice as many samples.
