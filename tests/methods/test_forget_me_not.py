"""Forget-Me-Not against its norm of attention written out, its positions, its learned words, its gradient."""

import pytest
import torch

from tests import tiny, toy_text
from tests.methods.plain_trainer import second_model
from unconcept.core import Request
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.seeds import picture_seeds
from unconcept.core.settings import build_settings
from unconcept.methods.forget_me_not import ForgetMeNot
from unconcept.models.diffusion.vae import encode_images
from unconcept.models.hooks.modules import denoiser_parameters
from unconcept.training import TrainingSession, training_session
from unconcept.training.budget import number_in_turn
from unconcept.training.images.training_images import generate_images
from unconcept.training.parameter_groups import select_parameters
from unconcept.training.token_search import denoising_error

CONTRACT_SETTINGS = {"max_train_steps": 4, "pictures": 2, "picture_steps": 2, "learning_rate": 0.001}

REQUEST = Request(("hat",), ("fox",))
QUICK = {**CONTRACT_SETTINGS, "templates": ("a {} b",), "pictures": 2, "adam_weight_decay": 0.02, "max_grad_norm": 0.3}
STEPS, RATE = 4, 1e-3
PROMPT = "a hat b"  # one token a letter: start, a, h, a, t, b, end


def erased(view, request=REQUEST, **settings):
    losses = {}
    session = TrainingSession(lambda p: losses.setdefault(p.name, []).append(p.loss * p.done))
    with training_session(session):
        edit = ForgetMeNot(**{**QUICK, **settings}).erase(view, request)
    totals = losses.get("forget-me-not", [])
    return edit, [now - before for now, before in zip(totals, [0.0, *totals], strict=False)]


def columns(student, x, t, given, at):
    """Sum of squared probabilities at some positions: queries and keys by hooks, softmax by hand, each attention."""
    total, hooks, seen = 0.0, [], {}
    net = student.modules("denoiser")
    attentions = {name: m for name, m in net.named_modules() if name.endswith("attn2")}
    for name, module in attentions.items():
        for part in ("to_q", "to_k"):
            hooks.append(
                getattr(module, part).register_forward_hook(
                    lambda m, args, out, key=(name, part): seen.__setitem__(key, out)
                )
            )
    student.denoise(x, t, given)
    for hook in hooks:
        hook.remove()
    for name, module in attentions.items():
        q, k = (seen[name, part].unflatten(-1, (module.heads, -1)).transpose(1, 2) for part in ("to_q", "to_k"))
        found = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).exp()
        total = total + (found / found.sum(-1, keepdim=True))[..., at].square().sum()
    return total


def plainly(view, at, group="full", clips=True, zeros=False, prompt=PROMPT):
    """A whole second model, AdamW and clipping by torch: deltas and losses."""
    student = second_model(view)
    own = denoiser_parameters(student)
    names = select_parameters(own, group)
    trained = [own[n] for n in names]
    before, rng = [p.detach().clone() for p in trained], torch.Generator().manual_seed(0)
    rule, losses = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.02), []
    z = encode_images(view, generate_images(view, [PROMPT] * 2, picture_seeds(0, 2), 2, 7.5)).detach().to(view.dtype)
    for step in range(STEPS):
        x0 = z[[number_in_turn(step, 2, 0)]]
        t = torch.randint(len(view.schedule.alpha), (1,), generator=rng)
        noise = torch.randn(x0.shape, generator=rng).to(x0)
        x = view.schedule.add_noise(torch.zeros_like(x0) if zeros else x0, noise, t)
        loss = columns(student, x, t, [prompt], at) ** 0.5
        losses.append(loss.item())
        grads = torch.autograd.grad(loss, trained, allow_unused=True)
        for p, g in zip(trained, grads, strict=True):
            p.grad = torch.zeros_like(p) if g is None else g
        if clips:
            torch.nn.utils.clip_grad_norm_(trained, 0.3)
        rule.step()
    return [p.detach() - own for p, own in zip(trained, before, strict=True)], losses


def require_plain(view, at, settings, **how):
    edit, losses = erased(view, **settings)
    deltas, plain = plainly(view, at, **how)
    assert losses == pytest.approx(plain, rel=1e-6)
    apart = sum((ours - theirs).square().sum() for ours, theirs in zip(edit.deltas.values(), deltas, strict=True))
    assert apart < 1e-8 * sum(theirs.square().sum() for theirs in deltas)


