"""Random Erasing and DOM as options of any training: the properties in their papers, and nothing at their neutral
settings.
"""

from collections import Counter
from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.fast_cases import fast_among
from tests.training.test_run import EVERY as METHODS
from tests.training.test_run import REQUEST, weights
from unconcept.core.errors import SettingsError
from unconcept.methods.esd import ESD
from unconcept.methods.few_shot import FewShot
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training import TrainableWeights, TrainingOptions, TrainingPlan, TrainingSession, train, training_session
from unconcept.training.parameter_groups import select_parameters
from unconcept.training.sample_options import FIRST_BIN_LOSSES, SampleOptions, augment_sample, random_rectangle

FEW = {"iterations": 3, "num_epochs": 2}
EVERY = {
    name: replace(method, **{each.name: FEW[each.name] for each in fields(method) if each.name in FEW})
    for name, method in METHODS.items()
}

# One for weights of the model's own and one for adapters beside it.
NAMES = fast_among(EVERY, ("esd", "spm"))


@cache
def plain_hash(name: str) -> str:
    """Of the edit that is trained without options."""
    return EVERY[name].erase(tiny.view("sd1", torch.float32), REQUEST).hash


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(8, 64), st.integers(8, 64), st.integers(0, 10**6))
def test_a_rectangle_is_inside_and_of_the_share_it_should_be(height, width, seed) -> None:
    options = TrainingOptions(random_erasing=1.0)
    top, left, h, w = random_rectangle(height, width, options, rng(seed))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h < height
    assert w < width
    slack = (h + w + 1) / (2 * height * width)  # of rounding both sides
    assert options.sl - slack <= h * w / (height * width) <= options.sh + slack


def test_a_quarter_of_a_square_is_a_square_of_half_the_side() -> None:
    quarter = TrainingOptions(random_erasing=1.0, sl=0.25, sh=0.25, r1=1.0)
    assert all(random_rectangle(16, 16, quarter, rng(seed))[2:] == (8, 8) for seed in range(20))


def test_corners_are_uniform() -> None:
    """Chi-square over the 9 x 9 corners of an 8-cell square in 16: its 0.999 quantile at 80 degrees of freedom is
    124.8.
    """
    quarter, draws, generator = TrainingOptions(random_erasing=1.0, sl=0.25, sh=0.25, r1=1.0), 8100, rng()
    seen = Counter(random_rectangle(16, 16, quarter, generator)[:2] for _ in range(draws))
    assert len(seen) == 81
    assert sum((count - draws / 81) ** 2 / (draws / 81) for count in seen.values()) < 124.8


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_what_is_shown_is_a_copy_with_a_rectangle_of_zeros(family) -> None:
    view = tiny.shared(family)
    x, t = torch.randn(40, *view.latent_shape, generator=rng(1)), torch.full((40,), 500)
    before = x.clone()
    assert augment_sample(x, t) is x
    for p, count in ((0.0, 0), (1.0, 40)):
        samples = SampleOptions(TrainingOptions(random_erasing=p), view, 10, 0)
        with samples.during_step():
            found = augment_sample(x, t)
        assert torch.equal(x, before)
        blank = (found == 0).all(1)
        assert torch.equal(torch.where(blank[:, None], x, found), x)
        assert int(blank.flatten(1).any(1).sum()) == count
        if family == "flux":  # Whole tokens of 2 x 2 cells.
            assert torch.equal(
                blank.float(),
                torch.nn.functional.max_pool2d(blank[:, None].float(), 2)
                .repeat_interleave(2, 2)
                .repeat_interleave(2, 3)[:, 0],
            )


@pytest.mark.parametrize("name", NAMES)
def test_neutral_settings_change_no_bit(name) -> None:
    with training_session(TrainingSession(options=TrainingOptions(random_erasing=0.0, dom=0.0, dom_warm_up=0.0))):
        assert EVERY[name].erase(tiny.view("sd1", torch.float32), REQUEST).hash == plain_hash(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_can_be_trained_on_erased_samples(name) -> None:
    view = tiny.view("sd1", torch.float32)
    before = weights(view)
    with training_session(TrainingSession(options=TrainingOptions(random_erasing=1.0))):
        once, again = (EVERY[name].erase(view, REQUEST) for _ in range(2))
    assert once.hash == again.hash != plain_hash(name)
    assert weights(view) == before


@pytest.mark.parametrize("family", ["sd1", "sd3", "flux"])
def test_no_gradient_comes_from_inside_a_rectangle(family) -> None:
    """The loss's gradient is that of the cells that were not erased, written out."""
    view = tiny.shared(family)
    trained = TrainableWeights(view, select_parameters(denoiser_parameters(view), "attn"))
    samples = SampleOptions(TrainingOptions(random_erasing=1.0), view, 10, 0)
    x, t = torch.randn(2, *view.latent_shape, generator=rng(1)).to(view.dtype), torch.tensor([300, 600])
    wanted = torch.randn(x.shape, generator=rng(2)).to(view.dtype)
    given_texts = view.condition(["dog", "cat"])
    given_texts = type(given_texts)(*(None if part is None else part.detach() for part in vars(given_texts).values()))
    with trained.student():
        with samples.during_step(), samples.mask_gradients():
            erased = augment_sample(x, t)
            loss = (view.denoise(erased, t, given_texts) - wanted).square().sum()
            found = torch.autograd.grad(loss, list(trained.tensors.values()), allow_unused=True, materialize_grads=True)
        kept = ~(erased == 0).all(1, keepdim=True)
        oracle = (kept * (view.denoise(erased, t, given_texts) - wanted)).square().sum()
        slow = torch.autograd.grad(oracle, list(trained.tensors.values()), allow_unused=True, materialize_grads=True)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, slow, strict=True))


