"""Scissorhands against its re-initialisation and its repair written out, and the properties that follow from them."""

import pytest
import torch

from tests import tiny
from tests.methods.plain_trainer import require_same_deltas, second_model
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.seeds import numbered_seed, picture_seeds
from unconcept.core.settings import build_settings
from unconcept.methods.scissorhands import Scissorhands
from unconcept.models.diffusion.vae import encode_images
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training import TrainingSession, training_session
from unconcept.training.budget import number_in_turn
from unconcept.training.forgetting.gradient_memory import GradientMemory
from unconcept.training.images.training_images import generate_images
from unconcept.training.parameter_groups import select_parameters

CONTRACT_SETTINGS = {
    "epochs": 2,
    "batch_size": 2,
    "prune_num": 1,
    "pictures": 3,
    "retain_pictures": 2,
    "picture_steps": 2,
    "train_method": "selfattn",
    "sparsity": 0.9,
    "lr": 0.001,
}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
FAST = ("sd1",)
REQUEST = Request(("hat",), ("red fox",), ("cat", "sun"))
QUICK = {
    **CONTRACT_SETTINGS,
    "epochs": 1,
    "prune_num": 2,
    "retain_pictures": 3,
    "templates": ("a {}",),
    "lam": 0.4,
    "reset": "selfattn",
}


def erased(view, request=REQUEST, **settings):
    """The edit, and the losses of its repair."""
    losses = {}
    session = TrainingSession(lambda p: losses.setdefault(p.name, []).append(p.loss * p.done))
    with training_session(session):
        edit = Scissorhands(**{**QUICK, **settings}).erase(view, request)
    totals = losses.get("scissorhands", [])
    return edit, [now - before for now, before in zip(totals, [0.0, *totals], strict=False)]


class Literal:
    """A whole second model, every prediction by a call of its own, the threshold by sorting, Adam by torch."""

    def __init__(self, view, **settings) -> None:
        self.view, self.student, self.own = view, second_model(view), Scissorhands(**{**QUICK, **settings})
        self.every = denoiser_parameters(self.student)
        self.names = select_parameters(self.every, self.own.train_method)
        self.trained = [self.every[n] for n in self.names]
        self.before = [p.detach().clone() for p in self.trained]
        order = torch.randperm(2, generator=torch.Generator().manual_seed(0)).tolist()
        self.kept = [["a cat", "a sun"][order[i % 2]] for i in range(3)]
        pictures = generate_images(view, ["a hat"] * 3 + self.kept, picture_seeds(0, 6), 2, 7.5)
        z = encode_images(view, pictures).detach().to(view.dtype)
        self.forget, self.retain, self.losses = z[:3], z[3:], []

    def noised(self, z, rng):
        schedule = self.view.schedule
        t = torch.randint(len(schedule.alpha), (len(z),), generator=rng)
        noise = torch.randn(z.shape, generator=rng).to(z)
        return schedule.add_noise(z, noise, t), t, schedule.training_target(z, noise, t)

    def rows(self, step, seed):
        return [number_in_turn(row, 3, seed) for row in range(2 * step, 2 * step + 2)]

    def diffusion(self, step, rng):
        x, t, noise = self.noised(self.forget[self.rows(step, 0)], rng)
        return (self.student.denoise(x, t, ["a hat"] * 2) - noise).square().mean()

    def gradients(self, loss, params):
        found = torch.autograd.grad(loss, params, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]

    def prune(self):
        params, rng = list(self.every.values()), torch.Generator().manual_seed(0)
        sums = [torch.zeros_like(p) for p in params]
        for step in range(self.own.prune_num):
            for total, g in zip(sums, self.gradients(self.diffusion(step, rng), params), strict=True):
                total += g.abs()
        scores = [(total * p).abs() for total, p in zip(sums, params, strict=True)]
        ranked = torch.cat([score.flatten() for score in scores]).sort(descending=True).values
        least = ranked[int((1 - self.own.sparsity) * len(ranked) + 1e-9) - 1]
        masks = {name: score >= least for name, score in zip(self.every, scores, strict=True)}
        with torch.no_grad():
            for number, name in enumerate(select_parameters(self.every, self.own.reset)):
                p, rng = self.every[name], torch.Generator().manual_seed(numbered_seed(0, number))
                fresh = torch.full(p.shape, 0.0 if name.endswith("bias") else 1.0)
                if p.ndim == 2:
                    bound = (6 / p.shape[1]) ** 0.5
                    fresh = torch.empty(p.shape).uniform_(-bound, bound, generator=rng)
                p.copy_(torch.where(masks[name], fresh.to(p), p))
        return sum(int(masks[name].sum()) for name in select_parameters(self.every, self.own.reset))

    def repair(self):
        rng, rule = torch.Generator().manual_seed(0), torch.optim.Adam(self.trained, lr=self.own.lr)
        ascent = -self.diffusion(0, torch.Generator().manual_seed(0))
        stored = torch.cat([g.flatten() for g in self.gradients(ascent, self.trained)])
        for step in range(2 * self.own.epochs):
            if self.own.forget == "ascent":
                forget = -self.diffusion(step, rng)
            else:
                x, t, _ = self.noised(self.forget[self.rows(step, 0)], rng)
                with torch.no_grad():
                    wanted = self.student.denoise(x, t, ["a red fox"] * 2)
                forget = (self.student.denoise(x, t, ["a hat"] * 2) - wanted).square().mean()
            others = self.rows(step, numbered_seed(0, 1))
            y, t, noise = self.noised(self.retain[others], rng)
            said = self.student.denoise(y, t, [self.kept[i] for i in others])
            loss = (said - noise).square().mean() + self.own.lam * forget
            self.losses.append(loss.item())
            flat = torch.cat([g.flatten() for g in self.gradients(loss, self.trained)])
            if self.own.project and step % 10 == 0 and flat @ stored < 0:
                flat = flat + max(0.5, float(-(flat @ stored) / (stored @ stored + 1e-3))) * stored
            parts = flat.split([p.numel() for p in self.trained])
            for p, g in zip(self.trained, parts, strict=True):
                p.grad = g.view_as(p)
            rule.step()
        return [p.detach() - own for p, own in zip(self.trained, self.before, strict=True)]


