"""TRCE's first stage against its equation written out, and the exact properties of its paper."""

import pytest
import torch

from tests import tiny, toy_text
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.recipe import load_recipe
from unconcept.core.request import RequestSpec
from unconcept.core.settings import build_settings
from unconcept.erasing.request_defaults import resolve_request
from unconcept.methods.trce import TRCE
from unconcept.models import open_model

REQUEST = Request(("dog face", "red car"), ("goat", "a bus"), ("cat", "a moon"))
FORMS = ("a {}", "{} in fog", "old {} at sea", "{}")
CAPTIONS = [
    f"{a} {b}" for a in ("cat", "wolf", "tall moon", "x ray", "bus") for b in ("by night", "in june", "q", "for 3")
]
ALL = (0.3, 1.0, 0.2, 0.5)


def literal(view, w, method: TRCE, request: Request, texts):
    """The paper's equation, a pair of prompts at a time: four positions, their base
    weights, one inverse for each layer.
    """
    d, l = w.shape[1], toy_text.LENGTH
    top, bottom = torch.zeros_like(w), torch.zeros(d, d, dtype=w.dtype)
    n = 0
    for target, anchor in zip(request.targets, request.anchors, strict=True):
        for form in method.templates[: method.augment_num]:
            one, two = form.format(target), form.format(anchor)
            m, s = view.embed([one, two], at="all")
            letters = [len(text.replace(" ", "")) for text in (one, two)]
            ends = [len(text.split()) + 1 for text in (one, two)] if method.compat else [count + 1 for count in letters]
            keyword = 1 + len(form.split("{}")[0].replace(" ", ""))
            places = [(0, 0, 1), (*ends, 1), (l - 1, l - 1, l - 1 - ends[0]), (keyword, l - 1, 1)]
            for weight, (i, j, base) in zip(method.token_weight_scale, places, strict=True):
                top = top + weight * base * torch.outer(w @ s[j], m[i])
                bottom = bottom + weight * base * torch.outer(m[i], m[i])
            n += 1
    kept = [*texts, *request.retain]
    prior = sum(torch.outer(row, row) for row in view.embed(kept, at="all").flatten(0, 1)) / len(kept)
    p = method.preserve_scale**2
    return (top / n + p * w @ prior + method.lamb * w) @ torch.linalg.inv(
        bottom / n + p * prior + method.lamb * torch.eye(d, dtype=w.dtype)
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("weights", [(0.0, 1.0, 0.0, 0.0), ALL])
@pytest.mark.parametrize("compat", ["", "authors"])
def test_is_the_papers_equation(family, weights, compat, tmp_path) -> None:
    view, path = tiny.shared(family), tmp_path / "captions.txt"
    path.write_text("\n".join(CAPTIONS))
    method = TRCE(
        preserve_scale=0.3,
        token_weight_scale=weights,
        augment_num=3,
        lamb=0.05,
        prior=str(path),
        templates=FORMS,
        compat=compat,
    )
    edit = method.erase(view, REQUEST)
    for name, w in view.text_maps().items():
        assert torch.allclose(
            w.detach() + edit.delta(name, w), literal(view, w.detach(), method, REQUEST, CAPTIONS), atol=1e-10, rtol=0
        )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_one_pair_and_no_prior_is_read_exactly(family) -> None:
    view, request = tiny.shared(family), Request(("dog face",), ("goat",))
    edit = TRCE(preserve_scale=0.0, lamb=1e-10, templates=("a {}",)).erase(view, request)
    m, s = view.embed(["a dog face", "a goat"], at="first_eot")
    for name, w in view.text_maps().items():
        assert torch.allclose((w.detach() + edit.delta(name, w)) @ m, w @ s, atol=1e-7)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_heavy_prior_leaves_the_weights(family) -> None:
    view = tiny.shared(family)
    edit = TRCE(preserve_scale=1e5).erase(view, Request(REQUEST.targets, REQUEST.anchors, tuple(CAPTIONS)))
    for name, w in view.text_maps().items():
        assert edit.delta(name, w).norm() / w.norm() < 1e-5


@torch.no_grad()
def test_sentences_that_were_not_asked_go_too_and_captions_stay() -> None:
    """On moji, whose encoder has learnt to read: the gap at the end token of held-out sentences, and the drift of
    retained rows.
    """
    model, recipe = open_model("moji", "cpu", "float32"), load_recipe("moji-trce")
    request = resolve_request(RequestSpec(("eagle",)), "moji").request
    edit = build_settings(TRCE, recipe.settings).erase(model, request)
    old, new = (
        model.embed([f"a {word} in classic style", f"twemoji style {word}"], at="first_eot")
        for word in (request.targets[0], request.anchors[0])
    )
    kept = model.embed(request.retain, at="all").flatten(0, 1)
    sums = torch.zeros(4)
    for name, w in model.text_maps().items():
        w, delta = w.float(), edit.delta(name, w.float())
        gap = (new - old) @ w.T
        sums += torch.stack([part.square().sum() for part in (gap - old @ delta.T, gap, kept @ delta.T, kept @ w.T)])
    assert float((sums[0] / sums[1]).sqrt()) < 0.5
    assert float((sums[2] / sums[3]).sqrt()) < 0.1


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_same_words_change_nothing(family) -> None:
    edit = TRCE(token_weight_scale=(1.0, 1.0, 1.0, 0.0)).erase(
        tiny.shared(family), Request(("dog face",), ("dog  face",), ("cat",))
    )
    assert not edit.x.any()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_order_of_targets_does_not_matter(family) -> None:
    view = tiny.shared(family)
    turned = Request(REQUEST.targets[::-1], REQUEST.anchors[::-1], REQUEST.retain[::-1])
    one, two = TRCE().erase(view, REQUEST), TRCE().erase(view, turned)
    assert all(
        torch.allclose(one.delta(name, w), two.delta(name, w), atol=1e-10) for name, w in view.text_maps().items()
    )


def test_where_the_authors_look_for_the_end_token() -> None:
    """In words of one token each it is the same place; in longer words it is inside the words."""
    view, letters = tiny.shared("sd1"), Request(("b",), ("c",), ("d e",))
    ours, theirs = (TRCE(templates=("a {}",), compat=compat).erase(view, letters) for compat in ("", "authors"))
    assert ours.hash == theirs.hash
    ours, theirs = (TRCE(templates=("a {}",), compat=compat).erase(view, REQUEST) for compat in ("", "authors"))
    assert ours.hash != theirs.hash


def test_without_lamb_the_prior_must_span() -> None:
    with pytest.raises(SettingsError, match="lamb = 0"):
        TRCE(lamb=0.0).erase(tiny.shared("sdxl"), Request(("dog face",), ("goat",)))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("preserve_scale", -0.1),
        ("lamb", -1.0),
        ("augment_num", 0),
        ("token_weight_scale", [0.0, 0.0, 0.0, 0.0]),
        ("token_weight_scale", [1.0, -1.0, 0.0, 0.0]),
        ("token_weight_scale", [1.0]),
        ("compat", "theirs"),
        ("templates", ["{} {}"]),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match="template" if setting == "templates" else setting):
        build_settings(TRCE, {setting: value})


def test_golden_norm() -> None:
    """A change of this number is a change of behaviour."""
    view = tiny.shared("sd1")
    edit = TRCE().erase(view, REQUEST)
    norm = sum(float(edit.delta(name, w).square().sum()) for name, w in view.text_maps().items()) ** 0.5
    assert norm == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = 17.2020885
