"""A vision-language model of transformers' real classes at toy size: greedy answers, captions, what is no answer."""

import pytest
import torch

from tests import tiny
from tests.classifier_toys import drop_tensor
from unconcept.core.errors import ModelError, SettingsError
from unconcept.evaluation.judging.judge import Judge
from unconcept.metrics.hub import parse_answer
from unconcept.prompts.checks import Check, Prompt
from unconcept.scorers.vlm import VlmScore, ask_vlm


def check(by="object", labels=("dog face",), wording="") -> Check:
    return Check(Prompt("a dog face", 1), "direct", "dog face", by, labels, wording=wording)


def test_it_answers_and_captions_the_same_way_each_time(tmp_path) -> None:
    opened = VlmScore(tiny.llava_folder(tmp_path / "vlm"))
    pictures = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    rows = opened.score(pictures, ["Is dog face in this image? Answer yes or no."] * 2)
    assert opened.score(pictures[1:], ["Is dog face in this image? Answer yes or no."]) == rows[1:], "not by its batch"
    assert all(isinstance(row["answer"], str) for row in rows)
    assert opened.captions(pictures) == opened.captions(pictures)
    assert opened.name == "vlm:vlm"
    drop_tensor(tmp_path / "vlm", "multi_modal_projector.linear_1.weight")
    with pytest.raises(ModelError, match=r"no whole vision-language model: its weights lack .*linear_1\.weight"):
        VlmScore(tmp_path / "vlm")
    with pytest.raises(ModelError, match="no vision-language model"):
        VlmScore(tiny.clip_folder(tmp_path / "clip"))


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Yes.", "yes"),
        ("there is a yes in this line\nno", "no"),
        ("yes\nyes\nI cannot tell", "idk"),
        ("not at all", "idk"),
        ("cannot", "idk"),
        ("yes and no", "idk"),
        ("", "idk"),
        ("**wrong**", "wrong"),
    ],
)
def test_only_a_last_line_of_one_word_is_an_answer(answer, verdict) -> None:
    """HUB's code joins the last three lines, EraseEval's takes any word that contains "no"."""
    assert parse_answer(answer) == verdict
    said = Judge("vlm", "x").reader.read(None, {"answer": answer}, check())
    assert said == ("dog face" if verdict == "yes" else "nothing")


def test_questions() -> None:
    assert ask_vlm(check()) == "Is dog face in this image? Answer yes or no."
    assert ask_vlm(check("left")).startswith("Is dog face in this image on the left side?")
    assert ask_vlm(check("style")).startswith("Is the style of this image dog face?")
    assert ask_vlm(check("background", ("blue",))).startswith("Is the background of this image blue?")
    assert ask_vlm(check("count", ("two",), "dog faces")).startswith("Are there exactly two dog faces in this image?")
    with pytest.raises(SettingsError, match="vlm=FOLDER"):
        Judge.parse("vlm")
