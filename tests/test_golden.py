"""What the golden values hold: a value that changed, a test that vanished and a count that grew are named."""

from benchmarks.golden import compare_marks, compare_tests, compare_values
from benchmarks.golden_marks import count_marks


def test_a_changed_and_a_missing_value_are_named() -> None:
    known = {"esd sd1": "a", "uce sd1": "b", "spm sd1": "c"}
    compared = compare_values(known, {"esd sd1": "a", "uce sd1": "x", "rece sd1": "d"})
    assert compared.differences == ("uce sd1: x, was b", "spm sd1: gone")
    assert compared.new == ("rece sd1",)


def test_a_test_may_move_but_not_vanish() -> None:
    """As many of a name as there were: two files may hold tests of one name."""
    before = ["tests/a.py::test_one[x-a/b.py::c]", "tests/a.py::test_two", "tests/b.py::test_two"]
    moved = compare_tests(
        before,
        [
            "tests/c/d.py::test_one[x-a/b.py::c]",
            "tests/b.py::test_two",
            "tests/e.py::test_two",
            "tests/e.py::test_three",
        ],
    )
    assert moved.differences == ()
    assert moved.new == ("tests/e.py::test_three",)
    assert len(compare_tests(before, ["tests/b.py::test_two", "tests/b.py::test_one[x-a/b.py::c]"]).differences) == 1
    assert compare_tests(before, before[1:]).differences == ("tests/a.py::test_one[x-a/b.py::c]",)


def test_only_a_count_that_grows_is_a_difference() -> None:
    known = {"src Any": 3, "src noqa": 2, "tests slow": 1}
    compared = compare_marks(known, {"src Any": 4, "src noqa": 1, "tests slow": 1, "tests Any": 5})
    assert compared.differences == ("src Any: 4, was 3",)
    assert compared.new == ("tests Any",)


def test_marks_are_those_of_code_not_of_texts() -> None:
    # The comment is put together here, or this file's own would count.
    source = 'x: Any = "Any # noqa"  # no' + "qa: F821\n@pytest.mark.slow\ndef slow(): ...\n" + "y" * 121 + "\n"
    found = count_marks([source, "z: list[Any] = f()  # type: " + "ignore\n"])
    assert found == {"Any": 2, "noqa": 1, "type: ignore": 1, "slow": 1, "longest line": 121, "lines over 120": 1}
