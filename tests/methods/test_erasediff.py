"""EraseDiff against its bi-level loop written out, and the properties that follow from it."""

import pytest
import torch

from tests import tiny
from tests.methods.plain_trainer import require_same_deltas, second_model
from unconcept.core import Request
from unconcept.core.errors import DataError, NumericsError, RequestError, SettingsError
from unconcept.core.seeds import numbered_seed, picture_seeds
from unconcept.core.settings import build_settings
from unconcept.methods.erasediff import EraseDiff
from unconcept.models.diffusion.vae import encode_images
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training import Regularisers, TrainingSession, training_session, use_regularisers
from unconcept.training.budget import number_in_turn
from unconcept.training.images.training_images import generate_images
from unconcept.training.parameter_groups import select_parameters

CONTRACT_SETTINGS = {
    "epochs": 1,
    "K_steps": 1,
    "batch_size": 2,
    "pictures": 3,
    "retain_pictures": 2,
    "picture_steps": 2,
    "lr": 0.001,
}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
REQUEST = Request(("hat",), ("red fox",), ("cat", "sun"))
QUICK = {**CONTRACT_SETTINGS, "epochs": 2, "K_steps": 2, "pictures": 4, "retain_pictures": 3, "templates": ("a {}",)}
RATE = QUICK["lr"]


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = EraseDiff(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def drawn(view):
    """Latents of the four pictures of the target and of the three retained ones, and the latter's prompts."""
    order = torch.randperm(2, generator=torch.Generator().manual_seed(0)).tolist()
    kept = [["a cat", "a sun"][order[i % 2]] for i in range(3)]
    pictures = generate_images(view, ["a hat"] * 4 + kept, picture_seeds(0, 7), 2, 7.5)
    z = encode_images(view, pictures).detach().to(view.dtype)
    return z[:4], z[4:], kept


class Literal:
    """A whole second model, every prediction by a call of its own, the optimizer by torch."""

    def __init__(self, view, optimizer=torch.optim.Adam, **settings) -> None:
        self.view, self.student, self.own = view, second_model(view), EraseDiff(**{**QUICK, **settings})
        named = denoiser_parameters(self.student)
        self.trained = [named[n] for n in select_parameters(named, self.own.train_method)]
        self.before = [p.detach().clone() for p in self.trained]
        self.forget, self.retain, self.kept = drawn(view)
        self.rng, self.step, self.rule = torch.Generator().manual_seed(0), 0, optimizer(self.trained, lr=RATE)
        self.losses, self.lambdas = [], []

    def noised(self, z):
        schedule = self.view.schedule
        t = torch.randint(len(schedule.alpha), (len(z),), generator=self.rng)
        noise = torch.randn(z.shape, generator=self.rng).to(z)
        return schedule.add_noise(z, noise, t), t, schedule.training_target(z, noise, t)

    def rows(self, count, seed):
        return [number_in_turn(row, count, seed) for row in range(2 * self.step, 2 * self.step + 2)]

    def constraint(self):
        x, t, _ = self.noised(self.forget[self.rows(4, 0)])
        pseudo = ["a red fox"] * 2
        if self.own.pseudo == "retain":
            pseudo = [self.kept[i] for i in self.rows(3, numbered_seed(0, 1))]
        with torch.no_grad():
            wanted = self.student.denoise(x, t, pseudo)
        return (self.student.denoise(x, t, ["a hat"] * 2) - wanted).square().mean()

    def objective(self):
        rows = self.rows(3, numbered_seed(0, 1))
        y, t, noise = self.noised(self.retain[rows])
        return (self.student.denoise(y, t, [self.kept[i] for i in rows]) - noise).square().mean()

    def follow(self, loss, gradients=None):
        self.losses.append(loss.item())
        found = gradients or torch.autograd.grad(loss, self.trained)
        for p, g in zip(self.trained, found, strict=True):
            p.grad = g
        self.rule.step()
        self.step += 1

    def inner(self):
        for _ in range(2):  # four pictures, two at once
            self.follow(self.constraint())

    def put_back(self, before):
        with torch.no_grad():
            for p, own in zip(self.trained, before, strict=True):
                p.copy_(own)

    def outer(self):
        for _ in range(2):
            q, f = self.constraint(), self.objective()
            if self.own.lambda_bome >= 0:
                self.follow(f + self.own.lambda_bome * q)
                continue
            df, dq = (torch.autograd.grad(part, self.trained) for part in (f, q))
            a, b = (torch.cat([g.flatten() for g in part]) for part in (df, dq))
            by = a.norm() * b.norm() if self.own.compat == "authors" else b.square().sum()
            self.lambdas.append(max(0.0, float(self.own.eta_bome - a @ b / by)))
            self.follow(f + q, [x + self.lambdas[-1] * y for x, y in zip(df, dq, strict=True)])

    def run(self):
        for _ in range(self.own.epochs):
            before = [p.detach().clone() for p in self.trained]
            for k in range(self.own.K_steps):
                self.inner()
                if self.own.compat == "authors" or k == self.own.K_steps - 1:
                    self.put_back(before)
                if self.own.compat == "authors":
                    self.outer()
            if self.own.compat != "authors":
                self.outer()
        return self

    @property
    def deltas(self):
        return [p.detach() - own for p, own in zip(self.trained, self.before, strict=True)]


def require_same(edit, deltas):
    require_same_deltas(edit, deltas)


def require_literal(view, **settings):
    edit, losses = erased(view, **settings)
    plain = Literal(view, **settings).run()
    assert losses == pytest.approx(plain.losses, rel=1e-6)
    require_same(edit, plain.deltas)
    return plain


FAST = ("sd1", "flux")


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in FAST else pytest.mark.slow) for f in EVERY])
def test_is_the_loop_written_out(family) -> None:
    require_literal(tiny.view(family), epochs=1, K_steps=2 if family == "sd1" else 1)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"compat": "authors", "K_steps": 2}, marks=pytest.mark.slow),
        pytest.param({"pseudo": "retain", "lambda_bome": 0.3, "epochs": 1}, marks=pytest.mark.slow),
        pytest.param({"train_method": "noxattn", "epochs": 1}, marks=pytest.mark.slow),
    ],
)
def test_is_the_loop_written_out_in_every_variant(settings) -> None:
    require_literal(tiny.view("sd1"), **settings)


