"""DoCo against a plain adversarial trainer written out, its surgery, and the properties of its paper."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests import tiny
from tests.methods.plain_trainer import require_same_deltas, second_model
from unconcept.core import Request
from unconcept.core.errors import NumericsError, SettingsError
from unconcept.core.settings import build_settings
from unconcept.methods.doco import DoCo
from unconcept.models.hooks.forward import detach_first_token
from unconcept.models.hooks.modules import cross_attention_maps, denoiser_parameters
from unconcept.training import TrainingSession, training_session
from unconcept.training.images.anchor_images import AnchorImages, anchor_pairs
from unconcept.training.images.discriminator import Discriminator, PatchNet
from unconcept.training.parameter_groups import select_parameters

CONTRACT_SETTINGS = {
    "iterations": 3,
    "warm_up": 1,
    "pictures": 2,
    "picture_steps": 2,
    "batch_size": 2,
    "lr": 0.001,
    "augment": False,
}

FAST = ("sd1", "flux")
FAMILIES = [
    pytest.param(family, marks=() if family in FAST else pytest.mark.slow) for family in (*tiny.FAMILIES, *tiny.MMDITS)
]
REQUEST = Request(("dog",), ("cat",))
QUICK = {
    "iterations": 4,
    "warm_up": 2,
    "pictures": 3,
    "picture_steps": 2,
    "batch_size": 2,
    "lr": 1e-3,
    "dlr": 1e-2,
    "augment": False,
    "mirror": False,
    "templates": ("a {}",),
}


def erased(view, request=REQUEST, folder=None, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done), folder)):
        edit = DoCo(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def patch_gan(view):
    """The authors' layers at latents of 8 x 8, where one of the halving convolutions is left."""
    channels = view.latent_shape[0]
    net = nn.Sequential(nn.Conv2d(channels, 64, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 4, 1, 1)).double()
    ours = PatchNet(channels, 8, 0, torch.float64)
    with torch.no_grad():
        for p, own in zip(net.parameters(), ours.weights, strict=True):
            p.copy_(own)
    return net


def literal_surgery(first, second, method):
    """Clips both gradients, and takes from each tensor of the first what is against that of the second."""
    for side in (first, second):
        norm = sum(float(g.square().sum()) for g in side) ** 0.5
        if norm > method.max_grad_norm:
            side[:] = [g * method.max_grad_norm / norm for g in side]
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        unit = b / b.norm()
        if method.surgery == "exact" and (a * b).sum() < 0:
            first[i] = a - method.lambda_ * (a * unit).sum() * unit
        if method.surgery == "authors" and (a * b).sum() < 0:
            first[i] = a - method.lambda_ * (a / a.norm() * unit).sum() * unit


def plainly(view, method):
    """A whole second model, a plain discriminator, gradients by tensor as the paper says: the deltas and losses."""
    student, critic, lossy = second_model(view), patch_gan(view), nn.BCEWithLogitsLoss()
    own = denoiser_parameters(student)
    trained = [own[n] for n in select_parameters(own, "kv")]
    before, losses = [p.detach().clone() for p in trained], []
    rule = torch.optim.AdamW(trained, lr=method.lr, weight_decay=method.weight_decay)
    judge = torch.optim.Adam(critic.parameters(), lr=method.dlr, betas=(0.5, 0.999))
    data = AnchorImages.drawn(view, anchor_pairs("doco", view, REQUEST, method), method, 3, needs_whole=True)
    rng, schedule, levels = torch.Generator().manual_seed(0), view.schedule, len(view.schedule.alpha)

    def noised(pick):
        z = data.latents[0][torch.randint(3, (2,), generator=rng)]
        for _ in range(pick):
            torch.randint(1, (), generator=rng)
        t = torch.randint(levels, (2,), generator=rng)
        noise = torch.randn(z.shape, generator=rng).to(z)
        return z, t, noise, schedule.add_noise(z, noise, t)

    for step in range(method.iterations):
        _, t, _, x_t = noised(2)
        with torch.no_grad():
            wanted = schedule.x0(view.denoise(x_t, t, ["a cat"] * 2), x_t, t)
        with detach_first_token(cross_attention_maps(student)):
            said = schedule.x0(student.denoise(x_t, t, ["a dog"] * 2), x_t, t)
            if step >= method.warm_up:
                z, t_p, noise, x_p = noised(0)
                prior = (student.denoise(x_p, t_p, ["a cat"] * 2) - schedule.training_target(z, noise, t_p)).square()
                logits = critic(said)
                terms = (lossy(logits, torch.zeros_like(logits)), method.prior_loss_weight * prior.mean())
                losses.append(sum(terms).item())
                first, second = (list(torch.autograd.grad(term, trained, retain_graph=True)) for term in terms)
                literal_surgery(first, second, method)
                for p, g in zip(trained, first, strict=True):
                    p.grad = g
        real, fake = critic(wanted), critic(said.detach())
        loss = lossy(fake, torch.ones_like(fake)) + lossy(real, torch.zeros_like(real))
        if step < method.warm_up:
            losses.append(loss.item())
        judge.zero_grad()
        loss.backward()
        judge.step()
        if step >= method.warm_up:
            rule.step()
    return [p.detach() - b for p, b in zip(trained, before, strict=True)], losses


