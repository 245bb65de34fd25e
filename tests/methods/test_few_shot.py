"""Few-shot erasing against its ascent written out, on noise and v predictions; its pictures; what it refuses."""

import pytest
import torch

from tests import tiny
from tests.encoders import with_own_encoders
from tests.models.test_picture_files import SIDE
from tests.models.test_picture_files import drawn as picture
from unconcept.core import Request
from unconcept.core.errors import DataError, SettingsError
from unconcept.core.seeds import picture_seeds
from unconcept.core.settings import build_settings
from unconcept.methods import few_shot
from unconcept.methods.few_shot import FewShot
from unconcept.models.diffusion.vae import encode_images
from unconcept.models.images import read_picture_folder
from unconcept.models.text.parameters import encoder_parameters
from unconcept.training import TrainingSession, training_session
from unconcept.training.images.training_images import generate_images
from unconcept.training.parameter_groups import select_text_parameters
from unconcept.training.token_search import denoising_error

CONTRACT_SETTINGS = {"epochs": 2, "pictures": 3, "picture_steps": 2, "lr": 0.001}

REQUEST = Request(("dog",), ("",))
QUICK = {"epochs": 2, "pictures": 3, "picture_steps": 2, "lr": 1e-3, "templates": ("a {}",)}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = FewShot(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def plainly(view, z, steps: int, lr: float):
    """A second text encoder, Adam by torch with the authors' numbers, the plain diffusion loss with its sign turned;
    deltas and losses.
    """
    student = with_own_encoders(view)
    own = {
        name: p
        for group in encoder_parameters(student).values()
        for name, p in group.items()
        if name in select_text_parameters(group, "text-mlp-lastattn")
    }
    before = {name: p.detach().clone() for name, p in own.items()}
    rule = torch.optim.Adam(own.values(), lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-8)
    rng, losses = torch.Generator().manual_seed(0), []
    for step in range(steps):
        epoch, place = divmod(step, 2)
        order = torch.randperm(3, generator=torch.Generator().manual_seed(epoch))
        rows = z[order[2 * place : 2 * place + 2]]
        t = torch.randint(1000, (len(rows),), generator=rng)
        noise = torch.randn(rows.shape, generator=rng).to(rows)
        torch.randint(1, (len(rows),), generator=rng)
        loss = denoising_error(student, student.condition(["a dog"] * len(rows)), rows, noise, t).mean()
        rule.zero_grad()
        (-loss).backward()
        rule.step()
        losses.append(-loss.item())
    return {name: p.detach() - before[name] for name, p in own.items()}, losses


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_is_plain_fine_tuning_with_the_sign_turned(family) -> None:
    view = tiny.view(family)
    z = encode_images(view, generate_images(view, ["a dog"] * 3, picture_seeds(0, 3), 2, 7.5)).detach()
    edit, losses = erased(view)
    deltas, plain = plainly(view, z, 4, 1e-3)
    assert losses == pytest.approx(plain, rel=1e-5)
    assert {*edit.names} == {*deltas}
    # In one number: Adam turns the last bits of a gradient that is next to nothing into a whole step.
    apart = sum((edit.deltas[name] - delta).square().sum() for name, delta in deltas.items())
    assert apart < 1e-6 * sum(delta.square().sum() for delta in deltas.values())


def test_the_loss_on_the_pictures_rises_with_every_epoch() -> None:
    """At one noise and timestep of each picture; what is told of the training is minus the loss."""
    view = tiny.view("sd1")
    z = encode_images(view, generate_images(view, ["a dog"] * 3, picture_seeds(0, 3), 2, 7.5)).detach()
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(9)).to(z)
    t, errors = torch.tensor([100, 400, 800]), []
    for epochs in range(4):
        edit, losses = erased(view, epochs=epochs, lr=3e-3)
        assert all(loss < 0 for loss in losses)
        with edit.applied(view), torch.no_grad():
            errors.append(float(denoising_error(view, view.condition(["a dog"] * 3), z, noise, t).mean()))
    assert errors == sorted(errors)
    assert errors[-1] > errors[0]


