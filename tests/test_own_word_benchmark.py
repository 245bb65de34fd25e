"""The benchmark of the model's own word: what it may choose on, what it reports on, and how it replays errors."""

from benchmarks import own_word, own_word_tuning
from unconcept.scorers.diffusion_classifier import ClassifierSettings


def test_a_concept_has_as_many_pictures_as_are_asked() -> None:
    for name in ("guitar", "twemoji"):
        checks = own_word.chosen_checks(name, 25, tuning=True)
        assert (len(checks), len({*checks})) == (25, 25)
        assert {check.group for check in checks} >= {"direct", "synonym", "far", "style"}


def kept(errors: dict[tuple[str, str], list[float]]) -> dict[str, object]:
    answer = {"side": "before", "group": "far", "agree": False, "is_other": True, "is_target": False, "seconds": 0.0}
    rows = [[*name, line] for name, line in errors.items()]
    return {"asked": ["cat"], "errors": rows, "wanted": ["cat"], "theirs": "cat", "target": "dog", "answer": answer}


def test_a_setting_reads_its_own_part_of_the_recorded_grid() -> None:
    """The cat's errors are low in the middle alone, the dog's at both ends; the general texts are between them."""
    middle = [0.1 if 3 <= place < 12 else 0.9 for place in range(15)]
    record = kept(
        {
            ("label", "cat"): [value + 0.001 * i for i, value in enumerate(middle)],
            ("label", "dog"): [1 - value for value in middle],
            ("general", "general"): [0.5] * 15,
            ("general", "empty"): [0.6] * 15,
        }
    )
    narrow = own_word_tuning.Arm(ClassifierSettings(draws=(9,)), 3)
    assert own_word_tuning.replayed(record, narrow).agree
    nothing = own_word_tuning.Arm(ClassifierSettings(draws=(9,), threshold=1e5), 3)
    assert not own_word_tuning.replayed(record, nothing).agree


def test_the_shipped_settings_are_among_those_that_were_tried() -> None:
    assert ClassifierSettings() in [arm.settings for arm in own_word_tuning.arms()]
