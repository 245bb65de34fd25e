"""Distillation to few steps: the student's draws, the scores, each objective against its formula, and resuming."""

import dataclasses

import pytest
import torch

from tests import tiny
from tests.killed import Killed, dying
from unconcept.core.errors import NumericsError, SettingsError
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training import TrainableWeights, TrainingPlan, TrainingSession, training_session
from unconcept.training.distillation import objectives as module
from unconcept.training.distillation.distill import DistillationLoss, distil
from unconcept.training.distillation.networks import DistillationNetworks, TextContext
from unconcept.training.distillation.objectives import PGSB, Consistency, SiD, objectives, sid_loss
from unconcept.training.distillation.rollout import Rollout, distilled_record, few_step_timesteps, uniform_steps
from unconcept.training.distillation.scores import DrawnLatents, FakeScore, guided_clean
from unconcept.training.goals import TextEncodings
from unconcept.training.parameter_groups import select_parameters

TEXTS = TextContext.of(["a dog", "moon", "a cat", "dog"])
STEPS = few_step_timesteps(625, 4)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def trainable(view, which="kv"):
    return TrainableWeights(view, select_parameters(denoiser_parameters(view), which))


def networks(guidance=1.0, empty=0.0, prompts=()):
    """A student and a teacher that begin alike, and their fake score; all in float64."""
    student, teacher = tiny.view("sd1"), tiny.view("sd1")
    texts = TextEncodings.of(teacher)
    fake = FakeScore(trainable(teacher), texts, 1e-2, guidance, empty)
    rollout = Rollout(student, STEPS)
    return DistillationNetworks(rollout, TextEncodings.of(student), teacher, texts, fake, prompts, 10_000)


def latents(rows=4, seed=5):
    shape = tiny.shared("sd1").latent_shape
    return torch.randn(rows, *shape, generator=rng(seed), dtype=torch.float64)


def calls(view, monkeypatch):
    """(latents, timesteps, states, whether it is differentiable) of each call of a denoiser."""
    seen, plain = [], view.denoise

    def denoise(x, t, texts):
        seen.append((x, t, texts.states, torch.is_grad_enabled()))
        return plain(x, t, texts)

    monkeypatch.setattr(view, "denoise", denoise)
    return seen


def test_the_record_says_sids_timesteps() -> None:
    record = distilled_record(625, teacher="moji")
    assert record.timesteps == {1: (625,), 2: (625, 312), 4: (625, 468, 312, 156)}
    assert (record.step, record.guidance, record.teacher) == ("renoise", "none", "moji")
    with pytest.raises(SettingsError, match="0 steps from timestep 625"):
        few_step_timesteps(625, 0)


@pytest.mark.parametrize("rows", [1, 7, 8])
def test_generation_steps_are_a_uniform_mixture(rows) -> None:
    """Counts in a batch differ by one at most, and each row has each step equally often."""
    found = torch.stack([uniform_steps(rows, 4, rng(seed)) for seed in range(2000)])
    counts = torch.stack([(found == k).sum(1) for k in range(4)])
    assert int((counts.amax(0) - counts.amin(0)).max()) <= 1
    assert torch.allclose(
        (found[:, 0, None] == torch.arange(4)).double().mean(0), torch.tensor(0.25).double(), atol=0.04
    )


