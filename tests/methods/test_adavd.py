"""AdaVD against its equations written out, and the exact properties of its paper."""

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.settings import build_settings
from unconcept.methods.adavd import AdaVD
from unconcept.models.hooks.cross_attention import cross_attentions, steer_attentions

ONE = Request(("dog face",), ("",))
REQUEST = Request(("dog face", "red car"), ("", ""))
TEXTS = ["a dog face in ink", "red car", "a fox"]


def values(view, edit, texts=TEXTS):
    """(values before, values after, module) of each cross-attention, (b, l, o), as
    recorded inside the running model.
    """
    before, after = [], []

    def recorded(into):
        def rule(reading, mix):
            into.append(reading)
            return mix(reading)

        return rule

    own, noise = cross_attentions(view, view.text_maps()), torch.zeros(len(texts), *view.latent_shape, dtype=view.dtype)
    # The rule hung last is outermost and sees values first.
    with (
        torch.no_grad(),
        steer_attentions(own, recorded(after)),
        edit.applied(view),
        steer_attentions(own, recorded(before)),
    ):
        view.denoise(noise, torch.tensor([500]), texts)
    assert len(before) == len(after) == len(own)
    return [(a.values, b.values, a.attention) for a, b in zip(before, after, strict=True)]


def literal(v, v_t, v_null, method: AdaVD):
    """One prompt's values (l, o) for one target, token by token, in the authors' layout: the empty text's half stands
    first.
    """
    kept = v.clone()
    for j in range(1, len(v)):
        a = torch.cat([v_null[j], v[j]]) if method.joint_cfg else v[j]
        b = torch.cat([v_null[j], v_t]) if method.joint_cfg else v_t
        delta = 1.0
        if method.token_sim:
            delta = method.s / (1 + torch.exp(-method.p * ((a @ b) / (a.norm() * b.norm()) - method.eps)))
        kept[j] = v[j] - (delta * (b @ a) / (b @ b) * b)[-len(v_t) :]
    return kept


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(
    "method", [AdaVD(), AdaVD(joint_cfg=False, eps=0.5, p=8.0), AdaVD(p=8.0, eps=0.5), AdaVD(token_sim=False)]
)
def test_is_the_papers_equation(family, method) -> None:
    view = tiny.shared(family)
    f, null = view.embed(ONE.targets)[0], view.embed([""], at="all")[0]
    for before, after, own in values(view, method.erase(view, ONE)):
        for v, kept in zip(before, after, strict=True):
            assert torch.allclose(kept, literal(v, own.to_v(f), own.to_v(null), method), atol=1e-10, rtol=0)


@pytest.mark.parametrize("request_", [ONE, REQUEST, Request(("dog face", "red car", "a moon"), ("",) * 3)])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_without_shift_values_are_orthogonal_to_all_targets(family, request_) -> None:
    """In the paper's layout; the start token stays bit by bit; doing it twice does nothing
    more; order does not matter.
    """
    view, method = tiny.shared(family), AdaVD(token_sim=False, joint_cfg=False)
    edit = method.erase(view, request_)
    turned = method.erase(view, Request(request_.targets[::-1], request_.anchors))
    for (before, after, own), (_, other, _) in zip(values(view, edit), values(view, turned), strict=True):
        v_t = own.to_v(view.embed(request_.targets))
        assert (after[:, 1:] @ v_t.T).abs().max() < 1e-10
        assert torch.equal(after[:, 0], before[:, 0])
        assert not torch.allclose(after[:, 1:], before[:, 1:], atol=1e-3)
        assert torch.allclose(after, other, atol=1e-10)
        again = edit.rule.retained_values(after, torch.ones(len(after), 1, 1, dtype=after.dtype), own.to_v)
        assert torch.allclose(again, after, atol=1e-10)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_target_itself_is_turned_round(family) -> None:
    """v_retain = (1 - delta) v with delta = 2 / (1 + e^-7) where cosine is 1, in either layout."""
    view, delta = tiny.shared(family), 2 / (1 + torch.exp(torch.tensor(-7.0, dtype=torch.float64)))
    for joint in (True, False):
        for before, after, _ in values(view, AdaVD(joint_cfg=joint).erase(view, ONE), list(ONE.targets)):
            last = view.tokenizer(ONE.targets).index("last_subject")[0]
            assert torch.allclose(after[0, last], (1 - delta) * before[0, last], atol=1e-10)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_values_orthogonal_to_the_target_stay(family) -> None:
    view = tiny.shared(family)
    edit = AdaVD(joint_cfg=False).erase(view, ONE)
    for before, _, own in values(view, edit):
        v_t = own.to_v(view.embed(ONE.targets))[0]
        v = before - (before @ v_t)[..., None] * v_t / (v_t @ v_t)
        ones = torch.ones(len(v), 1, 1, dtype=v.dtype)
        assert torch.allclose(edit.rule.retained_values(v, ones, own.to_v), v, atol=1e-12)


def test_one_target_without_shift_is_a_weight_edit_at_every_token_but_the_first() -> None:
    """v' = (I - v_t v_t^T / |v_t|^2) W c."""
    view = tiny.shared("sdxl")
    edit = AdaVD(token_sim=False, joint_cfg=False).erase(view, ONE)
    states = view.condition(TEXTS).states.detach()
    for _, after, own in values(view, edit):
        v_t = own.to_v(view.embed(ONE.targets))[0]
        w = own.to_v.weight - torch.outer(v_t, v_t) / (v_t @ v_t) @ own.to_v.weight
        assert torch.allclose(after[:, 1:], (states @ w.T)[:, 1:], atol=1e-10)


@pytest.mark.parametrize(
    ("setting", "value"), [("s", -1.0), ("p", 0.0), ("eps", 1.5), ("eps", float("nan")), ("token_sim", 1)]
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(AdaVD, {setting: value})


def test_golden_norm() -> None:
    """A change of this number is a change of behaviour."""
    view = tiny.shared("sd1")
    moved = sum(
        float((after - before).square().sum())
        for before, after, _ in values(view, AdaVD(eps=0.8, p=20.0).erase(view, REQUEST))
    )
    assert moved**0.5 == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = 50.592908
