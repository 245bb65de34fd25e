"""RGD against its two restricted gradients and a plain trainer written out, and the properties of its paper."""

from itertools import pairwise

import pytest
import torch

from tests import tiny
from tests.methods.plain_trainer import require_same_deltas, second_model
from unconcept.core import Request
from unconcept.core.errors import NumericsError, RequestError, SettingsError
from unconcept.core.seeds import picture_seeds
from unconcept.core.settings import build_settings
from unconcept.methods.rgd import RGD
from unconcept.models.diffusion.vae import encode_images
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training import TrainingSession, training_session
from unconcept.training.budget import number_in_turn
from unconcept.training.gradients.surgery import two_way_surgery
from unconcept.training.loop import Descent
from unconcept.training.parameter_groups import select_parameters
from unconcept.training.token_search import normal_noise

CONTRACT_SETTINGS = {"iterations": 2, "pictures": 2, "picture_steps": 2, "batch_size": 2, "lr": 0.001}

FAST = ("sd1", "flux")
FAMILIES = [
    pytest.param(family, marks=() if family in FAST else pytest.mark.slow) for family in (*tiny.FAMILIES, *tiny.MMDITS)
]
REQUEST = Request(("dog",), ("cat",), ("sun",))
QUICK = {
    "iterations": 3,
    "pictures": 3,
    "picture_steps": 2,
    "batch_size": 2,
    "lr": 1e-3,
    "train_method": "xattn",
    "templates": ("a {}", "old {}"),
    "m": 1e9,
}
FORGET, RETAIN = ["a dog", "old dog", "a dog"], ["a cat", "sun", "old cat"]


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = RGD(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def latents(view, prompts):
    noise = normal_noise(view.latent_shape, [torch.Generator().manual_seed(seed) for seed in picture_seeds(0, 3)])
    return encode_images(view, view.sample(prompts, noise, 2, 7.5))


def plainly(view, method):
    """A whole second model, flat gradients, Adam by torch: the deltas and losses."""
    student, rng = second_model(view), torch.Generator().manual_seed(0)
    own = denoiser_parameters(student)
    trained = [own[n] for n in select_parameters(own, "xattn")]
    before, rule, losses = [p.detach().clone() for p in trained], torch.optim.Adam(trained, lr=method.lr), []
    with torch.no_grad():
        sets = [(latents(view, prompts), prompts) for prompts in (FORGET, RETAIN)]
    for step in range(method.iterations):
        found = []
        for z0, prompts in sets:
            which = [number_in_turn(row, 3, 0) for row in (2 * step, 2 * step + 1)]
            z, t = z0[which], torch.randint(len(view.schedule.alpha), (2,), generator=rng)
            noise = torch.randn(z.shape, generator=rng).to(z)
            said = student.denoise(view.schedule.add_noise(z, noise, t), t, [prompts[i] for i in which])
            found.append((said - view.schedule.training_target(z, noise, t)).square().mean())
        l_f, l_r = found
        g_f, g_r = (
            torch.cat(
                [g.flatten() for g in torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)]
            )
            for loss in (-l_f, l_r)
        )
        if l_f > method.m:
            g_f = torch.zeros_like(g_f)
        first, second = g_f, g_r
        if method.restricted and g_f @ g_r < 0:
            first = g_f - (g_f @ g_r) / (g_r @ g_r) * g_r
            second = g_r - (g_r @ g_f) / (g_f @ g_f) * g_f
        used = first + method.alpha * second
        for p, g in zip(trained, used.split([p.numel() for p in trained]), strict=True):
            p.grad = g.view_as(p)
        rule.step()
        losses.append((l_r - (l_f if l_f <= method.m else 0 * l_f)).item())
    return [p.detach() - b for p, b in zip(trained, before, strict=True)], losses


def require_plain(view, **settings):
    edit, losses = erased(view, **settings)
    deltas, plain = plainly(view, RGD(**{**QUICK, **settings}))
    assert losses == pytest.approx(plain, abs=1e-6)  # A difference of two losses of about 1, which are float32.
    require_same_deltas(edit, deltas, 1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_plain_trainer(family) -> None:
    require_plain(tiny.view(family))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"restricted": False}, {"alpha": 0.3}, {"m": 0.0}, {"m": 1.0}])
def test_is_the_plain_trainer_in_every_form(settings) -> None:
    require_plain(tiny.view("sd1"), **settings)