def test_a_student_draws_as_its_record_says(monkeypatch) -> None:
    """One call in one step, at 625, from sqrt(1 - ab) z; in four only the last call of a row has a gradient."""
    view = tiny.view("sd1")
    states, seen = TextEncodings.of(view)(TEXTS.captions), calls(view, monkeypatch)
    one = Rollout(view, (625,)).mixture(states, rng(1))
    ((x, t, _, has_gradient),) = seen
    sigma = (1 - view.checkpoint.built_pipeline.scheduler.alphas_cumprod[625].double()).sqrt()
    uniform_steps(4, 1, again := rng(1))
    noise = torch.randn((1, 4, *view.latent_shape), generator=again).double()[0]
    assert t.tolist() == [625] * 4
    assert has_gradient
    assert torch.allclose(x, sigma * noise)
    assert torch.allclose(one, view.schedule.x0(view.denoise(x, t, states), x, t))
    seen.clear()
    Rollout(view, STEPS).mixture(states, rng(2))
    assert [grad for *_, grad in seen] == [False, False, False, True]
    assert sorted(seen[-1][1].tolist()) == sorted(STEPS)
    assert [set(t.tolist()) for _, t, *_ in seen[:-1]] == [{625}, {468}, {312}]


def test_sids_loss_is_its_formula() -> None:
    x, phi, psi = latents(seed=1), latents(seed=2), latents(seed=3)
    w = (x - phi).abs().mean((1, 2, 3), keepdim=True)
    for alpha in (1.0, 1.2):
        literal = ((phi - psi) * ((phi - x) - alpha * (phi - psi)) / w).mean()
        assert torch.allclose(sid_loss(x, phi, psi, alpha), literal)
    assert torch.allclose(sid_loss(x, phi, psi, 1.0), ((phi - psi) * (psi - x) / w).mean())
    assert sid_loss(x, x, psi, 1.0).isfinite()
    assert not sid_loss(x, phi, phi, 1.2).any()


def test_sid_differentiates_through_both_scores(monkeypatch) -> None:
    """Against central differences, with w held at one."""
    monkeypatch.setattr(module, "distance", lambda x, teacher: 1.0)
    nets = networks()
    for tensor in nets.fake.trained.tensors.values():
        tensor.data *= 1.3
    x, way, h = latents().requires_grad_(), latents(seed=9), 1e-4

    def loss(at):
        return SiD(1.2).loss(nets, TEXTS, at, 0, rng(3))

    (slope,) = torch.autograd.grad(loss(x), x)
    with torch.no_grad():
        literal = (loss(x + h * way) - loss(x - h * way)) / (2 * h)
    assert abs(literal) > 1e-4
    assert (slope * way).sum().item() == pytest.approx(literal.item(), rel=1e-5)


@pytest.mark.parametrize("objective", [SiD(cfg="long-short", scale=1.0), PGSB(1.0, 1.0)])
def test_a_fake_score_like_the_teacher_teaches_nothing(objective) -> None:
    nets, x = networks(), latents().requires_grad_()
    (slope,) = torch.autograd.grad(objective.loss(nets, TEXTS, x, 0, rng()), x)
    assert slope.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("objective", "scales", "learning"),
    [
        (SiD(), (1.0, 0.0), (0.0, 0.0)),
        (SiD(cfg="anti", scale=0.5), (1.0, -0.5), (1.0, 0.5)),
        (SiD(cfg="long-short", scale=2.0), (2.0, 2.0), (2.0, 0.0)),
    ],
    ids=["zero", "anti", "long-short"],
)
def test_guidance_of_teacher_and_fake_score(objective, scales, learning, monkeypatch) -> None:
    """Zero-CFG never shows a text to the fake score; Anti-CFG turns its guidance round."""
    assert (objective.scales, objective.fake_learning) == (scales, learning)
    nets, x = networks(*learning), latents()
    for tensor in nets.fake.trained.tensors.values():
        tensor.data *= 1.3
    t, x_t = torch.tensor([30, 200, 500, 900]), latents(seed=8)
    said, empty = (nets.teacher_texts(texts) for texts in (TEXTS.captions, [""] * 4))
    with torch.no_grad():
        for clean, scale in zip((nets.teacher_clean, nets.fake_clean), scales, strict=True):
            parts = [clean(TEXTS, x_t, t, number) for number in (0.0, 1.0)]
            assert torch.allclose(clean(TEXTS, x_t, t, scale), parts[0] + scale * (parts[1] - parts[0]))
        assert torch.equal(
            nets.fake_clean(TEXTS, x_t, t, 0.0), nets.fake_clean(TextContext.of(["moon"] * 4), x_t, t, 0.0)
        )
    seen = calls(nets.teacher, monkeypatch)
    nets.fake.learn([DrawnLatents(x, TEXTS.captions)])
    shown = [any(torch.equal(row, own) for own in said.states) for row in seen[0][2]]
    blank = [bool(torch.equal(row, empty.states[0])) for row in seen[0][2]]
    assert any(shown) == (objective.cfg != "zero")
    assert any(blank)


