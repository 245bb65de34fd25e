"""UCE against its equation written out, and the exact properties of its paper."""

import pytest
import torch

from tests import tiny, toy_text
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.request import RequestSpec
from unconcept.core.settings import build_settings
from unconcept.edits import TextMapEdit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.methods.uce import UCE

REQUEST = Request(("dog face", "red car"), ("goat", "bus"), ("cat", "wolf", "a moon"))


WAYS = (("states", "last_subject"), ("pooled", "pooled"))  # of a text into a denoiser, and where it is read


def every_map(view):
    return {**view.text_maps(), **view.text_maps("pooled")}


def literal(w, c_e, c_a, c_p, method: UCE):
    """Eq. 7 as printed, with the authors' ridge: sums of outer products and one inverse per layer."""
    left, right = method.lamb * w, method.lamb * torch.eye(w.shape[1], dtype=w.dtype)
    for c, a in zip(c_e, c_a, strict=True):
        left = left + method.erase_scale * torch.outer(w @ a, c)
        right = right + method.erase_scale * torch.outer(c, c)
    for p in c_p:
        left = left + method.preserve_scale * torch.outer(w @ p, p)
        right = right + method.preserve_scale * torch.outer(p, p)
    return left @ torch.linalg.inv(right)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("tokens", ["last", "last+tail"])
@pytest.mark.parametrize("lamb", [0.5, 0.1])
def test_is_the_papers_equation(family, tokens, lamb) -> None:
    view, method = tiny.shared(family), UCE(erase_scale=1.5, preserve_scale=0.7, lamb=lamb, tokens=tokens)
    edit = method.erase(view, REQUEST)
    if tokens == "last":
        columns = [view.embed(texts) for texts in (REQUEST.targets, REQUEST.anchors, REQUEST.retain)]
    else:
        columns = tail_columns(view)
    for name, w in view.text_maps().items():
        assert torch.allclose(
            w.detach() + edit.delta(name, w), literal(w.detach(), *columns, method), atol=1e-10, rtol=0
        )


def tail_columns(view):
    """The 2023 script's rows, written out: the last subject token and all after it,
    aligned; every row of what is kept.
    """
    c_e, c_a = [], []
    for old, new in zip(REQUEST.targets, REQUEST.anchors, strict=True):
        states = view.embed([old, new], at="all")
        a, b = (len(view.tokenizer([text]).ids[0]) - 2 for text in (old, new))
        end = toy_text.LENGTH - 1
        c_e += list(states[0, a : end - max(0, b - a) + 1])
        c_a += list(states[1, b : end - max(0, a - b) + 1])
    return c_e, c_a, list(view.embed(["", *REQUEST.retain], at="all").flatten(0, 1))


@pytest.mark.parametrize(
    ("family", "reads", "at"),
    [*((family, *WAYS[0]) for family in (*tiny.FAMILIES, "flux")), ("flux", *WAYS[1]), ("sd3", *WAYS[1])],
)
def test_one_concept_alone_has_a_closed_form(family, reads, at) -> None:
    """W'c = W c_a + lam / (lam + |c|^2) W (c - c_a), and W'x = W x for every x orthogonal to c.

    SD3 has two rows a text, but one pooled.
    """
    view, request = tiny.shared(family), Request(("dog face",), ("goat",))
    method = UCE()
    edit = method.erase(view, request)
    c, a = view.embed(request.targets, at=at)[0], view.embed(request.anchors, at=at)[0]
    x = torch.randn(len(c), dtype=c.dtype, generator=torch.Generator().manual_seed(0))
    x -= (x @ c) / (c @ c) * c
    for name, w in view.text_maps(reads).items():
        edited = w.detach() + edit.delta(name, w)
        share = method.lamb / (method.lamb + c @ c)
        assert torch.allclose(edited @ c, w @ a + share * (w @ (c - a)), atol=1e-10)
        assert torch.allclose(edited @ x, w @ x, atol=1e-10)


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MMDITS])
def test_limits_of_lambda(family) -> None:
    """lam to infinity leaves the weights; lam to 0 reads targets as anchors and retained texts as before."""
    view = tiny.shared(family)
    stiff, loose = UCE(lamb=1e12).erase(view, REQUEST), UCE(lamb=1e-9).erase(view, REQUEST)
    for reads, at in WAYS[: 2 if family in tiny.MMDITS else 1]:
        c, a, p = (view.embed(texts, at=at) for texts in (REQUEST.targets, REQUEST.anchors, REQUEST.retain))
        for name, w in view.text_maps(reads).items():
            assert stiff.delta(name, w).abs().max() < 1e-9
            edited = w.detach() + loose.delta(name, w)
            assert torch.allclose(c @ edited.T, a @ w.T, atol=1e-6)
            assert torch.allclose(p @ edited.T, p @ w.T, atol=1e-6)


@pytest.mark.parametrize("family", tiny.MMDITS)
def test_both_ways_of_the_text_are_solved_for(family) -> None:
    """SD3's one map reads a text in two rows, CLIP's and T5's; the pooled text has a map of its own. No bias enters."""
    view, method = tiny.shared(family), UCE(erase_scale=1.5, preserve_scale=0.7)
    edit = method.erase(view, REQUEST)
    assert set(every_map(view)) == set(edit.names)
    for reads, at in WAYS:
        columns = [view.embed(texts, at=at) for texts in (REQUEST.targets, REQUEST.anchors, REQUEST.retain)]
        assert len(columns[0]) == 2 * (2 if family == "sd3" and reads == "states" else 1)
        for name, w in view.text_maps(reads).items():
            assert torch.allclose(
                w.detach() + edit.delta(name, w), literal(w.detach(), *columns, method), atol=1e-10, rtol=0
            )