def followed(values, options: TrainingOptions, timesteps=lambda step: 500) -> list[bool]:
    """Which steps of a training moved its weights, where the target's loss at each step is given."""
    view = tiny.shared("sd1")
    trained = TrainableWeights(view, select_parameters(denoiser_parameters(view), "kv")[:1])
    (tensor,) = trained.tensors.values()
    moved: list[bool] = []

    def loss(step, generator):
        augment_sample(torch.ones(1, *view.latent_shape), torch.tensor([timesteps(step)]))
        slope = tensor.sum() - tensor.detach().sum()
        return {"target": values[step] + slope, "retain": 100.0 + 0 * slope}

    before = tensor.detach().clone()

    def tell(progress):
        moved.append(not torch.equal(tensor, before))
        before.copy_(tensor.detach())

    with training_session(TrainingSession(tell, options=options)):
        train(trained, loss, TrainingPlan(len(values), 1e-3, "sgd"), {})
    return moved


def test_dom_leaves_out_what_is_learned_after_the_warm_up() -> None:
    values = [1.0] * FIRST_BIN_LOSSES + [0.01] * 5 + [0.01, 0.3, 0.09, 0.11, 2.0, 0.01, 0.5, 0.5, 0.5, 0.5]
    learned = [step >= 10 and value < 0.1 for step, value in enumerate(values)]
    assert followed(values, TrainingOptions(dom=0.1)) == [not each for each in learned]
    assert all(followed(values, TrainingOptions(dom=0.0)))
    assert not any(followed(values, TrainingOptions(dom=1e9))[10:])
    assert followed(values, TrainingOptions(dom=1e9, dom_warm_up=0.25)) == [True] * FIRST_BIN_LOSSES + [False] * 15


def test_dom_compares_near_the_same_timestep() -> None:
    """Clean samples have small losses from the first: they are not learned by that."""
    assert all(
        followed([1.0, 0.01] * 10, TrainingOptions(dom=0.1, dom_warm_up=0.0), lambda step: 50 if step % 2 else 950)
    )


def test_dom_needs_a_loss_that_falls() -> None:
    with (
        pytest.raises(SettingsError, match="leave it out"),
        training_session(TrainingSession(options=TrainingOptions(dom=0.1))),
    ):
        FewShot(pictures=2, picture_steps=2, epochs=1).erase(tiny.view("sd1", torch.float32), REQUEST)


def test_a_kill_changes_nothing(tmp_path) -> None:
    from tests.killed import Killed, dying

    view, method = tiny.view("sd1", torch.float32), ESD(iterations=7, ddim_steps=2, pool=2, lr=1e-2)
    options = TrainingOptions(random_erasing=0.7, dom=0.9, dom_warm_up=0.0)
    with training_session(TrainingSession(options=options)):
        whole = method.erase(view, REQUEST)
    for kill in (3, 5):
        folder = tmp_path / str(kill)
        with pytest.raises(Killed), training_session(TrainingSession(dying(kill), folder, 0.0, options=options)):
            method.erase(view, REQUEST)
        with training_session(TrainingSession(folder=folder, options=options)):
            assert method.erase(view, REQUEST).hash == whole.hash


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("random_erasing", 1.5),
        ("random_erasing", -0.1),
        ("sl", 0.0),
        ("sh", 1.0),
        ("sh", 0.01),
        ("r1", 0.0),
        ("r1", 1.1),
        ("dom", -1.0),
        ("dom_warm_up", 1.5),
    ],
)
def test_options_out_of_range(name, value) -> None:
    with pytest.raises(SettingsError, match=name):
        TrainingOptions(**{name: value})