def test_pg_sb_is_its_gradient(monkeypatch) -> None:
    """(y_psi - y_phi) / w, each row's teacher at a scale of its own in [0.5, 4]; no score is in the graph."""
    nets, x = networks(), latents().requires_grad_()
    for tensor in nets.fake.trained.tensors.values():
        tensor.data *= 1.3
    seen = calls(nets.teacher, monkeypatch)
    (slope,) = torch.autograd.grad(PGSB().loss(nets, TEXTS, x, 0, rng(3)), x)
    assert not any(grad for *_, grad in seen)
    (both, t, _, _), (x_t, t_fake, _, _) = seen
    assert torch.equal(t, torch.cat([t_fake] * 2))
    assert torch.equal(both, torch.cat([x_t] * 2))
    scale = 0.5 + 3.5 * torch.rand(4, generator=rng(3), dtype=torch.float64).view(-1, 1, 1, 1)
    with torch.no_grad():
        empty, said = (nets.teacher_clean(TEXTS, x_t, t_fake, number) for number in (0.0, 1.0))
        phi, psi = empty + scale * (said - empty), nets.fake_clean(TEXTS, x_t, t_fake, 1.0)
    w = (x.detach() - phi).abs().mean((1, 2, 3), keepdim=True)
    assert (psi - phi).abs().max() > 1e-3
    assert torch.allclose(slope, (psi - phi) / w / x.numel())
    with pytest.raises(SettingsError, match="give rising bounds"):
        PGSB(4.0, 0.5)


def test_nasa_t_leads_student_and_teacher_away(monkeypatch) -> None:
    nets, away = networks(), dataclasses.replace(TEXTS, negative="moon")
    plain, led = (PGSB(nasa=nasa).draw(nets, away, rng()) for nasa in (False, True))
    assert not torch.allclose(plain, led, atol=1e-4)
    with module.negative_attention(nets, "moon", 0.0):
        again = torch.Generator().manual_seed(0)
        torch.rand((), generator=again)
        assert torch.allclose(nets.draw(away, again), plain, atol=1e-12)
    seen = calls(nets.teacher, monkeypatch)
    PGSB(nasa=True).loss(nets, away, latents(), 0, rng())
    negative = nets.teacher_texts(["moon"]).states[0]
    assert all(torch.equal(row, negative) for row in seen[0][2][:4])


def test_consistency_asks_for_the_next_point() -> None:
    nets = networks(prompts=TEXTS.captions)
    objective = Consistency(steps=3, guidance=2.0, huber=0.1)
    found = objective.loss(nets, TextContext.of(3 * TEXTS.captions), None, 2, rng())
    pool, student = nets.trajectories(3, 2.0), nets.rollout.model
    here, following = pool.draw_neighbours(2, 12)
    assert len(pool._latents[0]) == 4
    wanted = []
    for i, k in enumerate(here.k):
        x, texts = following[i : i + 1], nets.texts([here.prompts[i]])
        step = pool.sampler.denoise_steps(here.x_t[i : i + 1], [here.prompts[i]], k, k + 1)
        assert torch.allclose(step, x)
        t = pool.sampler.timestep(min(k + 1, 2), 1)
        wanted.append(x if k == 2 else student.schedule.x0(student.denoise(x, t, texts), x, t))
    said = student.schedule.x0(student.denoise(here.x_t, here.t, nets.texts(here.prompts)), here.x_t, here.t)
    apart = (said - torch.cat(wanted)).square().mean((1, 2, 3))
    assert set(here.k) == {0, 1, 2}
    assert found.item() == pytest.approx(((apart + 0.01).sqrt() - 0.1).mean().item(), rel=1e-9)


