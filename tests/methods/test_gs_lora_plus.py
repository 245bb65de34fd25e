"""GS-LoRA++: its prototypes written out beside GS-LoRA's plain trainer, and what they do to a classifier."""

import pytest
import torch

from tests import tiny
from tests.methods import toy_classes
from tests.methods.test_gs_lora import CLASS_SETTINGS, REQUEST, erased, plainly, require_plain
from tests.methods.toy_classes import accuracy
from unconcept.core import Request
from unconcept.core.errors import ModelError, RequestError, SettingsError
from unconcept.methods.gs_lora import GSLoRA
from unconcept.methods.gs_lora_plus import GSLoRAPlus
from unconcept.models.module_view import ModuleView
from unconcept.training import Regularisers, use_regularisers
from unconcept.training.forgetting.errors import StepErrors, softmax_divergence
from unconcept.training.forgetting.prototypes import Prototypes, record_features
from unconcept.training.forgetting.running_mean import RunningMean
from unconcept.training.images.picture_sets import draw_latents

CONTRACT_SETTINGS = {
    "iterations": 3,
    "pictures": 2,
    "picture_steps": 2,
    "batch_size": 2,
    "rank": 2,
    "lr": 1e-2,
    "bnd": 3.0,
}

GOLDEN = [2.5848903656, 2.5954608917, 2.6114048958, 2.6675014496, 2.6291043758]  # of `erased` with the settings below
SETTINGS = {"alpha": 0.01, "w_f": 3.0, "w_r": 2.0, "bnd_pro": 0.4}


def divergence(wanted, said):
    """KL of two softmaxes, row by row."""
    p, q = (row.double().softmax(0) for row in (wanted, said))
    return float((p * (p / q).log()).sum()) if not said.requires_grad else (p * (p / q).log()).sum()


def plain_prototypes(view):
    """The mean of the middle block's output by text and eighth of the way."""
    pictures = [draw_latents(view, texts, 4, 2, 4.0, 0) for texts in (REQUEST.targets, REQUEST.retain)]
    found, rng, seen = {}, torch.Generator().manual_seed(0), []
    hook = view.pipeline.unet.mid_block.register_forward_hook(lambda module, args, out: seen.append(out.mean((2, 3))))
    for side in pictures:
        for text in dict.fromkeys(side.prompts):
            x0 = torch.stack([x for x, own in zip(side.latents, side.prompts, strict=True) if own == text])
            noise = torch.randn(8 * len(x0), *x0.shape[1:], generator=rng).to(x0).unflatten(0, (8, len(x0)))
            for part, t in enumerate(range(62, 1000, 125)):
                level = view.pipeline.scheduler.alphas_cumprod[t].double()
                seen.clear()
                with torch.no_grad():
                    x_t = level.sqrt() * x0 + (1 - level).sqrt() * noise[part]
                    view.denoise(x_t, torch.full((len(x0),), t), [text] * len(x0))
                found[text, part] = seen[0].mean(0)
    hook.remove()
    return found