def test_two_rows_a_token_have_no_tail() -> None:
    with pytest.raises(SettingsError, match="not defined for sd3"):
        UCE(tokens="last+tail").erase(tiny.shared("sd3"), REQUEST)


@pytest.mark.parametrize(
    ("family", "tokens"),
    [
        *((family, "last") for family in (*tiny.FAMILIES, *tiny.MMDITS)),
        *((family, "last+tail") for family in tiny.FAMILIES),
    ],
)
def test_order_of_targets_does_not_matter(family, tokens) -> None:
    view = tiny.shared(family)
    turned = Request(REQUEST.targets[::-1], REQUEST.anchors[::-1], REQUEST.retain[::-1])
    one, two = UCE(tokens=tokens).erase(view, REQUEST), UCE(tokens=tokens).erase(view, turned)
    assert all(
        torch.allclose(one.delta(name, w), two.delta(name, w), atol=1e-12) for name, w in every_map(view).items()
    )


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MMDITS])
def test_rank_is_at_most_the_number_of_rows_of_targets(family) -> None:
    view = tiny.shared(family)
    edit = UCE().erase(view, REQUEST)
    assert all(torch.linalg.matrix_rank(edit.delta(name, w)) <= 2 * view.streams for name, w in every_map(view).items())


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MMDITS])
def test_a_target_that_is_its_anchor_changes_nothing(family) -> None:
    """A second space is nothing to a tokenizer; the same words twice are refused by the request."""
    view = tiny.shared(family)
    edit = UCE().erase(view, Request(("dog  face", "red  car"), ("dog face", "red car"), ("cat",)))
    assert not any(edit.delta(name, w).any() for name, w in every_map(view).items())


def test_one_map_on_the_text_serves_every_layer() -> None:
    """Delta_l = W_l T with one T = (C_a - C_e)^T Y, and T is all that is stored."""
    view = tiny.shared("sdxl")
    edit = UCE().erase(view, REQUEST)
    assert isinstance(edit, TextMapEdit)
    assert torch.equal(edit.x, view.embed(REQUEST.anchors) - view.embed(REQUEST.targets))
    assert edit.parameters == 2 * 2 * 64
    assert set(edit.names) == set(view.text_maps())


def test_duplicated_concept_weighs_double() -> None:
    from unconcept.linalg.ridge import ridge_directions

    c = torch.randn(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    none = torch.empty(0, 12, dtype=torch.float64)
    twice = ridge_directions(torch.cat([c, c]), none, 1.0, 1.0, 0.5).y
    assert torch.allclose(twice[:2] + twice[2:], ridge_directions(c, none, 2.0, 1.0, 0.5).y, atol=1e-12)


def test_float32_edit_is_close_to_float64() -> None:
    exact, rough = (UCE().erase(tiny.view("sd1", dtype), REQUEST) for dtype in (torch.float64, torch.float32))
    for name, w in tiny.shared("sd1").text_maps().items():
        assert torch.allclose(exact.delta(name, w).float(), rough.delta(name, w.float()), atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lamb", 0.0),
        ("lamb", -1.0),
        ("lamb", float("nan")),
        ("erase_scale", 0.0),
        ("preserve_scale", -0.1),
        ("tokens", "first"),
        ("lamb", "half"),
        ("lamb", True),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(UCE, {setting: value})


def test_golden_norm() -> None:
    """A change of this number is a change of behaviour."""
    view = tiny.shared("sd1")
    edit = UCE().erase(view, REQUEST)
    norm = sum(float(edit.delta(name, w).square().sum()) for name, w in view.text_maps().items()) ** 0.5
    assert norm == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = 1.6335714


def test_erase_is_a_function_of_the_set_of_concepts() -> None:
    """However the concepts were typed, the file holds the same bytes."""
    view = tiny.view("sd1", torch.float32)
    names, anchors = ("dog face", "red car", "tall moon"), ("goat", "bus", "sun")
    edits = []
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        ask = RequestSpec(
            tuple(names[i] for i in order),
            tuple(anchors[i] for i in order),
            ("cat", "wolf")[:: 1 - 2 * (order[0] == 2)],
        )
        edits.append(make_edit(view, resolve_request(ask, "tiny"), "uce", {}))
    assert len({edit.hash for edit in edits}) == 1


def test_more_texts_than_dimensions_are_one_map() -> None:
    view, method = tiny.shared("sd1"), UCE()
    words = [f"{a} {b}" for a in "abcdefgh" for b in "klmnop"]
    edit = method.erase(view, Request(tuple(words), ("goat",) * len(words), ("cat",)))
    assert edit.x.shape == (32, 32)
    columns = [view.embed(texts) for texts in (words, ("goat",) * len(words), ("cat",))]
    for name, w in view.text_maps().items():
        assert torch.allclose(
            w.detach() + edit.delta(name, w), literal(w.detach(), *columns, method), atol=1e-9, rtol=0
        )
