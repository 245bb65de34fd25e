"""KSCU: its table of key steps, its two goals, and ESD as the case it contains."""

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.settings import build_settings
from unconcept.methods.esd import ESD
from unconcept.methods.kscu import KSCU, key_steps, prompt_variants
from unconcept.training import TrainingSession, training_session
from unconcept.training.trajectories import GuidedSampler

CONTRACT_SETTINGS = {"iterations": 3, "steps": 3, "variants": 2, "lr": 0.001}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
REQUEST = Request(("dog",), ("",))
QUICK = {"iterations": 4, "steps": 4, "start": 0.25, "lr": 1e-3, "reworded_share": 0.0}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = KSCU(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def test_the_cards_table() -> None:
    found = key_steps(1, 14, 50, 750, 8)
    assert found[:36] == [(0, k) for k in range(14, 50)]
    assert found[287] == (0, 49)
    assert found[288] == (0, 15)
    assert len(found) == 750
    assert max(k for _, k in key_steps(1, 40, 50, 20_000, 1)) == 49
    firsts = [
        k
        for (_, before), (_, k) in zip(
            key_steps(1, 40, 50, 20_000, 1), key_steps(1, 40, 50, 20_000, 1)[1:], strict=False
        )
        if before == 49
    ]
    assert max(firsts) == 44
    assert key_steps(1, 40, 28, 3, 8)[0] == (0, 25)


def test_several_concepts_are_gone_through_in_turn() -> None:
    found = key_steps(2, 2, 4, 9, 2)
    assert found == [(0, 2), (0, 3), (1, 2), (1, 3), (0, 2), (0, 3), (1, 2), (1, 3), (0, 3)]


@pytest.mark.parametrize("family", EVERY)
def test_the_loss_written_out(family) -> None:
    """Of the first step, where the edited model is the unedited one: (1 + g)^2 and lambda2 lambda1(t)^2 times MSE(e_c,
    e_0).
    """
    assert_first_loss(family, "")


def test_about_an_anchor_the_empty_text_keeps_its_own_prediction() -> None:
    """Both errors are MSE(e_c, e_a) then: the leak is added to e_0, not to e_a."""
    assert_first_loss("sd1", "cat", reference="anchor")


def assert_first_loss(family, about, **settings) -> None:
    """(1 + g)^2 and lambda2 lambda1(t)^2 times the gap between the target and what guidance is about."""
    view = tiny.view(family)
    request, strengths = Request(("dog",), (about,)), {"negative_guidance": 1.5, "leak": 0.3, "null_weight": 0.7}
    _, losses = erased(view, request, iterations=1, **strengths, **settings)
    from unconcept.training.goals import TextEncodings
    from unconcept.training.trajectories import GuidedSampler

    walk = GuidedSampler(view, TextEncodings.of(view), 4, 3.0)
    x, t = walk.denoise_steps(walk.initial_latents([42 * 1_000_003]), ["dog"], 0, 1), walk.timestep(1)
    with torch.no_grad():
        gap = (view.denoise(x, t, ["dog"]) - view.denoise(x, t, [about])).square().mean().item()
    lambda1 = 0.3 * (1 - float(t[0]) / 1000)
    assert losses[0] == pytest.approx((2.5**2 + 0.7 * lambda1**2) * gap, rel=1e-5)


def test_calls_of_the_denoiser() -> None:
    """A window of three: the trajectory is begun once, then goes a step at a time; one call of the teacher and one of
    the student.
    """
    view = tiny.view("sd1", torch.float32)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    erased(view)
    assert rows == [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]


def test_two_calls_a_step_when_one_of_them_goes_on() -> None:
    view = tiny.view("sd1", torch.float32)
    calls = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: calls.append(torch.is_grad_enabled()))
    erased(view, iterations=6)
    # Two traversals of 1, 2, 3 steps: each is three steps of the trajectory, three calls of the teacher, three of the
    # student.
    assert calls.count(True) == 6
    assert calls.count(False) == 12


@pytest.mark.parametrize(
    ("kind", "inside"), [("object", False), ("explicit", False), ("style", True), ("person", True)]
)
def test_kinds_train_their_part(kind, inside) -> None:
    edit, _ = erased(tiny.view("sd1", torch.float32), Request(("dog",), ("",), kind=kind), iterations=1)
    assert {".attn2." in name for name in edit.names} == {inside}
    assert not any("norm" in name for name in edit.names)


def test_joint_transformers_train_every_attention() -> None:
    edit, _ = erased(tiny.view("flux", torch.float32), iterations=1)
    assert all(".attn." in name and "norm" not in name for name in edit.names)
    assert any("single" in name for name in edit.names)


@pytest.mark.parametrize("family", EVERY)
def test_without_its_own_parts_it_is_esd(family, monkeypatch) -> None:
    """lambda2 = 0, a window of all steps in random order, no rewordings: ESD on latents of the student, eta = g."""
    view, count, steps = tiny.view(family), 4, 4

    def drawn(seed):
        """What ESD draws at each step: the number of steps, the seed of the noise."""
        rng = torch.Generator().manual_seed(seed)
        return [
            [int(torch.randint(top, size, generator=rng)) for top, size in ((steps, ()), (2**31, (1,)))]
            for _ in range(count)
        ]

    seed = next(
        s
        for s in range(100)
        if all(k != before + 1 for (before, _), (k, _) in zip(drawn(s), drawn(s)[1:], strict=False))
    )
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        esd = ESD("x", 1.5, iterations=count, ddim_steps=steps, lr=1e-3, sampling="student", seed=seed).erase(
            view, REQUEST
        )
    monkeypatch.setattr("unconcept.methods.kscu.key_steps", lambda *given: [(0, k) for k, _ in drawn(seed)])
    begun = GuidedSampler.initial_latents
    monkeypatch.setattr(
        GuidedSampler,
        "initial_latents",
        lambda self, seeds: begun(self, [drawn(seed)[each - 42 * 1_000_003][1] for each in seeds]),
    )
    edit, own = erased(view, scope="xattn", start=0.0, null_weight=0.0, negative_guidance=1.5)
    assert own == pytest.approx([now - before for now, before in zip(losses, [0.0, *losses], strict=False)], rel=1e-6)
    assert edit.names == esd.names
    assert all(torch.allclose(edit.deltas[name], delta, rtol=1e-5, atol=1e-8) for name, delta in esd.deltas.items())


def test_rewordings() -> None:
    found = prompt_variants("red fox", ["a photo of {}", "{} in a photo"], 8, 3)
    assert found == prompt_variants("red fox", ["a photo of {}", "{} in a photo"], 8, 3)
    assert sorted(found[0].split()) == sorted(["a", "photo", "of", "red", "fox"])
    assert len(found[1].split()) == 4
    assert "red fox" in found[1]
    assert found[2].endswith("a photo of red fox")
    assert found[3].startswith("red fox in a photo ")
    assert 1 <= len(found[3].split()[-1]) <= 3


def test_rewordings_stand_at_the_end_alone() -> None:
    view = tiny.view("sd1")
    _, plain = erased(view)
    _, late = erased(view, reworded_share=0.5)
    assert late[:2] == plain[:2]
    assert late[2:] != pytest.approx(plain[2:], rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("start", 0.9),
        ("scope", "text"),
        ("steps", 0),
        ("loops", 0),
        ("lr", -1.0),
        ("reworded_share", 1.1),
        ("leak", -0.1),
        ("negative_guidance", -1.5),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(KSCU, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), iterations=5, reworded_share=0.4)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [0.0019875669, 0.0016635685, 0.00088353571, 0.0029795989, 0.0010768982]
NORM = 0.46460526