def test_is_the_plain_trainer_with_prototypes() -> None:
    view, own, features, history = tiny.view("sd1"), GSLoRAPlus(**SETTINGS), [], []
    prototypes = plain_prototypes(view)

    def extra(said, texts, t):
        rows = [
            divergence(prototypes[text, int(time) * 8 // 1000], h)
            for text, time, h in zip(texts, t, features[-2], strict=True)
        ]
        away, near = sum(rows[:2]) / 2, sum(rows[2:]) / 2
        return own.w_f * torch.clamp(own.bnd_pro - away, min=0) + own.w_r * near

    middle = type(view.pipeline.unet.mid_block)

    def keep(module, args, out):
        if isinstance(module, middle):
            features.append(out.mean((2, 3)))

    edit, losses = erased(view, method=GSLoRAPlus, **SETTINGS, ema_decay=0.6, ema_begin=0.4)
    hook = torch.nn.modules.module.register_module_forward_hook(keep)
    plain, factors = plainly(view, extra=extra, history=history, alpha=0.01)
    hook.remove()
    means = history[2]
    for later in history[3:]:
        means = [0.6 * mean + 0.4 * now for mean, now in zip(means, later, strict=True)]
    names = [(name, side) for name in factors for side in (0, 1)]
    for (name, side), mean in zip(names, means, strict=True):
        factors[name][side] = mean
    require_plain(edit, losses, plain, factors)
    assert losses == pytest.approx(GOLDEN, rel=1e-4)


def test_without_prototypes_and_mean_it_is_gs_lora() -> None:
    view = tiny.view("sd1")
    ours, losses = erased(view, method=GSLoRAPlus, w_f=0.0, ema_decay=0.0)
    plain, other = erased(view)
    assert losses == pytest.approx(other, rel=1e-6)
    assert all(torch.allclose(ours.pairs[name][0], up, atol=1e-6) for name, (up, _) in plain.pairs.items())


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "pixart"])
def test_features_are_one_row_a_picture(family) -> None:
    view = tiny.view(family, torch.float32)
    x = torch.randn(2, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    with record_features(view) as seen, torch.no_grad():
        view.denoise(torch.cat([x, x[:1]]), torch.tensor([500, 200, 500]), ["dog", "cat", "dog"])
    (found,) = seen
    assert found.shape[0] == 3
    assert torch.allclose(found[0], found[2], atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_the_distance_is_the_kl_divergence() -> None:
    rng = torch.Generator().manual_seed(0)
    wanted, said = torch.randn(3, 5, generator=rng), torch.randn(3, 5, generator=rng)
    plain = [divergence(p, q) for p, q in zip(wanted, said, strict=True)]
    assert softmax_divergence(wanted, said).item() == pytest.approx(sum(plain) / 3, rel=1e-6)
    assert softmax_divergence(wanted, wanted + 3.0).item() == pytest.approx(0.0, abs=1e-6)
    own = Prototypes({1: wanted[:1], 2: wanted[1:2]})
    away, near = own.distances(StepErrors(said, said, [2, 1]), said[:2])
    assert [away.item(), near.item()] == pytest.approx([divergence(wanted[1], said[0]), divergence(wanted[0], said[1])])


def test_the_mean_of_weights_is_the_one_after_other_rules() -> None:
    """Frozen numbers stay frozen to the bit in the mean too."""
    view = tiny.view("sd1", torch.float32)
    with use_regularisers(Regularisers(selft_topk=0.1), REQUEST):
        edit = GSLoRAPlus(**CONTRACT_SETTINGS).erase(view, REQUEST)
    ups = torch.cat([up.flatten() for up, _ in edit.pairs.values()])
    everything = sum(t.numel() for pair in edit.pairs.values() for t in pair)
    assert 0 < int((ups != 0).sum()) <= 0.1 * everything


def test_a_running_mean_goes_on_from_its_state() -> None:
    rows = [torch.full((2,), float(i)) for i in range(5)]
    whole, first, second = (RunningMean(0.5, 1) for _ in range(3))
    for i, row in enumerate(rows):
        whole.gradient(i, [], [row])
        (first if i < 3 else second).gradient(i, [], [row])
        if i == 2:
            second.restore(first.state())
    for one in (whole, second):
        last = torch.full((2,), 9.0)
        one.take_means([last])
        assert last.tolist() == [6.125, 6.125]


def test_a_sequence_of_requests_on_a_classifier() -> None:
    toy = toy_classes.trained()
    settings = {**CLASS_SETTINGS, "w_f": 0.05, "ema_decay": 0.9}
    first = GSLoRAPlus(**settings).forget(toy, toy_classes.request([3]))
    with first.applied(toy):
        second = GSLoRAPlus(**settings).forget(toy, toy_classes.request([1], earlier=(3,)))
        with second.applied(toy):
            assert accuracy(toy, [1]) <= 0.05
            assert accuracy(toy, [3]) <= 0.05
            assert accuracy(toy, [0, 2, 4]) >= 0.95


def test_prototypes_move_the_features_away() -> None:
    toy, moved = toy_classes.trained(), {}
    own = toy_classes.request([3])
    with record_features(toy) as seen, torch.no_grad():
        toy.network(own.forget.x)
    mean = seen[0].mean(0)
    for name, edit in (
        ("plain", GSLoRA(**CLASS_SETTINGS).forget(toy, own)),
        ("plus", GSLoRAPlus(**CLASS_SETTINGS, w_f=5.0).forget(toy, own)),
    ):
        with edit.applied(toy), record_features(toy) as seen, torch.no_grad():
            toy.network(own.forget.x)
        moved[name] = softmax_divergence(mean.expand_as(seen[0]), seen[0]).item()
    assert moved["plus"] > 1.2 * moved["plain"]


def test_what_it_cannot_do_is_one_line() -> None:
    with pytest.raises(RequestError, match="retains nothing: name --retain"):
        GSLoRAPlus().erase(tiny.view("sd1", torch.float32), Request(("hat",), ("cap",)))
    convolutions = ModuleView(torch.nn.Conv2d(1, 2, 3), "a small CNN")
    with pytest.raises(ModelError, match="no linear map"):
        GSLoRAPlus().forget(convolutions, toy_classes.request([3]))
    with pytest.raises(SettingsError, match="ema_decay must be 0 to below 1"):
        GSLoRAPlus(ema_decay=1.0)
