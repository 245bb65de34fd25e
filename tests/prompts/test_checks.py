"""The checks of the embedded model: each knows the words by which its prompt names the concept."""

import pytest

from unconcept.prompts.checks import GroupSizes, moji_checks
from unconcept.worlds.table import concept_table


@pytest.mark.parametrize("name", ["guitar", "twemoji"])
@pytest.mark.parametrize("tuning", [True, False])
def test_a_prompt_holds_the_words_that_stand_for_its_concept(name, tuning) -> None:
    checks = moji_checks(concept_table(), (name,), GroupSizes(12, 12, tuning=tuning))
    assert all((check.wording or check.concept) in check.prompt.text for check in checks)
    reworded = {check.group for check in checks if check.wording}
    assert "synonym" in reworded
    assert reworded <= {"synonym", "indirect"}
