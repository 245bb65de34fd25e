"""EraseEval's suite: by hand on planted pictures, captions and answers; defects of the released code are not here."""

import json

import pytest
import torch

from unconcept.core.errors import DataError, SettingsError
from unconcept.evaluation.judging.evidence import TrialEvidence
from unconcept.evaluation.judging.judge import ImageMeasures, Judge, image_measures
from unconcept.evaluation.judging.rates import PairedAnswer
from unconcept.evaluation.suites import erase_eval
from unconcept.evaluation.suites.registry import suites
from unconcept.jobs.evaluate_job import EvaluationRun, suite_of_run
from unconcept.prompts.checks import Check, Prompt

SUITE, JUDGE = suites["erase-eval"], Judge("moji-judge")
CAPTIONS = {0: "a dog face in ink style", 1: "a key in ink style"}


class Towers:
    """Embeds a picture by its red and green, a text by whether it names a dog."""

    def embed_images(self, pictures):
        return torch.nn.functional.normalize(pictures[:, :2].mean((2, 3)), dim=1)

    def embed_texts(self, texts):
        return torch.tensor([[0.6, 0.8] if "dog" in text else [1.0, 0.0] for text in texts])


class Networks:
    name, version, hash, clip = "planted", 1, "0", Towers()

    def __init__(self) -> None:
        self.calls = 0

    def captions(self, pictures):
        self.calls += 1
        return [CAPTIONS[int(picture[2].mean() > 0.5)] for picture in pictures]

    def score(self, pictures, asked):
        return [{"asked": float(picture[0].mean())} for picture in pictures]


def picture(red: float, green: float, key: bool) -> torch.Tensor:
    return torch.tensor([red, green, float(key)]).view(3, 1, 1).expand(3, 4, 4)


@pytest.fixture
def networks(monkeypatch) -> Networks:
    made = Networks()
    monkeypatch.setattr(erase_eval, "image_measures", lambda judge: ImageMeasures(clip=made, captions=made))
    return made


def evidence(after, hits, unrelated=1.0) -> TrialEvidence:
    """Two pictures of each prompt: before both show the dog; after as given. Four captions, the last two references."""
    answers, pictures = [], {}
    for group in ("direct", "indirect"):
        for i in range(2):
            check = Check(Prompt(group, i), group, "dog face", "object", ("dog face",))
            answers.append(PairedAnswer(check, "dog face", "dog face" if hits[i] else "key"))
            pictures[check.prompt] = picture(1.0, 0.0, False), after[i]
    drawn = tuple(Prompt(text, seed) for seed in (0, 1) for text in ("a cup", "a hat"))
    for i, prompt in enumerate(drawn):
        pictures[prompt] = picture(0.5, 0.1 * i, True), picture(0.5 * unrelated, 0.1 * i, True)
    return TrialEvidence(("dog face",), tuple(answers), lambda: pictures, JUDGE, drawn=drawn)


def figures(found) -> dict:
    return {figure.name.partition(",")[0]: figure for figure in SUITE.figures(found)}


def test_scores_by_hand(networks) -> None:
    """One edited picture shows a key, the other still the dog: half of the pairs count, by 0.6 and by 0.8."""
    made = figures(evidence([picture(0.8, 0.6, True), picture(1.0, 0.0, False)], (False, True)))
    assert made["M1"].value == pytest.approx(0.6 / 2)
    assert made["M2"].value == pytest.approx(0.8 / 2)
    assert made["M1"].before == made["M2"].before == 0, "before the edit every picture shows the target"
    assert (made["M3"].value, made["M4"].value) == (1, 1), "unrelated pictures are as they were"
    assert made["EraseEval form"].value == pytest.approx(4 / (1 / 0.3 + 1 / 0.4 + 2))
    assert made["product of M1 to M4"].value == pytest.approx(0.12)
    assert made["least of M1 to M4"].value == pytest.approx(0.3)
    assert [figure.name for figure in SUITE.figures(evidence([picture(1, 0, True)] * 2, (False, False)))][-3] == (
        "EraseEval form, moji-judge"
    )
    low, high = made["M1"].interval
    assert low == 0
    assert high == pytest.approx(0.6)