@pytest.mark.parametrize("compat", ["", pytest.param("authors", marks=pytest.mark.slow)])
def test_lambda_is_found_by_the_gradients(compat) -> None:
    """It is never negative, and positive where f would not make q fall fast enough."""
    plain = require_literal(tiny.view("sd1"), lambda_bome=-1.0, eta_bome=0.7, compat=compat, K_steps=1, epochs=1)
    assert len(plain.lambdas) == 2
    assert all(found >= 0 for found in plain.lambdas)
    assert any(found > 0 for found in plain.lambdas)


def test_without_moments_the_inner_passes_change_nothing() -> None:
    """By SGD each round ends where its outer pass alone, of the same pictures and noise, would: they are put back."""
    view = tiny.view("sd1")
    plain = Literal(view, torch.optim.SGD, K_steps=1, epochs=1)
    edit, _ = erased(view, optimizer="sgd", K_steps=1, epochs=1)
    for _ in range(2):  # the inner pass, of which only the random numbers are taken
        plain.noised(plain.forget[:2])
        plain.step += 1
    plain.outer()
    require_same(edit, plain.deltas)
    kept, _ = erased(view, optimizer="sgd", K_steps=0, epochs=0)
    assert all(not delta.any() for delta in kept.deltas.values())


@pytest.mark.slow
def test_in_the_authors_nesting_only_the_last_outer_pass_of_a_round_is_left() -> None:
    view = tiny.view("sd1")
    edit, _ = erased(view, optimizer="sgd", compat="authors", K_steps=2, epochs=1)
    plain = Literal(view, torch.optim.SGD)
    for _ in range(2):
        plain.put_back(plain.before)
        plain.inner()
        plain.put_back(plain.before)
        plain.outer()
    require_same(edit, plain.deltas)
    alone, _ = erased(view, optimizer="sgd", K_steps=2, epochs=1)
    assert alone.hash != edit.hash