def test_neither_gradient_harms_the_other() -> None:
    """<g_f*, g_r> >= 0 always, 0 in conflict; swapped roles swap; the length of the other does not matter."""
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        f, r = ([torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((3, 2), (4,))] for _ in range(2))
        inner = sum(float((a * b).sum()) for a, b in zip(f, r, strict=True))
        only = two_way_surgery("f", "r", 0.0)({"f": f, "r": r})
        left = sum(float((a * b).sum()) for a, b in zip(only, r, strict=True))
        assert left == pytest.approx(max(inner, 0.0), abs=1e-12)
        scaled = two_way_surgery("f", "r", 0.0)({"f": f, "r": [5.0 * b for b in r]})
        assert all(torch.allclose(a, b) for a, b in zip(only, scaled, strict=True))
        joined, swapped = (two_way_surgery(*names)({"f": f, "r": r}) for names in (("f", "r"), ("r", "f")))
        assert all(torch.allclose(a, b) for a, b in zip(joined, swapped, strict=True))
    against = two_way_surgery("f", "r", 1.6)({"f": f, "r": [-a for a in f]})
    assert max(float(g.abs().max()) for g in against) < 1e-12


def test_both_losses_of_two_quadratics_fall_until_the_conflict_is_total() -> None:
    """To forget, |x - a|^2 rises; to retain, |x - b|^2 falls."""
    x, a, b = torch.tensor([1.0, 0.2], dtype=torch.float64), torch.tensor([0.0, 0.0]), torch.tensor([0.5, 1.0])
    params, seen = [x.requires_grad_()], []

    def loss(step, rng):
        forget, retain = (params[0] - a).square().sum(), (params[0] - b).square().sum()
        seen.append((-forget.item(), retain.item()))
        return {"forget": -forget, "retain": retain}

    Descent(params, 1e-2, "sgd", join=two_way_surgery("forget", "retain", 1.6)).run(loss, 40)
    assert all(now[i] <= before[i] + 1e-3 for before, now in pairwise(seen) for i in (0, 1))
    assert seen[-1][1] < 0.8 * seen[0][1]


def test_above_m_nothing_is_unlearned() -> None:
    """The edit is that of relearning alone."""
    view = tiny.view("sd1")
    above, losses = erased(view, m=0.0)
    plain, _ = erased(view, m=0.0, restricted=False)
    assert all(
        torch.allclose(a, b, atol=1e-12) for a, b in zip(above.deltas.values(), plain.deltas.values(), strict=True)
    )
    assert min(losses) > 0


def test_both_sets_are_diverse_and_named_texts_are_among_the_retained() -> None:
    method, view = RGD(templates=("a {}", "old {}")), tiny.shared("sd1")
    request = Request(("dog", "fox"), ("cat", ""), ("sun", "car", "hat"))
    forget, retain = method._prompts(view, request)
    assert forget == [["a dog", "old dog"], ["a fox", "old fox"]]
    assert retain == [["a cat", "old cat"], ["sun", "car", "hat"]]
    _, retain = method._prompts(view, Request(("dog", "fox"), ("cat", "cow"), ("sun", "car", "hat")))
    assert retain == [["a cat", "old cat"], ["sun", "hat"], ["a cow", "old cow"], ["car"]]


def test_without_a_retain_set_it_is_one_line() -> None:
    with pytest.raises(RequestError, match=r"^rgd: nothing to relearn: .*name an anchor, or texts to retain$"):
        erased(tiny.view("sd1"), Request(("dog",), ("",)))


def test_calls_of_the_denoiser() -> None:
    """Two pictures of 2 guided steps for each set, then a call for each set in each step; no teacher."""
    view = tiny.view("sd1", torch.float32)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    erased(view)
    assert rows == [6, 6, 6, 6, *[2, 2] * 3]


def test_an_ascent_that_runs_away_is_one_line_with_the_last_good_state(tmp_path) -> None:
    with (
        pytest.raises(
            NumericsError, match=r"^rgd, step \d+ of 60: .*smaller lr.*; the state after \d+ steps"
        ) as caught,
        training_session(TrainingSession(folder=tmp_path)),
    ):
        RGD(**{**QUICK, "lr": 1e18, "iterations": 60}).erase(tiny.view("sd1", torch.float32), REQUEST)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("alpha", -1.0),
        ("m", -1.0),
        ("iterations", -1),
        ("lr", -1.0),
        ("batch_size", 0),
        ("pictures", 0),
        ("picture_steps", 0),
        ("train_method", "x"),
        ("templates", ["a dog"]),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "templates" else setting):
        build_settings(RGD, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), iterations=5, m=1.1)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [0.12995541, 0.037824631, -0.0094475746, -0.041887999, 0.070671082]
NORM = 0.155372632
