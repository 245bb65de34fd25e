"""SalUn against its mask and its two terms written out, and the properties that follow from them."""

import pytest
import torch

from tests import tiny
from tests.methods.plain_trainer import require_same_deltas, second_model
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.seeds import numbered_seed, picture_seeds
from unconcept.core.settings import build_settings
from unconcept.methods.salun import SalUn
from unconcept.models.diffusion.vae import encode_images
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training import Regularisers, TrainingSession, training_session, use_regularisers
from unconcept.training.budget import number_in_turn
from unconcept.training.images.training_images import generate_images
from unconcept.training.parameter_groups import select_parameters

CONTRACT_SETTINGS = {
    "epochs": 2,
    "batch_size": 2,
    "pictures": 3,
    "retain_pictures": 2,
    "picture_steps": 2,
    "train_method": "xattn",
    "lr": 0.001,
}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
FAST = ("sd1", "flux")
REQUEST = Request(("hat",), ("red fox",), ("cat", "sun"))
QUICK = {**CONTRACT_SETTINGS, "epochs": 1, "retain_pictures": 3, "templates": ("a {}",), "alpha": 0.3}


def erased(view, request=REQUEST, **settings):
    """The edit, and the losses of its training; those of the mask's choice stand apart."""
    losses = {}
    session = TrainingSession(lambda p: losses.setdefault(p.name, []).append(p.loss * p.done))
    with training_session(session):
        edit = SalUn(**{**QUICK, **settings}).erase(view, request)
    totals = losses.get("salun", [])
    return edit, [now - before for now, before in zip(totals, [0.0, *totals], strict=False)]


class Literal:
    """A whole second model, every prediction by a call of its own, the mask by sorting, Adam by torch."""

    def __init__(self, view, guidance: float, **settings) -> None:
        self.view, self.student, self.own = view, second_model(view), SalUn(**{**QUICK, **settings})
        named = denoiser_parameters(self.student)
        self.names = select_parameters(named, self.own.train_method)
        self.trained = [named[n] for n in self.names]
        self.before = [p.detach().clone() for p in self.trained]
        order = torch.randperm(2, generator=torch.Generator().manual_seed(0)).tolist()
        self.kept = [["a cat", "a sun"][order[i % 2]] for i in range(3)]
        pictures = generate_images(view, ["a hat"] * 3 + self.kept, picture_seeds(0, 6), 2, 7.5)
        z = encode_images(view, pictures).detach().to(view.dtype)
        self.forget, self.retain, self.guidance, self.losses = z[:3], z[3:], guidance, []

    def noised(self, z, rng):
        schedule = self.view.schedule
        t = torch.randint(len(schedule.alpha), (len(z),), generator=rng)
        noise = torch.randn(z.shape, generator=rng).to(z)
        return schedule.add_noise(z, noise, t), t, schedule.training_target(z, noise, t)

    def rows(self, step, seed):
        return [number_in_turn(row, 3, seed) for row in range(2 * step, 2 * step + 2)]

    def masks(self):
        rng, sums = torch.Generator().manual_seed(0), [torch.zeros_like(p) for p in self.trained]
        for step in range(2):  # three pictures, two at once
            x, t, noise = self.noised(self.forget[self.rows(step, 0)], rng)
            said, empty = self.student.denoise(x, t, ["a hat"] * 2), self.student.denoise(x, t, [""] * 2)
            ascent = -((1 + self.guidance) * said - self.guidance * empty - noise).square().mean()
            for total, g in zip(sums, torch.autograd.grad(ascent, self.trained, allow_unused=True), strict=True):
                total += 0 if g is None else g
        flat = torch.cat([total.abs().flatten() for total in sums])
        chosen = torch.zeros_like(flat)
        chosen[flat.argsort(descending=True, stable=True)[: int(self.own.threshold * len(flat) + 1e-9)]] = 1
        parts = chosen.split([p.numel() for p in self.trained])
        return [part.view_as(p) for part, p in zip(parts, self.trained, strict=True)]

    def run(self):
        masks, rng = self.masks(), torch.Generator().manual_seed(0)
        rule = torch.optim.Adam(self.trained, lr=self.own.lr)
        for step in range(2 * self.own.epochs):
            x, t, _ = self.noised(self.forget[self.rows(step, 0)], rng)
            others = self.rows(step, numbered_seed(0, 1))
            pseudo = ["a red fox"] * 2 if self.own.pseudo == "anchor" else [self.kept[i] for i in others]
            with torch.no_grad():
                wanted = self.student.denoise(x, t, pseudo)
            loss = (self.student.denoise(x, t, ["a hat"] * 2) - wanted).square().mean()
            y, t, noise = self.noised(self.retain[others], rng)
            said = self.student.denoise(y, t, [self.kept[i] for i in others])
            loss = loss + self.own.alpha * (said - noise).square().mean()
            self.losses.append(loss.item())
            rule.zero_grad()
            loss.backward()
            for p, mask in zip(self.trained, masks, strict=True):
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad * mask
            rule.step()
        return [p.detach() - own for p, own in zip(self.trained, self.before, strict=True)]