def test_unrelated_captions_that_lose_agreement(networks) -> None:
    made = figures(evidence([picture(1, 0, True)] * 2, (False, False), unrelated=0.8))
    assert made["M3"].value == pytest.approx(0.8)
    assert figures(evidence([picture(1, 0, True)] * 2, (False, False), unrelated=3.0))["M4"].value < 1


def test_a_target_counts_as_there_by_judge_and_caption(networks) -> None:
    """The caption says key: the judge alone does not zero M1, but it does zero M2, which has no captions."""
    made = figures(evidence([picture(1.0, 0.0, True)] * 2, (True, True)))
    assert (made["M1"].value, made["M2"].value) == (pytest.approx(0.6), 0)


@pytest.mark.parametrize("caption", ["A Dog Face on a mat", "a dog-face", "one dog_face."])
def test_names_of_several_words_are_found_in_captions(caption) -> None:
    """The release looks for "dog-face" with its capitals alone, and so finds hardly any."""
    check = Check(Prompt("x", 0), "direct", "dog face", "object", ("dog face",))
    assert erase_eval.names_concept(caption, check)
    assert not erase_eval.names_concept("a hotdog facet", check)


def test_each_picture_is_captioned_once_for_figures_and_notes(networks) -> None:
    """The release asks its judge about a picture once for each pair."""
    found = evidence([picture(1, 0, True)] * 2, (False, False))
    SUITE.figures(found)
    SUITE.notes(found)
    assert networks.calls == 2, "those before and those after"


def test_what_is_missing_is_said_with_its_remedy(monkeypatch) -> None:
    found = evidence([picture(1, 0, True)] * 2, (False, False))
    monkeypatch.setattr(erase_eval, "image_measures", lambda judge: ImageMeasures())
    assert SUITE.figures(found) == []
    told = SUITE.notes(found)
    assert "--references FOLDER" in told["EraseEval M4"]
    assert "vlm=FOLDER" in told["EraseEval M1"]


def test_weak_prompts_and_stand_ins_are_named(networks) -> None:
    found = evidence([picture(1, 0, True)] * 2, (False, False))
    told = SUITE.notes(found)
    assert "not photographs" in told["EraseEval"]
    assert "EraseEval prompts" not in told
    answers = tuple(PairedAnswer(a.check, "key", a.after) for a in found.answers)
    weak = TrialEvidence(found.concepts, answers, found.pictures, JUDGE, drawn=found.drawn)
    assert SUITE.notes(weak)["EraseEval prompts"].endswith("direct; indirect")


def test_a_cache_of_prompts_serves_every_model(tmp_path) -> None:
    """One file, {concept: {explicit, implicit}}: five pictures of each, and the packaged captions beside them."""
    path = tmp_path / "cache.json"
    path.write_text(json.dumps({"dog": {"explicit": "a dog reads", "implicit": "it barks"}, "cat": {"explicit": "x"}}))
    suite = suite_of_run(EvaluationRun(("dog",), tmp_path, suite="erase-eval", model="somewhere", prompts=path))
    checks = suite.checks(("dog",))
    assert [(check.prompt.text, check.group) for check in checks[::5]] == [
        ("a dog reads", "direct"),
        ("it barks", "indirect"),
    ]
    assert len({check.prompt.seed for check in checks}) == len(checks) == 10
    assert len(suite.drawn(("dog",))) == 100
    assert len(suite.prompts(("dog",))) == 110
    path.write_text(json.dumps({"dog": {"explicit": "a dog reads"}}))
    suite = suite_of_run(EvaluationRun(("dog",), tmp_path, suite="erase-eval", model="somewhere", prompts=path))
    with pytest.raises(DataError, match="explicit, implicit"):
        suite.checks(("dog",))


def test_scorers_beside_the_judge() -> None:
    with pytest.raises(SettingsError, match="--measure nudenet: it measures nothing"):
        JUDGE.with_measures(["nudenet"])
    with pytest.raises(SettingsError, match="give clip-score=FOLDER"):
        JUDGE.with_measures(["clip-score"])
    named = image_measures(Judge("moji-judge").with_measures(["moji-judge-features"]))
    assert named.pair.name == "moji-judge-features"
