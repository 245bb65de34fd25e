"""The stochastic teacher against its two phases written out, and the shapes that its paper names, on a classifier."""

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.killed import Killed, dying
from tests.methods import toy_classes
from tests.methods.plain_trainer import second_model
from tests.methods.toy_classes import CLASSES, accuracy
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.hashing import hash_tensors
from unconcept.methods.stochastic_teacher import StochasticTeacher
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training import TrainableWeights, TrainingSession, training_session
from unconcept.training.budget import number_in_turn
from unconcept.training.forgetting.random_teacher import RandomTeacher
from unconcept.training.images.picture_sets import draw_latents
from unconcept.training.parameter_groups import select_parameters

CONTRACT_SETTINGS = {"iterations": 2, "repair_iterations": 2, "pictures": 2, "picture_steps": 2, "batch_size": 2}

REQUEST = Request(("hat", "cap"), ("red fox", "red fox"), ("dog", "a house"))
QUICK = {"iterations": 3, "repair_iterations": 3, "pictures": 4, "picture_steps": 2, "batch_size": 2, "alpha": 0.7}
GOLDEN = [0.008315186, 0.0093016727, 0.0167787932, 0.3195679188, 0.3496070802, 0.3181334138]  # erasing, repairing
CLASS_SETTINGS = {
    "iterations": 10,
    "repair_iterations": 10,
    "lr": 0.05,
    "optimizer": "sgd",
    "batch_size": 16,
    "alpha": 0.1,
}


def erased(view, **settings):
    losses = []
    with training_session(TrainingSession(lambda told: losses.append((told.name, told.loss * told.done)))):
        edit = StochasticTeacher(**{**QUICK, **settings}).erase(view, REQUEST)
    sums = {name: [total for own, total in losses if own == name] for name in dict.fromkeys(n for n, _ in losses)}
    return edit, [now - before for own in sums.values() for now, before in zip(own, [0.0, *own], strict=False)]


def networks(view):
    """The student, and the random teacher: a second and a third model."""
    found = []
    for _ in range(2):
        own = second_model(view)
        found.append(own)
    student, stranger = found
    rng = torch.Generator().manual_seed(0)
    for name, own in stranger.pipeline.unet.named_parameters():
        if ".attn2.to_k." in name or ".attn2.to_v." in name:
            own.data = ((2 * torch.rand(own.shape, generator=rng) - 1) / own.shape[1] ** 0.5).to(own)
    return student, stranger


def plainly(view):
    student, stranger = networks(view)
    trained = [p for n, p in student.pipeline.unet.named_parameters() if ".attn2.to_k." in n or ".attn2.to_v." in n]
    before, losses = [p.detach().clone() for p in trained], []
    for texts, teacher in ((REQUEST.targets, stranger), (REQUEST.retain, view)):
        pictures, rng = draw_latents(view, texts, 4, 2, 4.0, 0), torch.Generator().manual_seed(0)
        rule = torch.optim.Adam(trained, lr=1e-3)
        for step in range(3):
            at = [number_in_turn(row, 4, 0) for row in (2 * step, 2 * step + 1)]
            x0, prompts = pictures.latents[at], [pictures.prompts[i] for i in at]
            t, noise = torch.randint(1000, (2,), generator=rng), torch.randn(x0.shape, generator=rng).to(x0)
            level = view.pipeline.scheduler.alphas_cumprod[t].double()[:, None, None, None]
            x_t = level.sqrt() * x0 + (1 - level).sqrt() * noise
            with torch.no_grad():
                wanted = teacher.denoise(x_t, t, prompts)
            said = student.denoise(x_t, t, prompts)
            loss = (said - wanted).float().square().mean()
            if teacher is view:
                loss = 0.7 * loss + 0.3 * (said - noise).float().square().mean()
            rule.zero_grad()
            loss.backward()
            rule.step()
            losses.append(loss.item())
    return losses, [p.detach() - b for p, b in zip(trained, before, strict=True)]


def test_is_the_plain_trainer() -> None:
    view = tiny.view("sd1")
    edit, losses = erased(view)
    plain, deltas = plainly(view)
    assert losses == pytest.approx(plain, rel=1e-6)
    apart = sum((ours - theirs).square().sum() for ours, theirs in zip(edit.deltas.values(), deltas, strict=True))
    assert apart < 1e-8 * sum(theirs.square().sum() for theirs in deltas)
    assert losses == pytest.approx(GOLDEN, rel=1e-4)


