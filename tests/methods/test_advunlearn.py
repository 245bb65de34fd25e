"""AdvUnlearn against a plain trainer written out, its attack step by step, and the properties of its paper."""

import random

import pytest
import torch

from tests import tiny
from tests.encoders import with_own_encoders
from tests.killed import Killed, dying
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.settings import build_settings
from unconcept.methods.advunlearn import AdvUnlearn, _Foe
from unconcept.models.text.parameters import encoder_parameters, layer_number
from unconcept.models.text.vocabulary import word_ids
from unconcept.training import TrainableWeights, TrainingSession, training_session
from unconcept.training.goals import TextEncodings
from unconcept.training.parameter_groups import select_encoder_layers, select_text_parameters
from unconcept.training.token_search import FreeTokenSlots, SearchGradient, TokenVocabulary
from unconcept.training.trajectories import GuidedSampler, TrajectoryPool

CONTRACT_SETTINGS = {
    "iterations": 3,
    "warmup_iter": 1,
    "attack_step": 2,
    "retain_batch": 2,
    "ddim_steps": 2,
    "pool": 1,
    "dataset_retain": "",
    "templates": ["{}"],
    "lr": 0.001,
}

REQUEST = Request(("dog", "red fox"), ("", ""), ("cat", "car", "hat"))
QUICK = {
    "iterations": 4,
    "warmup_iter": 1,
    "attack_step": 2,
    "retain_batch": 2,
    "ddim_steps": 3,
    "pool": 2,
    "lr": 1e-3,
    "dataset_retain": "",
    "templates": ("a {}",),
}
PLAIN = {"adv_prompt_num": 0}


def erased(view, request=REQUEST, **settings):
    losses = []
    with training_session(TrainingSession(lambda progress: losses.append(progress.loss * progress.done))):
        edit = AdvUnlearn(**{**QUICK, **settings}).erase(view, request)
    return edit, [now - before for now, before in zip(losses, [0.0, *losses], strict=False)]


