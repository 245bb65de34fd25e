"""RECE against its loop written out with edited weights and one inverse a step, and the
exact properties of its paper.
"""

import pytest
import torch

from tests import tiny
from unconcept.core import Request
from unconcept.core.errors import SettingsError
from unconcept.core.settings import build_settings
from unconcept.linalg.derive import derive_map
from unconcept.methods.rece import RECE
from unconcept.methods.uce import UCE

REQUEST = Request(("dog face", "red car"), ("goat", "bus"), ("cat", "wolf"))
ALONE = Request(("dog face",), ("goat",))


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def every_row(view, texts):
    return view.embed(texts, at="all").flatten(0, 1)


def edited(view, edit):
    return {name: w.detach() + edit.delta(name, w.detach()) for name, w in view.text_maps().items()}


def literal(view, request: Request, method: RECE):
    """The authors' loop: derive from the edited weights, then one UCE solve on them, every row beside the anchor's."""
    reference = {name: w.detach() for name, w in view.text_maps().items()}
    now = dict(reference)
    if method.start == "uce":
        plain = Request(request.targets, request.anchors)
        assert method.start_retain == ("",)
        now = edited(view, UCE(preserve_scale=0.1, lamb=0.5, tokens="last+tail").erase(view, plain))
    c, a, p = (every_row(view, texts) for texts in (request.targets, request.anchors, ("", *request.retain)))
    eye = torch.eye(c.shape[1], dtype=torch.float64)
    for _ in range(method.epochs):
        left = method.regular_scale * eye + sum(w.T @ w for w in now.values())
        derived = c @ (torch.linalg.inv(left) @ sum(now[n].T @ reference[n] for n in now)).T
        right = method.lamb * eye + method.erase_scale * derived.T @ derived + method.preserve_scale * p.T @ p
        inverse = torch.linalg.inv(right)
        for n, w in now.items():
            b = method.lamb * w + method.erase_scale * (w @ a.T) @ derived + method.preserve_scale * (w @ p.T) @ p
            now[n] = b @ inverse
    return now


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"epochs": 1, "start": "none"},
        {"regular_scale": 1e-3, "erase_scale": 1.5, "preserve_scale": 0.7, "lamb": 0.3, "epochs": 2},
        {"preserve_scale": 0.0, "start": "none"},
    ],
)
def test_is_the_published_algorithm(family, settings) -> None:
    view, method = tiny.shared(family), RECE(**settings)
    found = edited(view, method.erase(view, REQUEST))
    for name, w in literal(view, REQUEST, method).items():
        assert torch.allclose(found[name], w, atol=1e-9, rtol=1e-7)


def test_starts_from_what_it_is_told_to_keep() -> None:
    view, kept = tiny.shared("sd1"), RECE(start_retain=("", "cat"))
    assert kept.erase(view, ALONE).hash != RECE().erase(view, ALONE).hash
    assert RECE(start_retain=()).erase(view, ALONE).hash != RECE().erase(view, ALONE).hash


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_one_round_alone_is_uce_on_the_derived_rows(family) -> None:
    """With nothing retained: the ridge edit of inputs E' with the anchor's rows beside them."""
    from unconcept.linalg.ridge import ridge_directions

    view, method = tiny.shared(family), RECE(epochs=1, preserve_scale=0.0, start="none")
    maps = {name: w.detach() for name, w in view.text_maps().items()}
    c, a = derive_map(maps, maps, method.regular_scale)(every_row(view, ALONE.targets)), every_row(view, ALONE.anchors)
    y = ridge_directions(c, c[:0], 1.0, 0.0, method.lamb).y
    edit = method.erase(view, ALONE)
    assert all(torch.allclose(edit.delta(name, w), w @ (a - c).T @ y, atol=1e-10) for name, w in maps.items())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_attack_is_left_with_more_after_every_round(family) -> None:
    """What the derive step, as the attack runs it, cannot bring back of one concept's last token."""
    view = tiny.shared(family)
    reference = {name: w.detach() for name, w in view.text_maps().items()}
    c, residuals = view.embed(ALONE.targets), []
    for epochs in (1, 2, 3):
        after = edited(view, RECE(epochs=epochs).erase(view, ALONE))
        back = derive_map(after, reference, 0.1)(c)
        left = sum(float((back @ after[n].T - c @ w.T).square().sum()) for n, w in reference.items())
        residuals.append(left / sum(float((c @ w.T).square().sum()) for w in reference.values()))
    assert residuals == sorted(residuals)
    assert residuals[0] < residuals[-1]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_stiff_derive_step_derives_nothing(family) -> None:
    """c' = 0: the erase step then leaves the weights."""
    view = tiny.shared(family)
    edit = RECE(regular_scale=1e12, start="none").erase(view, REQUEST)
    assert max(edit.delta(name, w.detach()).abs().max() for name, w in view.text_maps().items()) < 1e-6


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_order_of_targets_does_not_matter(family) -> None:
    view = tiny.shared(family)
    turned = Request(REQUEST.targets[::-1], REQUEST.anchors[::-1], REQUEST.retain[::-1])
    one, two = (edited(view, RECE().erase(view, request)) for request in (REQUEST, turned))
    assert all(torch.allclose(one[name], two[name], atol=1e-10) for name in one)


def test_it_is_one_thin_map_with_figures() -> None:
    view = tiny.shared("sdxl")
    edit = RECE(epochs=1).erase(view, ALONE)
    assert edit.x.shape[0] <= edit.x.shape[1] == 64
    figures = edit.solve_figures
    assert figures["largest_over_regular_scale"] > figures["smallest_over_regular_scale"] > 0
    assert figures["jitter"] == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("regular_scale", 0.0),
        ("epochs", 0),
        ("erase_scale", 0.0),
        ("preserve_scale", -0.1),
        ("lamb", 0.0),
        ("start", "mace"),
        ("start_retain", "cat"),
    ],
)
def test_settings_out_of_range(setting, value) -> None:
    with pytest.raises(SettingsError, match=setting):
        build_settings(RECE, {setting: value})


def test_golden_norm() -> None:
    """A change of this number is a change of behaviour."""
    view = tiny.shared("sd1")
    edit = RECE().erase(view, REQUEST)
    norm = sum(float(edit.delta(name, w.detach()).square().sum()) for name, w in view.text_maps().items()) ** 0.5
    assert norm == pytest.approx(GOLDEN, rel=1e-4)


GOLDEN = 13.142134