def test_after_its_inner_passes_the_weights_are_those_from_before(monkeypatch) -> None:
    """Bit for bit, at the first outer step's loss; the inner steps did move them."""
    view, seen = tiny.view("sd1"), []
    before = {name: p.detach().clone() for name, p in denoiser_parameters(view).items()}
    denoise = type(view).denoise

    def watched(self, x, t, texts):
        if torch.is_grad_enabled():
            now = denoiser_parameters(view)
            seen.append(all(torch.equal(now[name], own) for name, own in before.items()))
        return denoise(self, x, t, texts)

    monkeypatch.setattr(type(view), "denoise", watched)
    erased(view, K_steps=1, epochs=1)
    assert seen == [True, False, True, True, False, False]  # outer steps ask twice


def test_a_target_that_is_relabelled_as_itself_leaves_the_retained_loss_alone() -> None:
    view, same = tiny.view("sd1"), Request(("hat",), ("HAT",), ("cat", "sun"))
    edit, _ = erased(view, same, epochs=1, K_steps=1)
    kept, _ = erased(view, same, epochs=1, K_steps=1, lambda_bome=0.0)
    assert edit.hash == kept.hash


@pytest.mark.slow
def test_every_regulariser_works() -> None:
    view, request = tiny.view("sd1", torch.float32), REQUEST
    plain, hashes = EraseDiff(**QUICK).erase(view, request), set()
    for chosen in (
        Regularisers(l1sp=50.0),
        Regularisers(l2sp=25000.0),
        Regularisers(selft_topk=0.3, selft_draws=2),
        Regularisers(projection="update"),
        Regularisers(projection="update", l1sp=50.0),
        Regularisers(projection="update", selft_topk=0.3, selft_draws=2),
    ):
        with use_regularisers(chosen, request):
            hashes.add(EraseDiff(**QUICK).erase(view, request).hash)
    assert len(hashes - {plain.hash}) == 6


@pytest.mark.slow
def test_an_inner_pass_that_diverges_stops_in_one_line_and_keeps_the_last_good_state(tmp_path, monkeypatch) -> None:
    view, calls = tiny.view("sd1", torch.float32), []
    denoise = type(view).denoise

    def broken(self, x, t, texts):
        calls.append(torch.is_grad_enabled())
        return denoise(self, x, t, texts) * (float("inf") if sum(calls) == 6 else 1.0)

    whole = EraseDiff(**QUICK).erase(view, REQUEST)
    monkeypatch.setattr(type(view), "denoise", broken)
    session = TrainingSession(folder=tmp_path, seconds=0.0)
    with training_session(session), pytest.raises(NumericsError) as caught:
        EraseDiff(**QUICK).erase(view, REQUEST)
    assert str(caught.value).startswith("erasediff, step ")
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    with training_session(session):
        assert EraseDiff(**QUICK).erase(view, REQUEST).hash == whole.hash


def test_without_anything_to_retain_it_says_what_to_give() -> None:
    with pytest.raises(RequestError, match=r"^erasediff needs a retain set.*--retain.*retain_prompts=everyday$"):
        erased(tiny.view("sd1"), Request(("hat",), ("red fox",)))
    erased(tiny.view("sd1"), Request(("hat",), ("red fox",)), retain_prompts="everyday", epochs=0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("K_steps", -1),
        ("epochs", -1),
        ("lr", -1.0),
        ("eta_bome", 0.0),
        ("batch_size", 0),
        ("pictures", 0),
        ("retain_pictures", 0),
        ("picture_steps", 0),
        ("train_method", "kv"),
        ("compat", "code"),
        ("optimizer", "lion"),
        ("templates", ["a photo"]),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "templates" else setting):
        build_settings(EraseDiff, {setting: value})


def test_a_folder_of_blank_pictures_is_refused(tmp_path) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "blank.png")
    with pytest.raises(DataError, match=r"1 of 1 are of one colour and show nothing, \['blank\.png'\] first: leave"):
        erased(tiny.view("sd1"), images=str(tmp_path))


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), epochs=1)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [0.0012753153, 0.00087617181, 0.00067441975, 0.00082113052, 1.0258747, 0.98137581]
NORM = 0.062673222
