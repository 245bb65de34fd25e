"""A power law is a straight line of its exponent's slope, and the picture says its numbers."""

import re
from xml.etree import ElementTree

import pytest

from unconcept.metrics.asr import BudgetPoint
from unconcept.report.svg import growth_svg, share_curves_svg, success_curve_svg


def test_a_power_law_is_a_straight_line() -> None:
    drawn = growth_svg(
        {"square": [(x, x**2) for x in (1, 10, 100)], "flat": [(1, 5.0), (100, 5.0)]}, "concepts", "seconds"
    )
    root = ElementTree.fromstring(drawn)
    assert "square 1: 1, 10: 100, 100: 1e+04; flat 1: 5, 100: 5" in root.attrib["aria-label"]
    square, flat = (
        [tuple(map(float, place.split(","))) for place in line]
        for line in (points.split() for points in re.findall(r'polyline points="([^"]+)"', drawn))
    )
    (x0, y0), (x1, y1), (x2, y2) = square
    assert (x1 - x0, y1 - y0) == pytest.approx((x2 - x1, y2 - y1), abs=0.2)
    assert flat[0][1] == flat[1][1]
    assert [text.text for text in root.iter() if text.tag.endswith("text")].count("10,000") == 1


def test_one_value_has_an_axis_too() -> None:
    assert "<polyline" in growth_svg({"a": [(3.0, 0.2)]}, "x", "y")


def test_a_budget_curve_says_what_each_step_took() -> None:
    said = ElementTree.fromstring(
        success_curve_svg([BudgetPoint(0, 1.0, 0.25, 0.1), BudgetPoint(20, 2.0, None, 0.5)], 1.0)
    ).attrib["aria-label"]
    assert said == "success by steps: 0 (0.2 s a prompt): 10%, 20: 50%"


def test_courses_stand_on_linear_axes_with_their_names_below() -> None:
    drawn = share_curves_svg(
        {"plain": [(1, 1.0), (3, 0.5), (12, 0.0)], "a < b": [(1, 0.9), (12, 0.8)], "c": [(1, 0.2)]}, "requests", "RA-I"
    )
    root = ElementTree.fromstring(drawn)
    assert "plain 1: 100%, 3: 50%, 12: 0%; a < b 1: 90%, 12: 80%" in root.attrib["aria-label"]
    places = [
        tuple(map(float, place.split(","))) for place in re.findall(r'polyline points="([^"]+)"', drawn)[0].split()
    ]
    assert (places[1][0] - places[0][0]) / (places[2][0] - places[0][0]) == pytest.approx(2 / 11, abs=0.01)
    assert places[1][1] == pytest.approx((places[0][1] + places[2][1]) / 2, abs=0.1)
    names = [text for text in root.iter() if text.tag.endswith("text") and text.text in ("plain", "a < b", "c")]
    assert all(float(text.attrib["y"]) <= float(root.attrib["height"]) for text in names)
    assert len(names) == 3