def test_teachers_stay_what_they_were() -> None:
    view = tiny.view("sd1", torch.float32)
    trained = TrainableWeights(view, select_parameters(denoiser_parameters(view), "kv"))
    stranger, model = RandomTeacher(trained, 3), hash_tensors(denoiser_parameters(view))
    values = hash_tensors(stranger.values)
    with trained.student(), stranger.predicting():
        assert hash_tensors({name: denoiser_parameters(view)[name] for name in stranger.values}) == values
    assert hash_tensors(stranger.values) == values
    assert hash_tensors(denoiser_parameters(view)) == model
    assert hash_tensors(RandomTeacher(trained, 4).values) != values
    StochasticTeacher(**CONTRACT_SETTINGS).erase(view, REQUEST)
    assert hash_tensors(denoiser_parameters(view)) == model


def test_a_random_classifier_begins_as_torch_begins_one() -> None:
    toy = toy_classes.trained()
    own = RandomTeacher(TrainableWeights(toy, tuple(toy.parameters())), 0).values
    fresh = toy_classes.network().state_dict()
    for name, value in own.items():
        usual = fresh[name.removeprefix("network.")]
        assert value.shape == usual.shape
        assert float(value.std()) == pytest.approx(float(usual.std()), rel=0.35, abs=1e-6), name
    assert all(bool((value == 1).all()) for name, value in own.items() if name.endswith("norm.weight"))


def test_without_steps_nothing_changes_to_the_bit() -> None:
    toy = toy_classes.trained()
    own = StochasticTeacher(**{**CLASS_SETTINGS, "iterations": 0, "repair_iterations": 0})
    assert not any(delta.any() for delta in own.forget(toy, toy_classes.request([3])).deltas.values())


def test_the_first_losses_are_the_two_divergences() -> None:
    """Repairing from the network before by itself begins at no loss."""
    toy, own, losses = toy_classes.trained(), toy_classes.request([3]), []
    with training_session(TrainingSession(lambda told: losses.append(told.loss))):
        method = StochasticTeacher(
            **{**CLASS_SETTINGS, "iterations": 1, "repair_iterations": 1, "lr": 0.0, "alpha": 1.0}
        )
        method.forget(toy, own)
        StochasticTeacher(**{**CLASS_SETTINGS, "iterations": 0, "repair_iterations": 1, "alpha": 0.25}).forget(toy, own)
    at = [number_in_turn(row, len(own.forget.y), 0) for row in range(16)]
    stranger = RandomTeacher(TrainableWeights(toy, tuple(toy.parameters())), 0)
    with torch.no_grad(), stranger.predicting():
        wanted = toy.network(own.forget.x[at]).softmax(1)
    said = toy.network(own.forget.x[at]).softmax(1).detach()
    first = float((wanted * (wanted / said).log()).sum(1).mean())
    at = [number_in_turn(row, len(own.retain.y), 0) for row in range(16)]
    labels = F.cross_entropy(toy.network(own.retain.x[at]), own.retain.y[at]).item()
    assert losses == pytest.approx([first, 0.0, 0.75 * labels], rel=1e-4, abs=1e-6)


def test_a_class_is_forgotten_and_the_others_are_kept() -> None:
    """Before the repair too. Whether erasing alone harms others is a figure of docs/classifiers.md."""
    toy = toy_classes.trained()
    for repair in (0, 20):
        settings = {**CLASS_SETTINGS, "iterations": 60, "repair_iterations": repair}
        with StochasticTeacher(**settings).forget(toy, toy_classes.request([3])).applied(toy):
            assert accuracy(toy, [3]) <= 0.05
            assert accuracy(toy, [0, 1, 2, 4]) >= 0.95
    assert accuracy(toy, list(range(CLASSES))) > 0.95


def test_killed_in_either_phase_it_goes_on_to_the_same_edit(tmp_path) -> None:
    toy, own = toy_classes.trained(), toy_classes.request([3])
    method = StochasticTeacher(**{**CLASS_SETTINGS, "iterations": 4, "repair_iterations": 4})
    whole = method.forget(toy, own)
    for kill in (2, 4):
        folder = tmp_path / str(kill)
        with pytest.raises(Killed), training_session(TrainingSession(dying(kill), folder, seconds=0.0)):
            method.forget(toy, own)
        with training_session(TrainingSession(folder=folder)):
            assert method.forget(toy, own).hash == whole.hash


def test_what_it_cannot_do_is_one_line() -> None:
    with pytest.raises(RequestError, match="retains nothing: name --retain"):
        StochasticTeacher().erase(tiny.view("sd1", torch.float32), Request(("hat",), ("cap",)))
    with pytest.raises(SettingsError, match="alpha is a share, 0 to 1, got 2"):
        StochasticTeacher(alpha=2.0)
