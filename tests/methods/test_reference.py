"""`reference`: what negative guidance is taken about, in every method that has the setting."""

import sys
from dataclasses import fields

import pytest

from tests import tiny
from tests.methods.quick import QUICK
from unconcept.core import Request
from unconcept.core.errors import RequestError
from unconcept.methods import methods

HAVING = [name for name in methods if "reference" in {field.name for field in fields(methods[name].settings)}]
REQUEST = Request(("ink wolf",), ("flat wolf",), ("cat",), "style")


def goals_of(name, monkeypatch, request=REQUEST, **settings):
    """The weights of every goal of a training, and its edit."""
    module, found = sys.modules[methods[name].settings.__module__], []
    plain = module.goal_predictions

    def recorded(model, texts, x_t, t, goals):
        found.extend(dict(goal.weights) for each in goals for goal in each)
        return plain(model, texts, x_t, t, goals)

    method = methods[name].settings(**QUICK.get(name, {}), negative_guidance=2.0, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(module, "goal_predictions", recorded)
        families = methods[name].families
        return found, method.erase(tiny.view("sd1" if "sd1" in families else families[0]), request)


def test_those_whose_goal_is_negative_guidance_have_it() -> None:
    assert sorted(HAVING) == ["ace", "advunlearn", "ant", "eraseanything", "esd", "kscu", "receler"]


@pytest.mark.parametrize("name", HAVING)
def test_guidance_is_taken_about_the_empty_text_or_the_anchor(name, monkeypatch) -> None:
    usual, edit = goals_of(name, monkeypatch, reference="empty")
    assert {"": 3.0, "ink wolf": -2.0} in usual
    assert not any("flat wolf" in goal for goal in usual)
    about, other = goals_of(name, monkeypatch, reference="anchor")
    assert {"flat wolf": 3.0, "ink wolf": -2.0} in about
    assert {"": 3.0, "ink wolf": -2.0} not in about
    assert edit.hash != other.hash


@pytest.mark.parametrize("name", HAVING)
def test_about_an_empty_anchor_it_is_the_authors(name, monkeypatch) -> None:
    request = Request(("ink wolf",), ("",), ("cat",))
    same = [goals_of(name, monkeypatch, request, reference=reference) for reference in ("empty", "anchor")]
    assert same[0][0] == same[1][0]
    assert same[0][1].hash == same[1][1].hash


@pytest.mark.parametrize("name", HAVING)
def test_without_anchors_the_empty_text_is_left(name, monkeypatch) -> None:
    with pytest.raises(RequestError, match=f"{name}: reference anchor, but the request has no anchors"):
        goals_of(name, monkeypatch, Request(("ink wolf",), (), ("cat",)), reference="anchor")
