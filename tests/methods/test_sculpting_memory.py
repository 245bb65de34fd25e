"""Sculpting Memory: its three terms written out, its warm-up, its mask, and its stages."""

import pytest
import torch

from tests import tiny
from tests.killed import Killed, dying
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.hashing import hash_tensors
from unconcept.core.seeds import numbered_seed
from unconcept.core.settings import build_settings
from unconcept.methods.sculpting_memory import SculptingMemory, one_cycle_rate
from unconcept.models.hooks.modules import attention_linears, denoiser_parameters
from unconcept.training import TrainingSession, training_session
from unconcept.training.goals import TextEncodings
from unconcept.training.trajectories import GuidedSampler

CONTRACT_SETTINGS = {
    "num_epochs": 2,
    "pictures": 4,
    "warmup_steps": 1,
    "mask_update_interval": 1,
    "picture_steps": 2,
    "lr": 0.01,
}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
REQUEST = Request(("dog",), ("cat",))
QUICK = {"num_epochs": 2, "pictures": 4, "warmup_steps": 1, "mask_update_interval": 1, "picture_steps": 2, "lr": 1e-2}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(
        TrainingSession(lambda progress: losses.append((progress.loss * progress.done, progress.done)))
    ):
        edit = SculptingMemory(**{**QUICK, **settings}).erase(view, request)
    return edit, [total - (losses[i - 1][0] if done > 1 else 0.0) for i, (total, done) in enumerate(losses)]