def foe(view, **settings):
    """An attacker on an encoder that is not erased, and its surroundings."""
    asked, texts = AdvUnlearn(**{**QUICK, **settings}), TextEncodings.of(view)
    encoders = encoder_parameters(view).values()
    trained = TrainableWeights(view, select_encoder_layers("advunlearn", encoders, None, ""))
    return (
        _Foe(asked, view, trained, texts, GuidedSampler(view, texts, asked.ddim_steps, 3.0), REQUEST.targets),
        trained,
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_without_an_attack_it_is_esd_on_the_encoder_beside_what_is_retained(family) -> None:
    """k = 0: a second encoder, every text encoded at each step, Adam by torch."""
    view, eta, w = tiny.view(family), 1.3, 0.3
    edit, losses = erased(view, negative_guidance=eta, **PLAIN)
    student = with_own_encoders(view)
    own = {
        name: p
        for group in encoder_parameters(student).values()
        for name, p in group.items()
        if name in select_text_parameters(group, "text-full")
    }
    before, rule = {name: p.detach().clone() for name, p in own.items()}, torch.optim.Adam(own.values(), lr=1e-3)
    walk = GuidedSampler(view, TextEncodings.of(view), 3, 3.0)
    pools = [TrajectoryPool(walk, [text], 2, 6, i) for i, text in enumerate(REQUEST.targets)]
    beside = TrajectoryPool(walk, ["a cat", "a car", "a hat"], 2, 8, every=False)
    plain = []
    for step in range(4):
        at, kept = pools[step % 2].draw(step // 2, 1, torch.Generator()), beside.draw(step, 2, torch.Generator())
        with torch.no_grad():
            e_c, e_0 = (view.denoise(at.x_t, at.t, [text]) for text in (REQUEST.targets[step % 2], ""))
            e_r = torch.cat([view.denoise(kept.x_t[i : i + 1], kept.t[i : i + 1], [kept.prompts[i]]) for i in range(2)])
        erasing = (
            (student.denoise(at.x_t, at.t, [REQUEST.targets[step % 2]]) - (e_0 - eta * (e_c - e_0))).square().mean()
        )
        loss = erasing + w * (student.denoise(kept.x_t, kept.t, list(kept.prompts)) - e_r).square().mean()
        rule.zero_grad()
        loss.backward()
        rule.step()
        plain.append(loss.item())
    assert losses == pytest.approx(plain, rel=1e-5)
    assert {*edit.names} == {*own}
    deltas = {name: p.detach() - before[name] for name, p in own.items()}
    apart = sum((edit.deltas[name] - delta).square().sum() for name, delta in deltas.items())
    assert apart < 1e-6 * sum(delta.square().sum() for delta in deltas.values())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_first_loss_is_the_targets_alone(family) -> None:
    """What is retained is read as before: (1 + eta)^2 MSE(e_c, e_0) is left."""
    view = tiny.view(family)
    _, weak = erased(view, iterations=1, negative_guidance=0.0)
    _, strong = erased(view, iterations=1, negative_guidance=2.0, retain_loss_w=7.0)
    assert strong[0] == pytest.approx(9 * weak[0], rel=1e-5)
    point = TrajectoryPool(GuidedSampler(view, TextEncodings.of(view), 3, 3.0), ["dog"], 2, 6).draw(
        0, 1, torch.Generator()
    )
    with torch.no_grad():
        said = [view.denoise(point.x_t, point.t, [text]) for text in ("dog", "")]
    assert weak[0] == pytest.approx(float((said[0] - said[1]).square().mean()), rel=1e-5)


@pytest.mark.parametrize("method", ["pgd", "fast_at"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.slow
def test_the_attack_brings_the_target_nearer(family, method) -> None:
    """On one latent: nothing is lacking without the free token, something with it, and the search makes that less."""
    view = tiny.view(family)
    one, trained = foe(view, attack_step=40, attack_lr=0.02, attack_method=method)
    with trained.student():
        point = one.point(0)
        one.point = lambda which: point  # type: ignore[method-assign]
        slots, rng = one._slots(0), torch.Generator().manual_seed(0)

        def lacking(given) -> float:
            with torch.no_grad(), trained.teacher():
                return float(
                    (view.denoise(point.x_t, point.t, given) - view.denoise(point.x_t, point.t, ["dog"]))
                    .square()
                    .mean()
                )

        start = one._start(0, slots, torch.Generator().manual_seed(0))
        found = one._attacked(0, slots, rng)
        assert lacking(view.condition(["dog"])) == pytest.approx(0.0, abs=1e-25)
        first, last = (lacking(view.condition(one.vocabulary.prompts([slots], rows))) for rows in (start, found))
        assert last < 0.8 * first
        assert all(not part.requires_grad for part in found)
        assert all(p.requires_grad for p in trained.student_parameters.values())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_what_stands_before_the_free_token_is_read_as_ever(family) -> None:
    view = tiny.shared(family)
    vocabulary = TokenVocabulary.of(view)
    rows = tuple(
        torch.randn(1, 1, table.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for table in vocabulary.tables
    )
    plain = view.condition(["dog"]).states
    for kind, same in (("prefix_k", 1), ("mid_k", 2), ("suffix_k", 4)):
        with torch.no_grad():
            slots = foe(view, attack_type=kind)[0]._slots(0)
            states = view.condition(vocabulary.prompts([slots], rows)).states
        assert states.shape == plain.shape
        assert torch.allclose(states[:, :same], plain[:, :same], atol=1e-12)
        assert not torch.allclose(states[:, same], plain[:, same], atol=1e-3)


def test_places_of_the_free_tokens() -> None:
    view = tiny.shared("sd1")
    d, o, g = word_ids(view.tokenizer, "dog")
    wanted = {
        "prefix_k": FreeTokenSlots((0, 0, d, o, g), (0, 1)),
        "suffix_k": FreeTokenSlots((d, o, g, 0, 0), (3, 4)),
        "mid_k": FreeTokenSlots((d, 0, 0, o, g), (1, 2)),
        "insert_k": FreeTokenSlots((0, d, 0, o, g), (0, 2)),
        "per_k_words": FreeTokenSlots((0, d, o, 0, g), (0, 3)),
        "replace_k": FreeTokenSlots((0, 0, *[view.tokenizer.pad] * 3), (0, 1)),
        "add": FreeTokenSlots((d, o, g), (0, 1, 2)),
    }
    for kind, slots in wanted.items():
        one, _ = foe(view, attack_type=kind, adv_prompt_num=2)
        assert one._slots(0) == slots, kind
        rows = one._start(0, slots, torch.Generator())
        assert rows[0].shape == (1, len(slots.free_positions), 32)
        moved = (
            torch.equal(rows[0][0], TokenVocabulary.of(view).rows(torch.tensor([d, o, g]))[0])
            if kind == "add"
            else False
        )
        assert moved == (kind == "add")


def test_what_the_search_follows() -> None:
    g = [torch.tensor([2.0, -3.0])], [torch.tensor([-0.5, 1.0])]
    for is_sign, adds_up, second in (
        (False, False, [-0.5, 1.0]),
        (True, False, [-1.0, 1.0]),
        (False, True, [1.5, -2.0]),
        (True, True, [1.0, 0.0]),
    ):
        rule = SearchGradient(is_sign, adds_up)
        assert rule.gradient(0, g[0], [])[0].tolist() == ([1.0, -1.0] if is_sign else [2.0, -3.0])
        assert rule.gradient(1, g[1], [])[0].tolist() == second


@pytest.mark.parametrize(
    "settings",
    [
        {"attack_init": "latest"},
        {"attack_method": "fast_at"},
        {"compat": "authors"},
        {"retain_train": "iter", "retain_step": 2},
    ],
)
@pytest.mark.slow
def test_killed_and_gone_on_is_the_same_edit(settings, tmp_path) -> None:
    view, method = tiny.view("sd1", torch.float32), AdvUnlearn(**{**QUICK, "iterations": 6, **settings})
    whole, _ = erased(view, iterations=6, **settings)
    kill = random.Random(str(settings)).randint(2, 5)
    with pytest.raises(Killed), training_session(TrainingSession(dying(kill), tmp_path, seconds=0.0)):
        method.erase(view, REQUEST)
    with training_session(TrainingSession(folder=tmp_path)):
        assert method.erase(view, REQUEST).hash == whole.hash


def test_what_is_retained_has_steps_of_its_own() -> None:
    """At a rate of nothing they have no loss; every iteration is one step and two more."""
    _, losses = erased(tiny.view("sd1"), lr=0.0, retain_train="iter", retain_step=2, iterations=3)
    assert len(losses) == 9
    assert all(loss > 1e-6 for loss in losses[::3])
    assert [*losses[1::3], *losses[2::3]] == pytest.approx([0.0] * 6, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "layers", "inner"),
    [({}, {-1, 0, 1}, ""), ({"layers": 1}, {0}, ""), ({"component": "ffn"}, {0, 1}, ".mlp.")],
)
def test_what_is_trained(settings, layers, inner) -> None:
    """All of CLIP-L is 12 x 16 + 2 tensors; here there are two layers."""
    view, zero = tiny.shared("sd1"), {"iterations": 0, "warmup_iter": 0}
    names = AdvUnlearn(**{**QUICK, **zero, **settings}).erase(view, REQUEST).names
    assert {layer_number(name) for name in names} == layers
    assert all(inner in name for name in names)
    assert settings or len(names) == 2 * 16 + 2
    with pytest.raises(SettingsError, match="layers must be at most the encoder's 2, got 3"):
        AdvUnlearn(**{**QUICK, **zero, "layers": 3}).erase(view, REQUEST)


def test_captions_beside_the_request_name_no_target(tmp_path) -> None:
    (tmp_path / "own.txt").write_text("a dog\nred fox here\na tree\n" + "a long long caption that no encoder holds\n")
    kept = AdvUnlearn(dataset_retain=str(tmp_path / "own.txt"), templates=("{}", "a {}"))._retained(
        tiny.shared("sd1"), REQUEST
    )
    assert kept == ["cat", "a cat", "car", "a car", "hat", "a hat", "a tree"]
    with pytest.raises(RequestError, match="nothing to retain"):
        erased(tiny.view("sd1"), Request(("dog",), ("",)))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("iterations", -1),
        ("lr", -1.0),
        ("warmup_iter", -1),
        ("attack_step", -1),
        ("attack_type", "prefix"),
        ("attack_method", "free_at"),
        ("retain_batch", 0),
        ("retain_step", 0),
        ("layers", 0),
        ("negative_guidance", -2.0),
        ("pool", 0),
        ("templates", ("a",)),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "templates" else setting):
        build_settings(AdvUnlearn, {setting: value})


@pytest.mark.parametrize(
    "settings", [{"layers": 3}, {"adv_prompt_num": 20}, {"adv_prompt_num": 60, "attack_type": "replace_k"}]
)
def test_what_the_encoder_does_not_hold_is_refused_before_anything_is_drawn(settings, monkeypatch) -> None:
    """It has two layers, and room for 22 tokens, of which the target takes three."""
    monkeypatch.setattr(
        "unconcept.training.trajectories.GuidedSampler.initial_latents",
        lambda *given: pytest.fail("something was drawn"),
    )
    with pytest.raises(SettingsError, match=rf"{next(iter(settings))}.*(2, got 3|holds 22: lower it)"):
        erased(tiny.view("sd1"), **settings)


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), iterations=5, attack_init="latest", attack_lr=0.05)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [0.0015451871, 0.010723823, 0.0041632955, 0.0022000368, 0.0023888373]
NORM = 0.4099303
