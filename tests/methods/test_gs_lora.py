"""GS-LoRA against a plain trainer of its equation, and what its paper promises, on a classifier and on tiny models."""

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.methods import toy_classes
from tests.methods.plain_trainer import second_model
from tests.methods.toy_classes import CLASSES, accuracy
from unconcept.core import Request
from unconcept.core.errors import ModelError, NumericsError, RequestError, SettingsError
from unconcept.methods.gs_lora import GSLoRA
from unconcept.models.module_view import ModuleView
from unconcept.training import TrainingSession, training_session
from unconcept.training.forgetting.examples import ClassRequest
from unconcept.training.forgetting.group_lora import adapter_groups, bounded_ascent, group_sparsity
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

REQUEST = Request(("hat", "cap"), ("red fox", "red fox"), ("dog", "a house"))
QUICK = {
    "iterations": 5,
    "pictures": 4,
    "picture_steps": 2,
    "batch_size": 2,
    "rank": 2,
    "lr": 1e-2,
    "beta": 0.7,
    "bnd": 3.0,
}
GOLDEN = [1.3803985119, 1.4015636444, 1.4143407345, 1.4732365608, 1.4405544996]  # of `erased` with alpha 0.01
CLASS_SETTINGS = {"iterations": 60, "lr": 1e-2, "batch_size": 24, "bnd": 15.0, "beta": 0.15, "rank": 4, "alpha": 0.0}


def erased(view, request=REQUEST, method=GSLoRA, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = method(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def turns(count, rows):
    """The order of pictures: every epoch once through all of them, at random."""
    from unconcept.training.budget import number_in_turn

    return [number_in_turn(row, count, 0) for row in range(rows)]


def feed_forward(network):
    """The two maps of each block of a UNet, by the block."""
    blocks = [name for name, _ in network.named_modules() if name.endswith("transformer_blocks.0")]
    return {block: [f"{block}.ff.net.0.proj", f"{block}.ff.net.2"] for block in blocks}


def hung_factors(student, names, rank):
    """Factors of each linear layer, hung into the model as hooks."""
    network, rng, factors = student.pipeline.unet, torch.Generator().manual_seed(0), {}
    for name in names:
        o, d = network.get_submodule(name).weight.shape
        down = (2 * torch.rand(rank, d, generator=rng) - 1) / d**0.5
        factors[name] = [torch.zeros(o, rank, requires_grad=True), down.requires_grad_()]

        def adapt(module, args, out, name=name):
            up, down = factors[name]
            return out + (args[0].to(down) @ down.T @ up.T).to(out)

        network.get_submodule(name).register_forward_hook(adapt)
    return factors


def plainly(view, steps=5, rows=2, extra=lambda *given: 0.0, history=None, **settings):
    """A whole second model with factors of its own, Adam by torch: its losses and its factors by name."""
    own = GSLoRA(**{**QUICK, **settings})
    student, blocks = second_model(view), feed_forward(view.pipeline.unet)
    factors = hung_factors(student, [name for names in blocks.values() for name in names], own.rank)
    trained = [t for pair in factors.values() for t in pair]
    rule = torch.optim.AdamW(trained, lr=own.lr, weight_decay=0.05)
    pictures = [draw_latents(view, texts, 4, 2, 4.0, 0) for texts in (REQUEST.targets, REQUEST.retain)]
    order, rng, losses = turns(4, steps * rows), torch.Generator().manual_seed(0), []
    for step in range(steps):
        at = order[step * rows : (step + 1) * rows]
        x0 = torch.cat([side.latents[at] for side in pictures])
        texts = [side.prompts[i] for side in pictures for i in at]
        t = torch.randint(1000, (2 * rows,), generator=rng)
        noise = torch.randn(x0.shape, generator=rng).to(x0)
        level = view.pipeline.scheduler.alphas_cumprod[t].double()[:, None, None, None]
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * noise
        said = student.denoise(x_t, t, texts)
        with torch.no_grad():
            teacher = view.denoise(x_t[rows:], t[rows:], texts[rows:])
        forget = (said[:rows] - noise[:rows]).float().square().mean()
        retain = (said[rows:] - teacher).float().square().mean()
        lasso = sum(
            torch.cat([t.flatten() for name in names for t in factors[name]]).norm() for names in blocks.values()
        )
        alpha = own.alpha if step >= own.alpha_warm_up else 0.0
        loss = retain + own.beta * torch.clamp(own.bnd - forget, min=0) + alpha * lasso + extra(student, texts, t)
        for group in rule.param_groups:
            group["lr"] = (
                own.lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps, dtype=torch.float64)).item())
            )
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(loss.item())
        if history is not None:
            history.append([t.detach().clone() for t in trained])
    return losses, factors


