"""Weights of targets: what they do to each method, and that without them nothing is other than before."""

from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK, family_for
from unconcept.core import Request
from unconcept.core.errors import RequestError
from unconcept.core.request import RequestSpec, relative_weights
from unconcept.core.settings import build_settings
from unconcept.edits import origin_of
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request, weights_of_targets
from unconcept.methods import MethodServices, methods
from unconcept.methods.uce import UCE
from unconcept.training.budget import number_in_turn, text_in_turn

NAMES, ANCHORS = ("dog face", "red car", "moon"), ("goat", "bus", "a cup")
REQUEST = Request(NAMES, ANCHORS, ("cat", "wolf"))
UNEVEN = {"dog face": 4.0, "red car": 1.0, "moon": 0.0}
WEIGHERS = [name for name in methods if methods[name].weighs_targets]
OTHERS = [name for name in methods if not methods[name].weighs_targets]


def edited(name: str, weights: dict[str, float] | None, request: Request = REQUEST):
    view = tiny.view(family_for(name))
    services = replace(planted_services(view), weights=weights)
    return build_settings(methods[name].settings, QUICK.get(name, {}), name).erase(view, request, services)


def same(one, other) -> bool:
    mine, theirs = one.tensors(), other.tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_weights_are_relative_and_equal_ones_are_none() -> None:
    assert relative_weights(NAMES, {"dog face": 3, "moon": 0.5}) == {"dog face": 2.0, "red car": 2 / 3, "moon": 1 / 3}
    assert relative_weights(NAMES, None) is relative_weights(NAMES, dict.fromkeys(NAMES, 0.1)) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cat": 1}, "weigh what is erased"),
        ({"moon": -1}, "number >= 0"),
        ({"moon": float("nan")}, "number >= 0"),
        ({"moon": "2"}, "number >= 0"),
        ({"moon": True}, "number >= 0"),
        (dict.fromkeys(NAMES, 0), "at least one target"),
    ],
)
def test_a_wrong_weight_is_one_line(given, message) -> None:
    with pytest.raises(RequestError, match=message) as error:
        relative_weights(NAMES, given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", OTHERS)
def test_a_method_that_cannot_weigh_says_why(name) -> None:
    with pytest.raises(RequestError, match=f"{name} takes no weights of targets: .*; leave them out"):
        edited(name, UNEVEN)


@pytest.mark.parametrize("name", WEIGHERS)
def test_weights_change_an_edit_and_equal_ones_do_not(name) -> None:
    plain, uneven = edited(name, None), edited(name, UNEVEN)
    assert not same(plain, uneven)
    assert same(plain, edited(name, dict.fromkeys(NAMES, 0.3)))
    assert "weights" not in origin_of(plain).settings
    assert origin_of(uneven).settings["weights"] == {"dog face": 2.4, "moon": 0.0, "red car": 0.6}


@pytest.mark.parametrize(
    ("family", "tokens"), [("sd1", "last"), ("sd1", "last+tail"), ("sd3", "last"), ("flux", "last")]
)
def test_uce_is_the_weighted_equation(family, tokens) -> None:
    """W' minimises sum w_i |W' c_i - W a_i|^2 + sum |W' p - W p|^2 + lam |W' - W|^2: its gradient is 0."""
    view, method = tiny.shared(family), UCE(tokens=tokens)
    edit = method.erase(view, REQUEST, MethodServices(weights=UNEVEN))
    weights = relative_weights(NAMES, UNEVEN)
    c, a, p = method._rows(view, REQUEST)
    counts = [len(method._rows(view, Request((n,), (m,)))[0]) for n, m in zip(NAMES, ANCHORS, strict=True)]
    w = torch.tensor([weights[n] for n, k in zip(NAMES, counts, strict=True) for _ in range(k)], dtype=c.dtype)
    gram = p.T @ p if isinstance(p, torch.Tensor) else p.gram
    name, old = next(iter(view.text_maps().items()))
    delta = edit.delta(name, old.detach())
    gap = ((old + delta) @ c.T - old @ a.T) * w
    assert torch.allclose(gap @ c + delta @ gram + 0.5 * delta, torch.zeros_like(old), atol=1e-9)


@pytest.mark.parametrize("name", ["uce", "speed"])
def test_a_target_of_weight_0_is_as_if_it_were_not_there(name) -> None:
    """Up to the scale, which weights are relative to."""
    view = tiny.view("sd1")
    solver = build_settings(methods[name].settings, QUICK.get(name, {}), name)
    one = solver.erase(view, REQUEST, MethodServices(weights={"red car": 0, "moon": 0, "dog face": 5}))
    heavy = {"erase_scale": 3.0} if name == "uce" else {}
    alone = build_settings(methods[name].settings, QUICK.get(name, {}) | heavy, name).erase(
        view, Request(NAMES[:1], ANCHORS[:1], REQUEST.retain)
    )
    for map_name, w in view.text_maps().items():
        if map_name in one.names:
            assert torch.allclose(one.delta(map_name, w), alone.delta(map_name, w), atol=1e-6)


def test_turns_follow_the_weights() -> None:
    plain = [text_in_turn(step, NAMES, 3) for step in range(30)]
    assert plain == [NAMES[number_in_turn(step, 3, 3)] for step in range(30)]
    weights = tuple(relative_weights(NAMES, UNEVEN).values())
    drawn = [text_in_turn(step, NAMES, 3, weights) for step in range(3000)]
    counts = [drawn.count(name) for name in NAMES]
    assert counts[2] == 0
    assert abs(counts[0] - 2400) < 40
    turns = [drawn[i : i + 3].count("dog face") for i in range(0, 3000, 3)]
    assert {*turns} == {2, 3}  # 2.4 of 3, rounded up or down


def test_a_concepts_weight_is_that_of_all_its_names() -> None:
    chosen = resolve_request(RequestSpec(("dog face", "ink")), "moji")
    weights = weights_of_targets(chosen, {"ink": 3})
    assert weights.keys() == {*chosen.request.targets}
    assert len(chosen.request.targets) > 4
    dog = {name for name, weight in weights.items() if weight == 0.5}
    assert dog == {*chosen.concepts[0].all_names}
    assert {weight for name, weight in weights.items() if name not in dog} == {1.5}
    with pytest.raises(RequestError, match="weigh what is erased"):
        weights_of_targets(chosen, {"cat face": 2})


def test_a_file_without_weights_is_the_same_to_the_byte(tmp_path) -> None:
    view, chosen = tiny.view("sd1"), resolve_request(RequestSpec(("dog face", "moon"), ("goat",)), "tiny")
    written = []
    for i, weights in enumerate((None, {}, {"dog face": 1, "moon": 1})):
        edit = make_edit(view, chosen, "uce", {}, MethodServices(weights=weights))
        edit.save(tmp_path / f"{i}.safetensors")
        written.append((tmp_path / f"{i}.safetensors").read_bytes())
    assert written[0] == written[1] == written[2]
    uneven = make_edit(view, chosen, "uce", {}, MethodServices(weights={"moon": 3}))
    assert origin_of(uneven).settings["weights"] == {"dog face": 0.5, "moon": 1.5}