@pytest.mark.parametrize("family", ["sd1", pytest.param("sd2", marks=pytest.mark.slow), "sdxl"])
def test_is_the_norm_of_the_targets_columns(family) -> None:
    """SD 2 pads with another token than its end, so there only one end is steered away from."""
    view = tiny.view(family)
    ends = [6] if family == "sd2" else range(6, toy_text.LENGTH)
    require_plain(view, [2, 3, 4, *ends], {})


@pytest.mark.parametrize(
    ("settings", "at", "how"),
    [
        ({"use_pooler": False, "only_optimize_ca": True}, [2, 3, 4], {"group": "xattn"}),
        pytest.param({"compat": "authors", "use_pooler": False}, [2, 3, 4], {"clips": False}, marks=pytest.mark.slow),
        pytest.param({"no_real_image": True, "use_pooler": False}, [2, 3, 4], {"zeros": True}, marks=pytest.mark.slow),
    ],
)
def test_is_the_norm_in_every_variant(settings, at, how) -> None:
    require_plain(tiny.view("sd1"), at, settings, **how)


def test_only_what_comes_before_the_last_probabilities_gets_a_gradient() -> None:
    """Values and outputs of the last cross-attention have none, nor has anything behind it; queries and keys have."""
    edit, losses = erased(tiny.view("sd1"), adam_weight_decay=0.0, use_pooler=False)
    last = [name for name in edit.names if name.startswith("unet.up_blocks.") and ".attn2." in name][-1]
    base = last[: last.index(".attn2.")] + ".attn2."
    moved = {name.removeprefix(base): bool(edit.deltas[name].any()) for name in edit.names if name.startswith(base)}
    assert moved == {
        "to_q.weight": True,
        "to_k.weight": True,
        "to_v.weight": False,
        "to_out.0.weight": False,
        "to_out.0.bias": False,
    }
    assert not edit.deltas["unet.conv_out.weight"].any()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("family", tiny.MMDITS)
def test_in_a_joint_transformer_the_loss_falls_too(family) -> None:
    _, losses = erased(tiny.view(family), max_train_steps=12, no_real_image=True)
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.slow
def test_learned_words_are_what_is_erased() -> None:
    """They are four positions in the target's place, and learning them lowers the model's own loss on the pictures."""
    view, told = tiny.view("sd1", torch.float32), {}
    request, settings = REQUEST, {**QUICK, "use_ti": True, "ti_steps": 40, "ti_lr": 0.05}
    with training_session(TrainingSession(lambda p: told.setdefault(p.name, []).append(p.loss))):
        edit = ForgetMeNot(**settings).erase(view, request)
    assert [len(told[name]) for name in ("forget-me-not-ti", "forget-me-not")] == [40, 4]
    assert edit.hash != ForgetMeNot(**QUICK).erase(view, request).hash
    method = ForgetMeNot(**settings)
    pictures = method._pictures(view, request, ("a {} b",))
    ((given, positions),) = method._steered(view, request, ("a {} b",), pictures).values()
    assert positions == [2, 3, 4, 5, *range(7, toy_text.LENGTH)]
    assert given.conditioning.states.shape == view.condition([PROMPT]).states.shape
    ((fresh, _),) = ForgetMeNot(**settings | {"ti_steps": 0})._steered(view, request, ("a {} b",), pictures).values()
    rng = torch.Generator().manual_seed(5)
    t, noise = torch.randint(1000, (64,), generator=rng), torch.randn(64, *view.latent_shape, generator=rng)
    with torch.no_grad():
        before, after = (
            denoising_error(
                view, each.conditioning.rows(torch.zeros(64).long()), pictures.latents[[0, 1] * 32], noise, t
            )
            for each in (fresh, given)
        )
    assert after.mean() < before.mean()


def test_learned_words_need_one_table_of_tokens() -> None:
    with pytest.raises(RequestError, match=r"^forget-me-not: use_ti .* sd3 has no single table"):
        erased(tiny.view("sd3"), use_ti=True)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_train_steps", -1),
        ("learning_rate", -1.0),
        ("adam_weight_decay", -1.0),
        ("max_grad_norm", 0.0),
        ("ti_tokens", 0),
        ("ti_steps", -1),
        ("pictures", 0),
        ("compat", "code"),
        ("templates", ["a photo"]),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "templates" else setting):
        build_settings(ForgetMeNot, {setting: value})


def test_golden_losses() -> None:
    """A change of these numbers is a change of behaviour."""
    edit, losses = erased(tiny.view("sd1"), max_train_steps=5)
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert sum(float(delta.square().sum()) for delta in edit.deltas.values()) ** 0.5 == pytest.approx(NORM, rel=1e-4)


LOSSES = [3.9513155, 3.9243358, 3.9082973, 3.8941738, 3.8862888]
NORM = 0.73818091
