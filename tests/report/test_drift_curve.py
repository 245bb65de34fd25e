"""The ledger's curve: one line where nothing is retained, two where something is."""

from xml.etree import ElementTree

import pytest

from unconcept.report.svg import drift_curve_svg


@pytest.mark.parametrize(("worst", "lines"), [([], 1), ([0.1, 0.2, None], 2)])
def test_a_line_for_each_course_that_is_known(worst, lines) -> None:
    drawn = ElementTree.fromstring(drift_curve_svg([0.0, 0.1, 0.1], worst, ["+ dog", "+ <cat>", "- dog"], "as said"))
    assert sum(element.tag == "polyline" for element in drawn) == lines
    assert drawn.attrib["aria-label"] == "as said"
    assert [element.text for element in drawn if element.tag == "text"][3:] == ["+ dog", "+ <cat>", "- dog"]


def test_nothing_is_drawn_of_nothing() -> None:
    assert drift_curve_svg([None], [], ["+ dog"], "") == ""
