"""Noisy gradient descent against its step written out, record by record."""

import copy

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.methods import toy_classes
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.seeds import numbered_seed
from unconcept.methods.noisy_gd import NoisyGD
from unconcept.training import TrainingSession, training_session
from unconcept.training.budget import number_in_turn
from unconcept.training.forgetting.noisy_steps import StepNoise, clipped_record_mean
from unconcept.training.images.picture_sets import draw_latents

CONTRACT_SETTINGS = {"iterations": 2, "pictures": 2, "picture_steps": 2, "batch_size": 2}

REQUEST = Request(("hat", "cap"), ("red fox", "a moon"), ("dog", "a house"))
QUICK = {
    "iterations": 5, "pictures": 4, "picture_steps": 2, "batch_size": 3, "eta": 0.2, "sigma": 0.01, "clip": 0.05,
    "lamb": 0.3,
}  # fmt: skip
GOLDEN = [3.5082271099, 3.2596077919, 3.2016317844, 3.0052676201, 3.0423057079]


def erased(view, **settings):
    losses = []
    with training_session(TrainingSession(lambda told: losses.append(told.loss * told.done))):
        edit = NoisyGD(**{**QUICK, **settings}).erase(view, REQUEST)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def plainly(view):
    student, student.checkpoint = copy.copy(view), copy.copy(view.checkpoint)
    student.checkpoint.pipeline = copy.copy(view.pipeline)
    student.checkpoint.pipeline.unet = copy.deepcopy(view.pipeline.unet)
    trained = [p for n, p in student.pipeline.unet.named_parameters() if ".attn2.to_k." in n or ".attn2.to_v." in n]
    start, losses = [p.detach().clone() for p in trained], []
    anchors, kept = (draw_latents(view, texts, 4, 2, 4.0, 0) for texts in (REQUEST.anchors, REQUEST.retain))
    targets = ("hat", "cap", "hat", "cap")
    rng, noisy = torch.Generator().manual_seed(0), torch.Generator().manual_seed(numbered_seed(0, 1))
    for step in range(5):
        mine = number_in_turn(step, 4, 0)
        others = [number_in_turn(row, 4, 0) for row in (2 * step, 2 * step + 1)]
        x0 = torch.cat([anchors.latents[[mine]], kept.latents[others]])
        prompts = [targets[mine], *(kept.prompts[i] for i in others)]
        t, noise = torch.randint(1000, (3,), generator=rng), torch.randn(x0.shape, generator=rng).to(x0)
        level = view.pipeline.scheduler.alphas_cumprod[t].double()[:, None, None, None]
        x_t, total, mean = level.sqrt() * x0 + (1 - level).sqrt() * noise, 0.0, [torch.zeros_like(p) for p in trained]
        for i, prompt in enumerate(prompts):
            loss = (student.denoise(x_t[[i]], t[[i]], [prompt]) - noise[[i]]).float().square().mean()
            found = torch.autograd.grad(loss, trained)
            length = torch.cat([g.flatten() for g in found]).norm()
            assert length > 0.05  # or clipping would not be tested
            mean = [m + g * 0.05 / length / 3 for m, g in zip(mean, found, strict=True)]
            total += loss.item()
        with torch.no_grad():
            for p, m, s in zip(trained, mean, start, strict=True):
                p -= 0.2 * (m + 0.3 * (p - s))
            for p in trained:
                p += (2 * 0.2) ** 0.5 * 0.01 * torch.randn(p.shape, generator=noisy).to(p)
        losses.append(total)
    return losses, [p.detach() - s for p, s in zip(trained, start, strict=True)]


def test_is_the_plain_descent() -> None:
    view = tiny.view("sd1")
    edit, losses = erased(view)
    plain, deltas = plainly(view)
    assert losses == pytest.approx(plain, rel=1e-6)
    for ours, theirs in zip(edit.deltas.values(), deltas, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)
    assert losses == pytest.approx(GOLDEN, rel=1e-4)


def test_records_are_clipped_one_by_one() -> None:
    rng = torch.Generator().manual_seed(0)
    terms = {f"record {i}": [3.0**i * torch.randn(2, 3, generator=rng), torch.zeros(4)] for i in range(-3, 3)}
    found = clipped_record_mean(1.0)(terms)
    plain = sum(own[0] * min(1.0, 1.0 / float(own[0].norm())) for own in terms.values()) / 6
    assert torch.allclose(found[0], plain, atol=1e-6)
    assert found[0].norm() <= 1
    assert torch.equal(clipped_record_mean(1e9)(terms)[1], torch.zeros(4))


def test_noise_goes_on_from_its_state() -> None:
    whole, first, second = (StepNoise(0.5, 7) for _ in range(3))
    one, two = torch.zeros(9), torch.zeros(9)
    for step in range(4):
        whole.after_step([one])
        (first if step < 2 else second).after_step([two])
        if step == 1:
            second.restore(first.state())
    assert torch.equal(one, two)
    assert float(one.std()) == pytest.approx(1.0, rel=0.6)


def test_without_noise_or_clipping_a_classifier_is_trained_as_usual() -> None:
    toy, own = toy_classes.trained(), toy_classes.request([3])
    edit = NoisyGD(iterations=3, batch_size=4, eta=0.1, sigma=0.0, clip=1e9).forget(toy, own)
    before = {name: p.detach().clone() for name, p in toy.parameters().items()}
    rule = torch.optim.SGD(toy.network.parameters(), 0.1)
    for step in range(3):
        at = [number_in_turn(row, len(own.retain.y), 0) for row in range(4 * step, 4 * step + 4)]
        rule.zero_grad()
        F.cross_entropy(toy.network(own.retain.x[at]), own.retain.y[at]).backward()
        rule.step()
    for name, p in toy.parameters().items():
        assert torch.allclose(edit.deltas[name], p.detach() - before[name], atol=1e-6)


def test_nothing_of_the_deleted_is_read() -> None:
    """The step is a function of the released weights and of what stays."""
    toy, own = toy_classes.trained(), toy_classes.request([3])
    other = toy_classes.request([1])
    method = NoisyGD(iterations=2, batch_size=2)
    swapped = type(own)(other.forget, own.retain)
    assert method.forget(toy, own).hash == method.forget(toy, swapped).hash


def test_what_it_cannot_do_is_one_line() -> None:
    with pytest.raises(RequestError, match="retains nothing: name --retain"):
        NoisyGD().erase(tiny.view("sd1", torch.float32), Request(("hat",), ("cap",)))
    with pytest.raises(SettingsError, match="clip must be > 0"):
        NoisyGD(clip=0.0)