def test_only_the_fake_score_learns() -> None:
    """The student's graph, both models' weights and the teacher's predictions stay as they are."""
    nets, x = networks(), latents().requires_grad_()
    before = [p.detach().clone() for p in nets.teacher.modules("denoiser").parameters()]
    start = {name: t.detach().clone() for name, t in nets.fake.trained.tensors.items()}
    errors = [nets.fake.learn([DrawnLatents(x, TEXTS.captions)]) for _ in range(12)]
    assert errors[-1] < errors[0]
    assert x.grad is None
    assert all(map(torch.equal, before, nets.teacher.modules("denoiser").parameters()))
    assert not any(torch.equal(start[name], t) for name, t in nets.fake.trained.tensors.items())
    with pytest.raises(NumericsError, match="the fake score diverged"):
        nets.fake.learn([DrawnLatents(x * float("nan"), TEXTS.captions)])


def test_weights_of_contexts() -> None:
    nets = networks()
    error = nets.fake._error
    parts = [DrawnLatents(latents(), TEXTS.captions), DrawnLatents(latents(seed=6), TEXTS.captions, 0.01)]
    again = rng()
    literal = (error(parts[0], again) + 0.01 * error(parts[1], again)).item()
    assert nets.fake.learn(parts) == pytest.approx(literal)


def trained(folder, kind, at=None, steps=3):
    """The student's tensors after a training, killed after `at` steps."""
    objective = objectives[kind]() if kind != "consistency" else Consistency(steps=3, guidance=2.0)
    nets = networks(*objective.fake_learning, prompts=TEXTS.captions)
    nets.fake = nets.fake if objective.needs_fake else None
    student = trainable(nets.rollout.model)
    loss = DistillationLoss(nets, objective, lambda step, generator: [TEXTS])
    session = TrainingSession(dying(at or steps + 1), folder, seconds=0.0)
    with training_session(session):
        losses = distil(student, loss, TrainingPlan(steps, 1e-3, "adam", seed=3, betas=(0.0, 0.999)), {"kind": kind})
    return losses, student.tensors


# What is kept is the same for all of them; one has a fake score beside the student.
@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("consistency", "pg-sb")), "sid"]
)
def test_a_killed_distillation_ends_in_the_same_bits(kind, tmp_path) -> None:
    whole, tensors = trained(tmp_path / "a", kind)
    with pytest.raises(Killed):
        trained(tmp_path / "b", kind, at=2)
    resumed, others = trained(tmp_path / "b", kind)
    assert resumed == whole
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    start = trainable(tiny.view("sd1")).tensors
    assert not any(torch.equal(tensors[name], start[name]) for name in tensors)


def test_every_objective_is_registered() -> None:
    assert {*objectives} == {"consistency", "pg-sb", "sid"}
    assert all(kind() == kind() for kind in map(objectives.__getitem__, objectives))


def test_autocast_keeps_the_gradient() -> None:
    """Autocast's cache of casts made without a gradient would leave the student none."""
    view = tiny.view("sd1", torch.float32)
    student, texts = trainable(view), TextEncodings.of(view)
    with student.student(), torch.autocast("cpu", torch.bfloat16):
        drawn = Rollout(view, STEPS).mixture(texts(TEXTS.captions), rng())
        slopes = torch.autograd.grad(drawn.square().mean(), list(student.tensors.values()))
    assert all(slope.abs().max() > 0 for slope in slopes)
    assert guided_clean(view, texts(["a"]), texts([""]), drawn[:1], torch.tensor([5]), 2.0).dtype == torch.float32
