"""A prompt file as a suite: what a row is about wins over what was asked, and what was counted otherwise is said."""

import unicodedata

import pytest

from tests import tiny
from unconcept.core.errors import DataError
from unconcept.core.text_identity import normalised_text
from unconcept.evaluation.suites.from_file import suite_from_file
from unconcept.evaluation.worlds import world_of
from unconcept.models.text.text_identity import TokenTextKey
from unconcept.prompts.cells import CONCEPT_COLUMNS

HEAD = "case_number,prompt,evaluation_seed"


def asked(tmp_path, text: str, *concepts: str, **more):
    path = tmp_path / "t.csv"
    path.write_text(text)
    suite = suite_from_file(path, concepts, None, **more)
    return [
        (check.prompt.text, check.group, check.concept, check.labels) for check in suite.checks(concepts)
    ], suite.note


@pytest.mark.parametrize("column", CONCEPT_COLUMNS)
def test_rows_about_others_are_near(tmp_path, column) -> None:
    text = f"{HEAD},{column}\n0,a red hat,1,Red  hat\n1,a blue shoe,2,blue shoe\n2,a cup,3,cup\n"
    found, note = asked(tmp_path, text, "red hat")
    assert found == [
        ("a red hat", "direct", "red hat", ("red hat",)),
        ("a blue shoe", "near", "blue shoe", ("blue shoe",)),
        ("a cup", "near", "cup", ("cup",)),
    ]
    assert note == "prompts of t.csv: about other concepts, counted as near: 2 (blue shoe, cup)"


FORMS = {
    "mace": (",type,prompt,sim,artist,evaluation_seed\n0,0,by Lund,1,Lund,1\n1,1,by Moe,1,Moe,1\n", ["direct", "near"]),
    "speed": ("type,concept,prompt\nerase,Lund,of Lund\nretain,Moe,of Moe\n", ["direct", "near"]),
    "speed, the other": ("type,concept,prompt\nerase,Moe,of Moe\nretain,Lund,of Lund\n", ["near", "direct"]),
    "hub-pinpoint": ("noun,similarity\nhat,0.9\n", ["near"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_name_their_own_concepts_can_be_evaluated(tmp_path, form) -> None:
    text, groups = FORMS[form]
    assert [row[1] for row in asked(tmp_path, text, "Lund")[0]] == groups


def test_of_a_style_all_that_the_file_asks_for_so_is_one_and_nouns_are_objects(tmp_path) -> None:
    def aspects(name: str, text: str) -> dict[str, str]:
        (tmp_path / name).write_text(text)
        checks = suite_from_file(tmp_path / name, ("Lund",), None, kind="style").checks(("Lund",))
        return {check.concept: check.by for check in checks}

    assert aspects("mace.csv", FORMS["mace"][0]) == {"Lund": "style", "Moe": "style"}
    assert aspects("noun.csv", FORMS["hub-pinpoint"][0]) == {"hat": "object"}
    selective = '[{"prompt": "a boat by Lund", "nouns": ["boat", "Lund"]}]'
    assert aspects("s.json", selective) == {"boat": "object", "Lund": "object"}, "as things beside it"


def test_a_name_is_one_however_it_is_spelled(tmp_path) -> None:
    """By the model's tokenizers, which may read capitals."""
    composed, decomposed = (unicodedata.normalize(form, "Zo\u00e9 Lund") for form in ("NFC", "NFD"))
    text = f"{HEAD},artist\n0,by her,1,{decomposed}\n1,by HER,1,{composed.upper()}\n"
    assert [row[1:3] for row in asked(tmp_path, text, composed)[0]] == [("direct", composed)] * 2
    by_capitals = asked(tmp_path, text, composed, key=normalised_text)[0]
    assert [row[1] for row in by_capitals] == ["direct", "near"]
    assert asked(tmp_path, text, composed, key=TokenTextKey.of(tiny.shared("flux")))[0] == by_capitals


def test_captions_about_nothing_and_empty_rows_are_counted(tmp_path) -> None:
    captions = "prompt,coco_id,evaluation_seed\na bicycle,1,2\n"
    with pytest.raises(DataError, match="every prompt is a caption about nothing in particular"):
        asked(tmp_path, captions, "red hat")
    mixed = "sensitive prompt,normal prompt\na red hat,a thing\n,\n"
    found, note = asked(tmp_path, mixed, "red hat")
    assert [row[:2] for row in found] == [("a red hat", "direct")]
    assert note == (
        "prompts of t.csv: captions about nothing in particular, left out: 1; rows without a prompt, passed over: 1"
    )


def test_a_longer_name_of_the_target_is_told(tmp_path) -> None:
    """Else all prompts of the target would count as near."""
    text = f"{HEAD},artist\n0,by him,1,Tom Lund\n"
    with pytest.raises(DataError, match="no prompt is about 'Lund', some are about 'Tom Lund': ask for that name"):
        asked(tmp_path, text, "Lund")
    assert asked(tmp_path, text, "Tom Lund")[0][0][1] == "direct"


def test_a_judge_of_a_table_is_asked_what_it_knows(tmp_path) -> None:
    """The rest is left out and counted; a name of the table may be spelled otherwise."""
    text = f"{HEAD},class\n0,a dog,1,Dog Face\n1,a cow,2,cow  FACE\n2,a tench,3,tench\n3,a chain saw,4,chain saw\n"
    path = tmp_path / "t.csv"
    path.write_text(text)
    world = world_of("moji")
    suite = world.suite_from_file(path, ("dog face",))
    assert [(check.group, check.concept) for check in suite.checks(("dog face",))] == [
        ("direct", "dog face"),
        ("near", "cow face"),
    ]
    assert suite.note == (
        "prompts of t.csv: about other concepts, counted as near: 1 (cow face); about concepts that the judge does not"
        " know, left out: 2 (tench, chain saw)"
    )
    assert len(world.suite_from_file(path, ("dog face",), own_judge=False).checks(("dog face",))) == 4
    path.write_text(f"{HEAD},class\n0,a tench,1,tench\n")
    with pytest.raises(DataError, match=r"the judge knows nothing that its prompts are about \(tench\): name another"):
        world.suite_from_file(path, ("dog face",))


def test_what_all_is_about_the_target_needs_no_note(tmp_path) -> None:
    assert asked(tmp_path, f"{HEAD}\n0,a red hat,1\n", "red hat")[1] == ""