def test_a_folder_of_pictures_is_what_is_unlearned(tmp_path) -> None:
    view = tiny.view("sd1")
    for i in range(3):
        picture(tmp_path / f"{i}.png", SIDE, SIDE, i)
    edit, losses = erased(view, images=str(tmp_path))
    z = encode_images(view, read_picture_folder(tmp_path, view, 2)).detach()
    deltas, plain = plainly(view, z, 4, 1e-3)
    assert losses == pytest.approx(plain, rel=1e-5)
    assert {*edit.names} == {*deltas}


def test_a_picture_keeps_the_prompt_that_it_was_drawn_with(monkeypatch) -> None:
    """Each step asks for exactly the prompts of its pictures, which are told apart by their latents."""
    view, asked, texts = tiny.view("sd1"), [], []
    noised = few_shot.noise_latents
    monkeypatch.setattr(few_shot, "noise_latents", lambda model, z, rng: asked.append(z) or noised(model, z, rng))
    condition = type(view).condition
    monkeypatch.setattr(
        type(view), "condition", lambda self, prompts: texts.append(prompts) or condition(self, prompts)
    )
    request = Request(("dog", "fox"), ("", ""))
    erased(view, request, pictures=4, templates=("a {}", "the {}"), lr=0.0)
    monkeypatch.undo()
    prompts = ["a dog", "a fox", "the dog", "the fox"]
    z = encode_images(view, generate_images(view, prompts, picture_seeds(0, 4), 2, 7.5)).detach()
    steps = [own for own in texts if len(own) == 2 and isinstance(own, list)]
    assert len(asked) == 4
    for rows, own in zip(asked, steps[-4:], strict=True):
        which = [int((z - row).abs().flatten(1).sum(1).argmin()) for row in rows]
        assert own == [prompts[i] for i in which]


def test_without_pictures_a_batch_an_epoch() -> None:
    edit, losses = erased(tiny.view("sd1"), is_zero_shot=True, epochs=3)
    assert len(losses) == 3
    assert all(name.startswith("text_encoder.") for name in edit.names)


def test_bad_pictures_are_refused_before_anything_is_trained(tmp_path) -> None:
    view = tiny.view("sd1")
    picture(tmp_path / "a.png", SIDE, SIDE)
    with pytest.raises(DataError, match="has 1, give at least 2"):
        erased(view, images=str(tmp_path))
    (tmp_path / "notes.txt").write_text("a dog")
    with pytest.raises(DataError, match=r"notes\.txt is not a picture"):
        erased(view, images=str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": -1.0}, "lr"),
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"pictures": 0}, "pictures"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"eps": 0.0}, "eps"),
        ({"templates": ("a dog",)}, "template"),
        ({"is_zero_shot": True, "images": "somewhere"}, "leave out one"),
    ],
)
def test_settings_out_of_range(settings, said) -> None:
    with pytest.raises(SettingsError, match=said):
        build_settings(FewShot, settings)


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), epochs=3)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [-1.0739512, -1.3377552, -1.0575652, -1.1617129, -1.0567124, -1.0305221]
NORM = 0.47393666


@pytest.mark.parametrize(
    ("parts", "counted"),
    [
        ("mlp-final-attn", 16),
        ("mlp-only", 8),
        ("attn-only", 16),
        ("mlp-attn", 24),
        ("norms", 10),
        ("embeddings", 2),
        ("all", 36),
    ],
)
def test_the_papers_study_of_parts(parts, counted) -> None:
    """Of the tiny encoder's two layers; nothing else moves, and what is named moves."""
    view = tiny.view("sd1")
    edit, _ = erased(view, parts=parts, epochs=1)
    assert len(edit.names) == counted
    words = {"mlp-only": "mlp", "attn-only": "self_attn", "norms": "norm", "embeddings": "embedding"}
    assert all(words.get(parts, "") in name for name in edit.names)
    assert max(float(edit.delta(name, None).abs().max()) for name in edit.names) > 0