def require_literal(view, guidance=7.5, **settings):
    edit, losses = erased(view, **settings)
    plain = Literal(view, guidance, **settings)
    deltas = plain.run()
    assert losses == pytest.approx(plain.losses, rel=1e-6)
    require_same_deltas(edit, deltas)


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in FAST else pytest.mark.slow) for f in EVERY])
def test_is_mask_and_training_written_out(family) -> None:
    """FLUX's guidance is within, so its mask is of the plain prediction."""
    require_literal(tiny.view(family), guidance=0.0 if family == "flux" else 7.5, epochs=2)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"pseudo": "retain"}, {"train_method": "full", "threshold": 0.4}])
def test_is_written_out_in_every_variant(settings) -> None:
    require_literal(tiny.view("sd1"), **settings)


@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_a_share_of_all_entries_moves_and_the_others_stay_to_the_bit(threshold) -> None:
    edit, _ = erased(tiny.view("sd1"), threshold=threshold)
    moved = sum(int((delta != 0).sum()) for delta in edit.deltas.values())
    every = sum(delta.numel() for delta in edit.deltas.values())
    assert moved <= int(threshold * every)
    assert moved >= 0.98 * int(threshold * every)


@pytest.mark.slow
def test_a_mask_of_all_is_plain_relabelling() -> None:
    view = tiny.view("sd1")
    whole, losses = erased(view, threshold=1.0, c_guidance=0.0)
    other, same = erased(view, threshold=1.0)
    assert (whole.hash, losses) == (other.hash, same)
    half, _ = erased(view, threshold=0.5)
    assert half.hash != whole.hash


def test_relabelled_as_itself_and_retaining_nothing_it_changes_nothing() -> None:
    edit, losses = erased(tiny.view("sd1"), Request(("hat",), ("HAT",)), alpha=0.0)
    assert losses == [0.0, 0.0]
    assert not any(delta.any() for delta in edit.deltas.values())


@pytest.mark.slow
def test_beside_selft_only_entries_of_both_masks_move() -> None:
    view = tiny.view("sd1", torch.float32)
    plain = SalUn(**QUICK).erase(view, REQUEST)
    with use_regularisers(Regularisers(selft_topk=0.5, selft_draws=2), REQUEST):
        both = SalUn(**QUICK).erase(view, REQUEST)
    moved = [(one != 0, other != 0) for one, other in zip(plain.deltas.values(), both.deltas.values(), strict=True)]
    assert all(not bool((both & ~own).any()) for own, both in moved)
    assert 0 < sum(int(both.sum()) for _, both in moved) < sum(int(own.sum()) for own, _ in moved)


@pytest.mark.parametrize("settings", [{}, {"alpha": 0.0, "pseudo": "retain"}])
def test_without_anything_to_retain_it_says_what_to_give(settings) -> None:
    with pytest.raises(RequestError, match=r"^salun needs a retain set.*--retain"):
        erased(tiny.view("sd1"), Request(("hat",), ("red fox",)), **settings)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("threshold", 1.5),
        ("threshold", -0.1),
        ("c_guidance", -1.0),
        ("alpha", -1.0),
        ("epochs", -1),
        ("lr", -1.0),
        ("batch_size", 0),
        ("pictures", 0),
        ("retain_pictures", 0),
        ("train_method", "kv"),
        ("pseudo", "none"),
        ("templates", ["a photo"]),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "templates" else setting):
        build_settings(SalUn, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), epochs=3)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [0.35954261, 0.33729413, 0.30839169, 0.29351518, 0.31630689, 0.32142159]
NORM = 0.16169607