def require_literal(view, **settings):
    edit, losses = erased(view, **settings)
    plain = Literal(view, **settings)
    assert edit.solve_figures["reset_weights"] == plain.prune()
    deltas = plain.repair()
    assert losses == pytest.approx(plain.losses, rel=1e-6)
    require_same_deltas(edit, deltas)


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in FAST else pytest.mark.slow) for f in EVERY])
def test_is_reset_and_repair_written_out(family) -> None:
    require_literal(tiny.view(family))


@pytest.mark.parametrize(
    "settings",
    [
        {"forget": "ascent", "project": True},
        pytest.param({"project": True}, marks=pytest.mark.slow),
        pytest.param({"train_method": "full", "reset": "late-selfattn"}, marks=pytest.mark.slow),
    ],
)
def test_is_written_out_in_every_variant(settings) -> None:
    require_literal(tiny.view("sd1"), **settings)


def test_of_the_reset_layers_alone_the_share_of_most_salient_entries_is_new() -> None:
    """Before a step of the repair; the rest of the model is untouched, to the bit."""
    edit, _ = erased(tiny.view("sd1"), epochs=0)
    moved = sum(int((delta != 0).sum()) for delta in edit.deltas.values())
    assert 0 < moved <= edit.solve_figures["reset_weights"]
    assert moved >= 0.95 * edit.solve_figures["reset_weights"]  # A bias may have been 0 before.
    assert all(".attn1." in name for name in edit.names)


@pytest.mark.slow
def test_the_seed_decides_the_new_values_and_a_sparsity_of_one_keeps_all() -> None:
    view = tiny.view("sd1")
    kept, _ = erased(view, sparsity=1.0, epochs=0)
    assert kept.solve_figures["reset_weights"] == 0
    assert not any(delta.any() for delta in kept.deltas.values())
    assert erased(view, epochs=0)[0].hash == erased(view, epochs=0)[0].hash
    normal, _ = erased(view, epochs=0, init="truncated-normal")
    assert normal.hash != erased(view, epochs=0)[0].hash


def test_a_gradient_that_goes_along_with_the_stored_ones_stays_and_another_is_turned() -> None:
    """v solves the dual problem of several: its slope is 0 where v is free, and not below where it is held."""
    rng = torch.Generator().manual_seed(1)
    stored = [[torch.randn(4, 3, generator=rng, dtype=torch.float64)] for _ in range(3)]
    memory = GradientMemory(stored, [True])
    along = [sum(m[0] for m in stored)]
    if all(float((m[0] * along[0]).sum()) >= 0 for m in stored):
        assert memory.gradient(0, along, ()) is along
    against = [-3 * along[0]]
    assert memory.gradient(3, against, ()) is against  # between two tenth steps
    (turned,) = memory.gradient(0, against, ())
    v = torch.linalg.lstsq(
        torch.stack([m[0].flatten() for m in stored], 1), (turned - against[0]).flatten()[:, None]
    ).solution[:, 0]
    rows = torch.stack([m[0].flatten() for m in stored])
    slope = (rows @ rows.T + 1e-3 * torch.eye(3, dtype=torch.float64)) @ v + rows @ against[0].flatten()
    assert bool((v >= 0.5 - 1e-9).all())
    assert bool((slope >= -1e-8).all())
    assert bool((slope[v > 0.5 + 1e-6].abs() < 1e-8).all())


def test_layers_that_are_not_trained_are_not_reset() -> None:
    with pytest.raises(SettingsError, match=r"^scissorhands: reset xattn .* choose one that does, such as full$"):
        erased(tiny.view("sd1"), reset="xattn")


def test_without_anything_to_retain_it_says_what_to_give() -> None:
    with pytest.raises(RequestError, match=r"^scissorhands needs a retain set.*--retain"):
        erased(tiny.view("sd1"), Request(("hat",), ("red fox",)))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sparsity", 1.5),
        ("lam", -1.0),
        ("epochs", -1),
        ("lr", -1.0),
        ("prune_num", 0),
        ("memory_num", 0),
        ("batch_size", 0),
        ("pictures", 0),
        ("retain_pictures", 0),
        ("reset", "kv"),
        ("init", "ones"),
        ("forget", "none"),
        ("templates", ["a photo"]),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "templates" else setting):
        build_settings(Scissorhands, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), epochs=3)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [1.1640199, 1.1049138, 1.0144504, 0.97484213, 1.035749, 1.0312483]
NORM = 5.9910345
