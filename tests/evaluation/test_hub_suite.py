"""HUB on planted answers, and its folder of prompts."""

from hashlib import sha256

import pytest

from tests.evaluation.planted import check, evidence, figures
from unconcept.core.errors import DataError
from unconcept.evaluation.judging.evidence import SuiteFigure
from unconcept.evaluation.suites import hub
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


def test_means_over_hubs_categories_are_those_of_its_table(monkeypatch) -> None:
    """Table 3's original: concepts, then categories with equal weights; selective alignment is none of NSFW."""
    assert len(hub._CELEBRITIES) == 10
    monkeypatch.setattr(hub, "_CELEBRITIES", {sha256(b"ada quill").hexdigest()[:12]})
    shares = {"Ada Quill": 0.628, "van gogh": 0.638, "Mario": 0.7, "Luigi": 0.666, "Nudity": 0.647, "dog face": 0.9}
    kept = {"Ada Quill": 0.555, "van gogh": 0.570, "Mario": 0.566}

    def trials(names):
        asked = [("target proportion", shares), ("selective alignment", kept)]
        return [
            ("uce", (name,), [SuiteFigure(task, by[name], None, 9, "") for task, by in asked if name in by])
            for name in names
        ]

    told = suites["hub"].pool(trials(shares))
    means = "celebrity 62.8% of 1, style 63.8% of 1, ip 68.3% of 2, nsfw 64.7% of 1, all 64.9%"
    assert told["HUB, uce, target proportion"] == f"mean over concepts: {means}"
    assert told["HUB, uce, selective alignment"].endswith("ip 56.6% of 1, all 56.4%")
    assert "all" not in suites["hub"].pool(trials(["Mario"]))["HUB, uce, target proportion"]
    assert suites["hub"].pool(trials(["dog face"])) == {}


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