def require_plain(edit, losses, plain, factors):
    assert losses == pytest.approx(plain, rel=1e-5)
    assert edit.names == tuple(sorted(f"unet.{name}.weight" for name in factors))
    apart = total = 0.0
    for name, (up, down) in factors.items():
        ours, theirs = edit.delta(f"unet.{name}.weight", up), (up @ down).detach()
        apart, total = apart + float((ours - theirs).square().sum()), total + float(theirs.square().sum())
    assert apart < 1e-6 * total


@pytest.mark.parametrize("settings", [{}, {"alpha": 0.3, "alpha_warm_up": 2, "bnd": 1.15}])
def test_is_the_plain_trainer(settings) -> None:
    view = tiny.view("sd1")
    require_plain(*erased(view, **settings), *plainly(view, **settings))


def test_golden_losses() -> None:
    _, losses = erased(tiny.view("sd1"), alpha=0.01)
    assert losses == pytest.approx(GOLDEN, rel=1e-4)


def test_beyond_its_bound_nothing_is_pushed() -> None:
    error = torch.tensor([14.9, 15.0, 15.1], requires_grad=True)
    found = bounded_ascent(error, 15.0)
    assert found.tolist() == pytest.approx([0.1, 0.0, 0.0], abs=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), error)
    assert gradient.tolist() == [-1.0, 0.0, 0.0]


def test_group_sparsity_is_the_norm_of_all_numbers_of_a_group() -> None:
    rng = torch.Generator().manual_seed(0)
    groups = [[torch.randn(3, 2, generator=rng), torch.randn(2, 5, generator=rng)] for _ in range(3)]
    each = [torch.cat([t.flatten() for t in own]).norm().item() for own in groups]
    assert group_sparsity(groups).item() == pytest.approx(sum(each), rel=1e-6)
    scaled = [[4 * t for t in groups[0]], *groups[1:]]
    assert group_sparsity(scaled).item() == pytest.approx(sum(each) + 3 * each[0], rel=1e-6)
    zero = torch.zeros(3, requires_grad=True)
    assert torch.autograd.grad(group_sparsity([[zero]]), zero)[0].tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("family", "layers", "maps"),
    [
        ("sd1", "ffn", 2),
        ("sdxl", "kv", 2),
        ("sd3", "ffn", 4),
        ("sd3", "kv", 2),
        ("flux", "ffn", 4),
        ("pixart", "ffn", 2),
    ],
)
def test_a_group_is_a_block(family, layers, maps) -> None:
    groups = adapter_groups(tiny.view(family), layers, "gs-lora")
    assert all("blocks." in block for block in groups)
    counts = {block: len(own) for block, own in groups.items() if "single" not in block}
    # The last block of SD3 has no feed-forward layer of its text.
    assert max(counts.values()) == maps
    assert all(len(own) == 1 for block, own in groups.items() if "single" in block)


def test_without_steps_it_is_the_identity() -> None:
    view, toy = tiny.view("sd1"), toy_classes.trained()
    edit, _ = erased(view, iterations=0)
    own = GSLoRA(**{**CLASS_SETTINGS, "iterations": 0}).forget(toy, toy_classes.request([3]))
    assert all(not up.any() for found in (edit, own) for up, _ in found.pairs.values())


def forgotten(view, classes, earlier=(), method=GSLoRA, **settings):
    return method(**{**CLASS_SETTINGS, **settings}).forget(view, toy_classes.request(classes, earlier))