def require_plain(view, **settings):
    edit, losses = erased(view, **settings)
    deltas, plain = plainly(view, DoCo(**{**QUICK, **settings}))
    assert losses == pytest.approx(plain, rel=1e-6)
    require_same_deltas(edit, deltas, 1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_plain_trainer(family) -> None:
    require_plain(tiny.view(family))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"surgery": "authors"}, {"lambda_": 0.5}, {"max_grad_norm": 1e-3}, {"lambda_": 0.0}]
)
def test_is_the_plain_trainer_in_every_form_of_surgery(settings) -> None:
    require_plain(tiny.view("sd1"), **settings)


def test_before_the_warm_up_is_over_the_denoiser_is_the_same_to_the_bit(tmp_path) -> None:
    """Decay too waits: after the warm-up's last step the saved tensors are those of the first."""
    view, states = tiny.view("sd1", torch.float32), tmp_path / "doco.safetensors"

    def stop(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), training_session(TrainingSession(stop, tmp_path, seconds=0.0)):
        DoCo(**{**QUICK, "warm_up": 3, "weight_decay": 0.5}).erase(view, REQUEST)
    kept, own = load_file(states), denoiser_parameters(view)
    assert len(kept["descent.losses"]) == 2
    for i, name in enumerate(select_parameters(own, "kv")):
        assert torch.equal(kept[f"descent.param.{i}"], own[name])


def test_the_teacher_under_the_anchor_is_the_student_under_it_at_first(monkeypatch) -> None:
    """With the anchor's prompt for both the discriminator sees the same twice, and cannot learn."""
    seen = []
    plain = Discriminator.learn
    monkeypatch.setattr(Discriminator, "learn", lambda self, a, b: seen.append((a, b)) or plain(self, a, b))
    erased(tiny.view("sd1"), request=Request(("dog",), ("DOG",)), iterations=1, warm_up=0)
    ((said, wanted),) = seen
    assert torch.allclose(said, wanted, atol=1e-12)


def test_calls_of_the_denoiser() -> None:
    """The teacher's and one under the target; after the warm-up one of the prior too."""
    view = tiny.view("sd1", torch.float32)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    erased(view)
    assert rows[-10:] == [2] * 10
    assert len(rows) == 2 + 10


@pytest.mark.slow
def test_no_surgery_adds_a_tenth_of_the_prior() -> None:
    view = tiny.view("sd1")
    _, with_surgery = erased(view)
    _, light = erased(view, surgery="none")
    _, none = erased(view, surgery="none", prior_loss_weight=0.0)
    prior = with_surgery[2] - none[2]
    assert prior > 0
    assert light[2] - none[2] == pytest.approx(0.1 * prior, rel=1e-6)


def test_a_discriminator_that_diverges_is_one_line_and_leaves_the_last_good_state(tmp_path) -> None:
    """Its rate is such that a second step is far away from the first."""
    with pytest.raises(NumericsError, match=r"^doco, step [1-9]\d* of 40: the discriminator diverged") as caught:
        erased(tiny.view("sd1", torch.float32), folder=tmp_path, dlr=1e4, iterations=40, warm_up=30)
    assert "\n" not in str(caught.value)
    assert "smaller" in str(caught.value)
    (state,) = tmp_path.iterdir()
    assert all(bool(torch.isfinite(t.double()).all()) for t in load_file(state).values())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("warm_up", 2000),
        ("lr", -1.0),
        ("dlr", -1.0),
        ("batch_size", 0),
        ("pictures", 0),
        ("lambda_", 1.1),
        ("noisiest", 0.0),
        ("max_grad_norm", 0.0),
        ("surgery", "both"),
        ("parameter_group", "embedding"),
        ("templates", ["a dog"]),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "templates" else setting):
        build_settings(DoCo, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), iterations=5, augment=True, noisiest=0.95)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [1.5289901, 1.3892506, 1.7200165, 2.4514398, 1.7969467]
NORM = 0.0907941866
