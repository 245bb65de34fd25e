"""NASA against its equation written out, and the exact properties of its paper."""

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.settings import build_settings
from unconcept.methods.nag import NAG
from unconcept.methods.nasa import NASA
from unconcept.models.hooks.cross_attention import cross_attentions, mix_values, steer_attentions

ONE = Request(("dog face",), ("",))
TWO = Request(("dog face", "red car"), ("", ""))
TEXTS = ["a dog face in ink", "a fox"]


def outputs(view, edit, texts=TEXTS):
    """(reading, output before the output map) of each cross-attention under an edit."""
    found = []

    def recorded(reading, mix):
        found.append((reading, mix(reading)))
        return found[-1][1]

    own, noise = cross_attentions(view, view.text_maps()), torch.ones(len(texts), *view.latent_shape, dtype=view.dtype)
    with torch.no_grad(), edit.applied(view), steer_attentions(own, recorded):
        view.denoise(noise, torch.tensor([500]), texts)
    return found


def attention(module, queries, states):
    """softmax(Q K^T / sqrt d) V head by head, for one prompt: queries (p, o), states (l, d)."""
    width = queries.shape[1] // module.heads
    parts = []
    for q, k, v in zip(
        queries.split(width, 1), module.to_k(states).split(width, 1), module.to_v(states).split(width, 1), strict=True
    ):
        parts.append(torch.softmax(q @ k.T / width**0.5, 1) @ v)
    return torch.cat(parts, 1)


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("request_", [ONE, TWO])
@pytest.mark.parametrize("method", [NASA(alpha=0.2), NASA(alpha=0.2, compensate=True), NAG()])
def test_is_the_papers_equation(family, request_, method) -> None:
    view = tiny.shared(family)
    negative = torch.cat(list(view.embed(request_.targets, at="all")))
    for reading, found in outputs(view, method.erase(view, request_)):
        for i in range(len(TEXTS)):
            plus, minus = (
                attention(reading.attention, reading.queries[i], states) for states in (reading.states[i], negative)
            )
            assert torch.allclose(found[i], literal(method, plus, minus), atol=1e-10, rtol=0)


def literal(method, plus, minus):
    if isinstance(method, NASA):
        return (plus - method.alpha * minus) / ((1 - method.alpha) if method.compensate else 1)
    led = method.nag_scale * plus - (method.nag_scale - 1) * minus
    for i in range(len(plus)):
        ratio = led[i].norm() / plus[i].norm()
        led[i] = led[i] * min(float(ratio), method.tau) / ratio
    return method.a * led + (1 - method.a) * plus


@pytest.mark.parametrize("method", [NASA(alpha=0.0), NAG(a=0.0), NAG(nag_scale=1.0)])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_nothing_subtracted_is_the_model_itself(family, method) -> None:
    view = tiny.shared(family)
    for reading, found in outputs(view, method.erase(view, ONE)):
        assert torch.allclose(found, mix_values(reading), atol=1e-12)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_prompt_that_is_its_own_negative_shrinks(family) -> None:
    view = tiny.shared(family)
    for alpha in (0.3, 1.0):
        for reading, found in outputs(view, NASA(alpha=alpha).erase(view, ONE), list(ONE.targets)):
            assert torch.allclose(found, (1 - alpha) * mix_values(reading), atol=1e-12)
    for method in (NASA(alpha=0.3, compensate=True), NAG()):
        for reading, found in outputs(view, method.erase(view, ONE), list(ONE.targets)):
            assert torch.allclose(found, mix_values(reading), atol=1e-12)


def test_the_denoiser_is_asked_once_with_the_same_batch() -> None:
    view, sizes = tiny.view("sd1"), []
    handle = view.modules("denoiser").register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(args[0])), with_kwargs=True
    )
    with NASA().erase(view, ONE).applied(view):
        view.sample(["a dog face"], torch.randn(1, *view.latent_shape), 2, 3.0)
    handle.remove()
    assert sizes == [2, 2]


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        (NASA, "alpha", -0.1),
        (NASA, "alpha", 1.1),
        (NASA, "alpha", float("nan")),
        (NASA, "compensate", "yes"),
        (NAG, "nag_scale", 0.5),
        (NAG, "tau", 0.0),
        (NAG, "a", 1.5),
    ],
)
def test_settings_out_of_range(kind, setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(kind, {setting: value})


def test_all_of_it_cannot_be_compensated() -> None:
    with pytest.raises(SettingsError, match="compensate"):
        NASA(alpha=1.0, compensate=True)


@pytest.mark.parametrize("method", [NASA(), NAG()])
def test_golden_norms(method) -> None:
    """A change of these numbers is a change of behaviour."""
    view = tiny.shared("sd1")
    moved = sum(
        float((found - mix_values(reading)).square().sum()) for reading, found in outputs(view, method.erase(view, TWO))
    )
    assert moved**0.5 == pytest.approx(GOLDEN[type(method).__name__], rel=1e-4)


GOLDEN = {"NASA": 3.2535250, "NAG": 10.8678945}