def test_a_sequence_of_requests_on_a_classifier() -> None:
    """Class after class is forgotten, the others are kept, and what went earlier stays away."""
    toy = toy_classes.trained()
    assert accuracy(toy, list(range(CLASSES))) > 0.95
    first = forgotten(toy, [3])
    with first.applied(toy):
        assert accuracy(toy, [3]) <= 0.05
        assert accuracy(toy, [0, 1, 2, 4]) >= 0.95
        x = toy_classes.data(2).x
        said = toy.network(x)
        second = forgotten(toy, [1], earlier=(3,))
        assert torch.equal(toy.network(x), said)
        with second.applied(toy):
            assert accuracy(toy, [1]) <= 0.05
            assert accuracy(toy, [3]) <= 0.05
            assert accuracy(toy, [0, 2, 4]) >= 0.95
            both = toy.network(x)
    deltas = {
        name: first.delta(name, p) + second.delta(name, p)
        for name, p in toy.parameters().items()
        if name in first.names
    }
    for name, delta in deltas.items():
        toy.network.get_parameter(name.removeprefix("network.")).data += delta
    assert torch.allclose(toy.network(x), both, atol=1e-4)


def test_too_strong_a_sparsity_forgets_nothing_unless_it_warms_up() -> None:
    """Both factors shrink to 0, where no gradient is left; the paper's warm-up is what helps."""
    collapsed, toy = forgotten(toy_classes.trained(), [3], alpha=1.0), toy_classes.trained()
    warmed = forgotten(toy, [3], alpha=0.03, alpha_warm_up=30)
    with collapsed.applied(toy):
        assert accuracy(toy, [3]) > 0.9
    with warmed.applied(toy):
        assert accuracy(toy, [3]) <= 0.05
    assert collapsed.solve_figures["least_block_norm"] < 1e-2 < warmed.solve_figures["least_block_norm"]
    assert warmed.solve_figures["blocks"] == 3


def test_what_it_cannot_do_is_one_line() -> None:
    view = tiny.view("sd1", torch.float32)
    with pytest.raises(RequestError, match="retains nothing: name --retain"):
        GSLoRA(**QUICK).erase(view, Request(("hat",), ("cap",)))
    convolutions = ModuleView(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten()), "a small CNN")
    with pytest.raises(ModelError, match=r"a small CNN has no feed-forward layers.*give a transformer"):
        GSLoRA(**CLASS_SETTINGS).forget(convolutions, toy_classes.request([3]))
    full, nothing = toy_classes.request([3]), toy_classes.data(1).of_classes([])
    with pytest.raises(RequestError, match="no images to retain"):
        ClassRequest(full.forget, nothing)
    with pytest.raises(RequestError, match="nothing to forget"):
        ClassRequest(nothing, full.retain)
    with pytest.raises(SettingsError, match="rank must be > 0"):
        GSLoRA(rank=0)


def test_a_training_that_diverges_keeps_its_last_good_state(tmp_path) -> None:
    toy = toy_classes.trained()
    with (
        pytest.raises(NumericsError, match=r"gs-lora, step .*is saved in"),
        training_session(TrainingSession(folder=tmp_path, seconds=0.0)),
    ):
        forgotten(toy, [3], lr=1e18)
    assert accuracy(toy, list(range(CLASSES))) > 0.95


def test_calls_of_the_denoiser() -> None:
    """After two steps of drawing: the student's rows of both sides, and the teacher's of what is retained."""
    view, rows = tiny.view("sd1", torch.float32), []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    erased(view)
    assert rows == [*[8, 8] * 2, *[2, 4] * 5]


def test_the_loss_of_a_classifier_is_cross_entropy() -> None:
    toy, own = toy_classes.trained(), toy_classes.request([3])
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss))):
        GSLoRA(iterations=1, batch_size=4, bnd=9.0, beta=0.5, alpha=0.0).forget(toy, own)
    at = [turns(len(side.y), 4) for side in (own.forget, own.retain)]
    forget, retain = (
        F.cross_entropy(toy.network(side.x[i]), side.y[i]).item()
        for side, i in zip((own.forget, own.retain), at, strict=True)
    )
    assert losses == [pytest.approx(retain + 0.5 * (9.0 - forget), rel=1e-5)]