@pytest.mark.parametrize("family", EVERY)
def test_the_losses_written_out(family) -> None:
    """The warm-up's, and the first step's behind it, where student, teacher and former model are still one."""
    view = tiny.view(family)
    _, losses = erased(view, num_epochs=1, warmup_steps=1, scale=0.3, scale_kd=0.7)
    walk = GuidedSampler(view, TextEncodings.of(view), 2, 7.5)
    forget = walk.denoise_steps(walk.initial_latents(range(4)), ["a photo of dog"] * 4, 0, 2)
    kept = walk.denoise_steps(
        walk.initial_latents(range(numbered_seed(1, 0), numbered_seed(1, 4))), ["a photo of cat"] * 4, 0, 2, ["dog"] * 4
    )
    order, rng = torch.randperm(4, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(2, *view.latent_shape, generator=rng).to(forget)  # noqa: E731
    with torch.no_grad():
        t, noise = torch.randint(len(view.schedule.alpha), (2,), generator=rng), draw()
        x, said = forget[order[:2]], ["a photo of dog"] * 2
        found = view.denoise(view.schedule.add_noise(x, noise, t), t, said) - view.schedule.training_target(x, noise, t)
        assert losses[0] == pytest.approx(found.square().mean().item(), rel=1e-4)
        t, noise, other = torch.randint(len(view.schedule.alpha), (2,), generator=rng), draw(), draw()
        x, y, above = forget[order[2:]], kept[order[2:]], ["a photo of cat"] * 2
        x_t, y_t = view.schedule.add_noise(x, noise, t), view.schedule.add_noise(y, other, t)
        own = (view.denoise(x_t, t, said) - view.denoise(x_t, t, above)).square().mean()
        aligned = (view.denoise(y_t, t, above) - view.schedule.training_target(y, other, t)).square().mean()
        assert losses[1] == pytest.approx((own + 0.3 * aligned).item(), rel=1e-4)


def test_the_optimizer_knows_nothing_of_the_warm_up() -> None:
    """The first step behind three that only chose the mask is a fresh Adam's: what moves,
    moves by the learning rate.
    """
    edit, _ = erased(tiny.view("sd1"), warmup_steps=3, num_epochs=1, batch_size=1)
    largest = max(delta.abs().max().item() for delta in edit.deltas.values())
    assert largest == pytest.approx(1e-2 * one_cycle_rate(0, 4), rel=1e-3)


def test_half_of_each_matrix_moves_and_biases_move_as_a_whole() -> None:
    view = tiny.view("sd1")
    edit, _ = erased(view, mask_update_interval=99)
    matrices = attention_linears(view)
    assert {name in matrices for name in edit.names} == {True, False}
    for name, delta in edit.deltas.items():
        share = (delta != 0).float().mean().item()
        assert share == (pytest.approx(0.5, abs=0.02) if name in matrices else pytest.approx(1.0, abs=0.02))


def test_a_mask_of_all_is_plain_training_and_momentum_leaves_a_mask() -> None:
    view = tiny.view("sd1")
    plain, _ = erased(view, update_percent=1.0, initial_turnover_fraction=0.0)
    turned, _ = erased(view, update_percent=1.0, initial_turnover_fraction=0.5)
    assert plain.hash == turned.hash
    moved = {compat: erased(view, num_epochs=4, compat=compat, scale_kd=0.0)[0] for compat in ("", "authors")}
    shares = {compat: sum((delta != 0).sum() for delta in edit.deltas.values()) for compat, edit in moved.items()}
    assert shares["authors"] >= shares[""]
    assert moved["authors"].hash != moved[""].hash


def test_the_released_code_never_distils() -> None:
    view = tiny.view("sd1")
    released = {scale: erased(view, compat="authors", scale_kd=scale)[1] for scale in (0.0, 5.0)}
    assert released[0.0] == released[5.0]
    assert erased(view, scale_kd=5.0)[1] != pytest.approx(erased(view, scale_kd=0.0)[1], rel=1e-6)


def test_a_super_class_that_is_read_as_the_class_leaves_its_own_loss_alone() -> None:
    """Two wordings of the same tokens: the concept-aware term is 0 at every step."""
    _, losses = erased(tiny.view("sd1"), Request(("dog",), ("dog ",)), scale=0.0, scale_kd=0.0)
    assert losses[1:] == [0.0] * (len(losses) - 1)


def test_each_stage_begins_where_the_former_ended() -> None:
    """Its first step behind a mask of all is asked of the best epoch of the stage before, bit for bit."""
    view, seen = tiny.view("sd1"), []
    names = erased(view)[0].names
    before = hash_tensors({name: p for name, p in denoiser_parameters(view).items() if name in names})

    def tell(progress) -> None:
        live = {f"unet.{name}": p for name, p in view.modules("denoiser").named_parameters()}
        seen.append((progress.name, progress.done, {name: live[name].detach().clone() for name in names}))

    method = SculptingMemory(**{**QUICK, "num_epochs": 3})
    with training_session(TrainingSession(tell)):
        edit = method.erase(view, Request(("dog", "fox"), ("cat", "bus")))
    first, second = ({done: now for name, done, now in seen if name == f"sculpting-memory-{k}"} for k in (1, 2))
    assert hash_tensors(first[1]) == before
    assert hash_tensors(second[1]) in {hash_tensors(first[done]) for done in (2, 4, 6)}
    assert hash_tensors(second[1]) != before
    own = view.reference(names)
    ends = [{name: now[name] - own[name] for name in names} for done, now in second.items() if done in (2, 4, 6)]
    assert edit.hash in {hash_tensors(end) for end in ends}


def test_killed_within_the_second_stage_and_gone_on_is_the_same_edit(tmp_path) -> None:
    view, request, seen = tiny.view("sd1", torch.float32), Request(("dog", "fox"), ("cat", "bus")), []
    method = SculptingMemory(**QUICK)
    whole = method.erase(view, request)

    with (
        pytest.raises(Killed),
        training_session(TrainingSession(dying(3, "sculpting-memory-2"), tmp_path, seconds=0.0)),
    ):
        method.erase(view, request)
    assert view.original_weights == {}
    with training_session(TrainingSession(lambda progress: seen.append((progress.name, progress.done)), tmp_path)):
        assert method.erase(view, request).hash == whole.hash
    assert seen == [("sculpting-memory-2", 3), ("sculpting-memory-2", 4)]


def test_words_for_one_concept_are_one_stage() -> None:
    view, request = tiny.view("sd1", torch.float32), Request(("dog", "hound"), ("cat", "cat"))
    assert len(erased(view, request, num_epochs=1)[1]) == 4
    assert len(erased(view, request, num_epochs=1, sequential=False)[1]) == 2


def test_the_cycle_is_as_long_as_all_steps_and_begins_after_the_warm_up() -> None:
    method = SculptingMemory(**{**QUICK, "num_epochs": 5, "warmup_steps": 3})
    plan = method._plan(tiny.shared("sd1"), ())
    assert plan.steps == 10
    assert [plan.rate(step) for step in range(3, 10)] == [one_cycle_rate(step, 10) for step in range(7)]


def test_every_target_of_a_stage_has_a_picture() -> None:
    longer = SculptingMemory(**QUICK)._for_targets(5)
    assert (QUICK["pictures"], longer.pictures, longer.num_epochs) == (4, 5, 5)  # least: one epoch for each target


def test_the_learning_rate_is_torchs_one_cycle() -> None:
    for steps in (4, 50, 450):
        rule = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
        theirs = torch.optim.lr_scheduler.OneCycleLR(rule, 1.0, total_steps=steps)
        for step in range(steps):
            assert one_cycle_rate(step, steps) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
            rule.step()
            if step + 1 < steps:
                theirs.step()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_epochs", 0),
        ("lr", -1.0),
        ("pictures", 1),
        ("warmup_steps", 500),
        ("warmup_steps", 0),
        ("update_percent", 0.0),
        ("update_percent", 1.5),
        ("initial_turnover_fraction", 2.0),
        ("mask_update_interval", 0),
        ("compat", "code"),
        ("prompt", "a photo"),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "prompt" else setting):
        build_settings(SculptingMemory, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), num_epochs=3)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [1.0776348, 0.26557264, 0.27913478, 0.2602753, 0.28316623, 0.27211222]
NORM = 0.016771573
