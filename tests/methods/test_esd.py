"""ESD against its equation and a plain trainer written out, on noise, v and flow predictions, and the properties of its
paper.
"""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from tests import tiny
from tests.methods.plain_trainer import require_same_deltas, second_model
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.settings import build_settings
from unconcept.methods.esd import ESD
from unconcept.models.diffusion.noise_schedule import NoiseSchedule
from unconcept.models.families import families
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.models.model_view import Conditioning
from unconcept.training import TrainingSession, training_session
from unconcept.training.goals import TextEncodings
from unconcept.training.parameter_groups import select_parameters
from unconcept.training.trajectories import GuidedSampler, TrajectoryPool

CONTRACT_SETTINGS = {"iterations": 3, "ddim_steps": 2, "pool": 1, "lr": 0.001}

EVERY = (*tiny.FAMILIES, *tiny.MMDITS)
REQUEST = Request(("dog", "red fox"), ("", ""))
QUICK = {"iterations": 4, "ddim_steps": 3, "pool": 2, "lr": 1e-3}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = ESD(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def plainly(view, settings, x_t):
    """A whole second model, prompts encoded at each step, Adam by torch: the deltas and losses."""
    student = second_model(view)
    own = denoiser_parameters(student)
    trained = [own[n] for n in select_parameters(own, "xattn")]
    before, rule, losses = [p.detach().clone() for p in trained], torch.optim.Adam(trained, lr=settings.lr), []
    for x, t, c in x_t:
        with torch.no_grad():
            e_c, e_0, e_f = (view.denoise(x, t, [text]) for text in (c, "", settings.erase_from or c))
            wanted = e_f - (settings.negative_guidance + 1) * (e_c - e_0)
        loss = (student.denoise(x, t, [settings.erase_from or c]) - wanted).square().mean()
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return [p.detach() - b for p, b in zip(trained, before, strict=True)], losses


SLOW = {("", "flux"), ("dog", "sdxl")}  # Both texts are drawn on sd1, and each on one of the other two.


@pytest.mark.parametrize(
    ("erase_from", "family"),
    [
        pytest.param(text, family, marks=pytest.mark.slow if (text, family) in SLOW else ())
        for text in ("", "dog")
        for family in EVERY
    ],
)
def test_is_the_plain_trainer(erase_from, family) -> None:
    view, settings = tiny.view(family), ESD(**QUICK, negative_guidance=1.3, erase_from=erase_from)
    request = Request(("hat",), ("",))
    drawn = (erase_from,) if erase_from else request.targets
    pool = TrajectoryPool(GuidedSampler(view, TextEncodings.of(view), 3, 3.0), drawn, 2, 4)
    x_t = [(point.x_t, point.t, "hat") for point in (pool.draw(step, 1, torch.Generator()) for step in range(4))]
    edit, losses = erased(view, request, negative_guidance=1.3, erase_from=erase_from)
    deltas, plain = plainly(view, settings, x_t)
    assert losses == pytest.approx(plain, rel=1e-6)
    require_same_deltas(edit, deltas)


@pytest.mark.parametrize("family", EVERY)
def test_first_loss_and_the_strength_at_which_nothing_changes(family) -> None:
    """(1 + eta)^2 MSE(e_c, e_0) at the start; at eta = -1 the wanted prediction is the model's own and no gradient is
    left.
    """
    view = tiny.view(family)
    _, weak = erased(view, negative_guidance=0.0, iterations=1)
    _, strong = erased(view, negative_guidance=2.0, iterations=1)
    assert strong[0] == pytest.approx(9 * weak[0], rel=1e-4)
    edit, losses = erased(view, negative_guidance=-1.0)
    assert losses == pytest.approx([0.0] * 4, abs=1e-20)
    assert max(float(delta.abs().max()) for delta in edit.deltas.values()) < 1e-5


def test_to_erase_from_itself_is_to_erase() -> None:
    view, request = tiny.view("sd1"), Request(("dog",), ("",))
    assert all(
        torch.allclose(a, b)
        for a, b in zip(
            erased(view, request)[0].deltas.values(),
            erased(view, request, erase_from="dog")[0].deltas.values(),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("train_method", "tensors"),
    [("x", 20), ("strict", 8), ("u", None), ("noxattn", None), ("all", None), ("selfattn", 20)],
)
def test_the_edit_holds_its_group_and_no_more(train_method, tensors) -> None:
    view = tiny.view("sd1", torch.float32)
    edit, _ = erased(view, train_method=train_method, iterations=1)
    assert tensors is None or len(edit.names) == tensors
    assert {".attn2." in name for name in edit.names} == {"x": {True}, "strict": {True}, "all": {True, False}}.get(
        train_method, {False}
    )
    assert all(delta.any() for name, delta in edit.deltas.items() if name.endswith("weight"))


@pytest.mark.parametrize(
    ("theirs", "ours"), [("esd-x", "x"), ("xattn", "x"), ("esd-x-strict", "strict"), ("esd-u", "u"), ("esd-all", "all")]
)
def test_groups_have_the_names_of_both_scripts(theirs, ours) -> None:
    view = tiny.view("sd1", torch.float32)
    named = build_settings(ESD, {**QUICK, "train_method": theirs, "iterations": 0})
    assert list(named.erase(view, REQUEST).names) == list(erased(view, train_method=ours, iterations=0)[0].names)


def test_the_student_draws_where_it_is_told_to() -> None:
    """The first step is the same whoever draws; later the student's own latents are others."""
    view = tiny.view("sd1")
    _, student = erased(view, sampling="student", lr=0.1, iterations=8)
    _, fresh = erased(view, pool=0, lr=0.1, iterations=8)
    assert student[0] == pytest.approx(fresh[0])
    assert student != pytest.approx(fresh, rel=1e-3)


def test_calls_of_the_denoiser() -> None:
    """A pool of 2 x 3 steps: two calls of its walk, then one of the teacher (e_0 alone at eta = 0) and one of the
    student a step.
    """
    view = tiny.view("sd1", torch.float32)
    rows = []
    view.modules("denoiser").register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    erased(view, negative_guidance=0.0)
    assert rows == [4, 4, *[1, 1] * 4]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("lr", -1.0),
        ("batch_size", 0),
        ("ddim_steps", 0),
        ("negative_guidance", -1.5),
        ("train_method", "esd-y"),
        ("pool", -1),
        ("sampling", "both"),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(ESD, {setting: value})


def test_more_steps_than_the_model_has_are_refused() -> None:
    with pytest.raises(SettingsError, match="1000"):
        erased(tiny.view("sd1", torch.float32), ddim_steps=1001)


def test_a_group_a_family_does_not_have_is_refused() -> None:
    with pytest.raises(SettingsError, match="joint"):
        erased(tiny.view("flux", torch.float32), train_method="noxattn")


class Toy:
    """A model whose denoiser says x + B c: what ESD makes of B can be written down."""

    name, family, latent_shape, device, dtype = "toy", "sd1", (4, 2, 2), torch.device("cpu"), torch.float64
    texts, spec, few_step = ("", "dog", "cat"), families["sd1"], None
    tokenizers = (SimpleNamespace(encode=lambda texts: [tuple(map(ord, text)) for text in texts]),)

    def __init__(self) -> None:
        self.original_weights, self.checkpoint, self.scheduler = (
            {},
            SimpleNamespace(has=lambda part: False, config=lambda part: {}),
            DDIMScheduler(clip_sample=False),
        )
        self.schedule = NoiseSchedule.of(self.scheduler)
        self.net = nn.ModuleDict(
            {
                "block": nn.ModuleDict(
                    {"attn2": nn.ModuleDict({"to_k": nn.Linear(3, 4, bias=False, dtype=torch.float64)})}
                )
            }
        )
        self.net.config = {}
        self.c = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    @property
    def map(self):
        return self.net["block"]["attn2"]["to_k"]

    def modules(self, part):
        return self.scheduler if part == "scheduler" else self.net

    def set_timesteps(self, scheduler, steps, shape):
        scheduler.set_timesteps(steps)

    def reference(self, names):
        return {name: self.net.get_parameter(name.partition(".")[2]).detach() for name in names}

    def condition(self, prompts):
        return Conditioning(torch.stack([self.c[self.texts.index(text)] for text in prompts])[:, None])

    def denoise(self, x, t, texts):
        given = texts if isinstance(texts, Conditioning) else self.condition(texts)
        return x + self.map(given.states[:, 0])[..., None, None]


@pytest.mark.parametrize("eta", [pytest.param(0.0, marks=pytest.mark.slow), 1.0, 2.5])
def test_the_optimum_of_a_linear_model(eta) -> None:
    """B' c = B c_0 - eta (B c - B c_0), at every x_t."""
    toy, settings = Toy(), {"train_method": "strict", "ddim_steps": 5, "iterations": 600, "lr": 0.03}
    (delta,) = ESD(**settings, negative_guidance=eta).erase(toy, Request(("dog",), ("",))).deltas.values()
    b, (empty, c, _) = toy.map.weight.detach(), toy.c
    assert torch.allclose((b + delta) @ c, b @ empty - eta * (b @ c - b @ empty), atol=1e-5)


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), iterations=5)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [0.0015451871, 0.0017157134, 0.0077090235, 0.0038677515, 0.0013028425]
NORM = 0.16977563
