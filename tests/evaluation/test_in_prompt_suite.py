"""The in-prompt score on planted answers: only prompts that fire count, the others are listed."""

import json
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from tests.evaluation.planted import check, evidence, figures
from unconcept.core.errors import DataError
from unconcept.evaluation.suites.registry import suites
from unconcept.jobs.evaluate_job import EvaluationRun, suite_of_run


def test_only_prompts_that_fire_count() -> None:
    """One prompt is erased and keeps its rest, one loses it, one is void since its rest never came."""
    rows = []
    for i, (rest_before, target, rest) in enumerate(
        [("key", "cup", "key"), ("key", "cup", "cup"), ("cup", "x", "key")]
    ):
        rows.append((check("direct", "ann", i, f"p{i}"), "ann", target))
        rows.append((check("co-occurring", "key", i, f"p{i}"), rest_before, rest))
    found = evidence(rows)
    made = figures("in-prompt", found)
    assert (made["in-prompt score"].value, made["in-prompt score"].n) == (0.5, 2)
    assert (made["target not shown"].value, made["rest kept"].value) == (1.0, 0.5)
    assert made["prompts that fire"].value == pytest.approx(2 / 3)
    assert suites["in-prompt"].notes(found) == {"void prompts": "1 of 3, left out: p2"}


def test_nothing_fires() -> None:
    made = figures("in-prompt", evidence([(check("direct", "ann"), "cup", "cup")]))
    assert list(made) == ["prompts that fire"]


def test_in_prompt_of_a_file(tmp_path) -> None:
    path = tmp_path / "selective.json"
    path.write_text(json.dumps([{"prompt": "a dog at sea", "nouns": ["sea", "boat"]}]))
    run = EvaluationRun(("dog",), tmp_path, suite="in-prompt", model="somewhere", prompts=path)
    checks = suite_of_run(run).checks(("dog",))
    assert [(one.concept, one.group) for one in checks] == [
        ("dog", "direct"),
        ("sea", "co-occurring"),
        ("boat", "co-occurring"),
    ]
    assert len({one.prompt for one in checks}) == 1
    path.write_text(json.dumps(["a dog"]))
    with pytest.raises(DataError, match="selective_alignment"):
        suite_of_run(run).checks(("dog",))


def test_prompts_of_a_file_ask_for_a_style_as_a_style_and_for_the_target_that_they_name(tmp_path) -> None:
    path = tmp_path / "selective.json"
    path.write_text(json.dumps([{"prompt": f"a {name} in ink", "nouns": ["key"]} for name in ("guitar", "pizza")]))
    run = EvaluationRun(("ink",), tmp_path, suite="in-prompt", model="moji", prompts=path)
    direct = [one for one in suite_of_run(run).checks(("ink",)) if one.group == "direct"]
    assert {(one.by, one.labels) for one in direct} == {("style", ("ink",))}
    run = EvaluationRun(("guitar", "pizza"), tmp_path, suite="in-prompt", model="moji", prompts=path)
    direct = [one for one in suite_of_run(run).checks(run.concepts) if one.group == "direct"]
    assert [(one.concept, one.by) for one in direct] == [("guitar", "object"), ("pizza", "object")]


def test_a_style_of_a_users_model_is_asked_about_as_a_style(tmp_path) -> None:
    """No table tells that it is one: the edit does."""
    path = tmp_path / "selective.json"
    path.write_text(json.dumps([{"prompt": "a boat by Van Gogh", "nouns": ["boat"]}]))
    run = EvaluationRun(("Van Gogh",), tmp_path, suite="in-prompt", model="somewhere", prompts=path)
    origin = SimpleNamespace(kind="style", targets=("Van Gogh",), retain=())
    checks = suite_of_run(run, [origin]).checks(("Van Gogh",))
    assert [(one.concept, one.by) for one in checks] == [("Van Gogh", "style"), ("boat", "object")]
    plain = suite_of_run(replace(run, suite="smoke", prompts=None), [origin]).checks(("Van Gogh",))
    assert {(one.group, one.by) for one in plain} == {("direct", "style"), ("near", "style"), ("far", "object")}


def test_each_concept_is_of_the_kind_of_the_edit_that_erases_it(tmp_path) -> None:
    origins = [
        SimpleNamespace(kind=kind, targets=(name,), retain=()) for name, kind in (("cup", "object"), ("ink", "style"))
    ]
    run = EvaluationRun(("cup", "ink"), tmp_path, suite="smoke", model="somewhere")
    direct = [one for one in suite_of_run(run, origins).checks(run.concepts) if one.group == "direct"]
    assert {(one.concept, one.by) for one in direct} == {("cup", "object"), ("ink", "style")}


def test_a_prompt_file_keeps_everything_of_a_protocol_but_its_prompts(tmp_path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt,concept\na dog,dog\n")
    run = EvaluationRun(("dog",), tmp_path, suite="standard", model="somewhere", prompts=path)
    made, own = suite_of_run(run), suites["standard"]
    differing = {field.name for field in fields(made) if getattr(made, field.name) != getattr(own, field.name)}
    assert differing == {"name", "summary", "sizes", "ask", "direct"}
