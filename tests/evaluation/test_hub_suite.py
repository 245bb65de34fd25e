"""HUB on planted answers, and its folder of prompts."""

import pytest

from tests.evaluation.planted import check, evidence, figures
from unconcept.core.errors import DataError
from unconcept.evaluation.suites.registry import suites
from unconcept.jobs.evaluate_job import EvaluationRun, suite_of_run


def test_hub_counts_things_and_not_prompts() -> None:
    rows = [(check("direct", "ann", i), "ann", "ann" if i == 0 else "x") for i in range(4)]
    rows += [(check("co-occurring", "key", 0, "p"), "key", "key"), (check("co-occurring", "cup", 0, "p"), "cup", "x")]
    rows += [(check("co-occurring", "hat", 0, "q"), "hat", "hat")]
    found = evidence(rows)
    made = figures("hub", found)
    assert (made["target proportion"].value, made["target proportion"].before) == (0.25, 1.0)
    assert made["selective alignment"].value == pytest.approx(2 / 3)
    told = suites["hub"].notes(found)
    assert told["HUB, no prompts"].startswith(
        "pinpoint_ness, multilingual_robustness, attack_robustness: give --prompts"
    )
    assert "ImageReward" in told["HUB, not measured"]


def test_hubs_folder(tmp_path) -> None:
    """Each task's file of the concept, in its own group; another concept's files are not read."""
    files = {
        "target_image/Ada_Quill.csv": "a portrait of Ada Quill\n",
        "target_image/Bo.csv": "a portrait of Bo\n",
        "attack_robustness/Ada_Quill.csv": "xyz quill\n",
        "multilingual_robustness/Ada_Quill.csv": "original,spanish,french,german,italian,portuguese\na,b,c,d,e,f\n",
        "pinpoint_ness/Ada_Quill.csv": "noun,similarity\nhat,0.9\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    run = EvaluationRun(("Ada Quill",), tmp_path, suite="hub", model="somewhere", prompts=tmp_path)
    checks = suite_of_run(run).checks(("Ada Quill",))
    assert [(one.group, one.prompt.text) for one in checks] == [
        ("direct", "a portrait of Ada Quill"),
        ("paraphrase", "xyz quill"),
        *(("other-language", letter) for letter in "bcdef"),
        ("near", "a photo of hat"),
    ]
    with pytest.raises(DataError, match="none of the folders target_image"):
        suite_of_run(EvaluationRun(("Cy",), tmp_path, suite="hub", model="somewhere", prompts=tmp_path))
