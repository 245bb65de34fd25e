"""A world is a plug-in: what depends on the model is asked of it, and no file tests for a model by name."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unconcept
from unconcept.core.concept import Concept
from unconcept.core.errors import RequestError, SettingsError, UnknownName
from unconcept.core.request import RequestSpec
from unconcept.evaluation.judging.judge import Judge, answer_readers, image_measures, open_scorer
from unconcept.evaluation.judging.rates import judge_labels
from unconcept.evaluation.suites.registry import suites
from unconcept.evaluation.worlds import MojiWorld, UserWorld, recipe_settings, world_of
from unconcept.models import find_model
from unconcept.prompts.checks import Check, GroupSizes, seeded_prompt
from unconcept.scorers import AnswerReader, scorer, scorers
from unconcept.worlds.registry import DEFAULT_MODEL, embedded_world, worlds

SOURCE = Path(unconcept.__file__).parent
NAMED = {"worlds", "scorers", "recipes"}  # folders in which a model, its judge and its recipes have their names
DOG = Concept("dog face", "object")


def literals(path: Path) -> Iterator[ast.Constant]:
    """Texts in the code, but for docstrings and the default of `--model`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    if path.parent.name == "cli":
        passed |= {
            id(default) for node in ast.walk(tree) if isinstance(node, ast.arguments) for default in node.defaults
        }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
            yield node


def test_no_file_tests_for_a_model_by_name() -> None:
    """Neither by its name nor by those of its judge and its recipes."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        if not NAMED & set(path.relative_to(SOURCE).parts):
            named = [node for node in literals(path) if node.value == "moji" or node.value.startswith("moji-")]
            found += [f"{path.relative_to(SOURCE)}:{node.lineno} {node.value!r}" for node in named]
    assert found == []


def test_an_embedded_model_has_a_world_of_its_own() -> None:
    world = world_of(DEFAULT_MODEL)
    assert isinstance(world, MojiWorld)
    assert (world.title, world.judge) == ("moji, the embedded model", Judge("moji-judge"))
    assert world.recipe("uce") == "moji-uce"
    assert world.recipe("no-method") is None
    assert recipe_settings(world, "uce")
    assert (world.draw_spec(None, "esd100").steps, world.draw_spec("esd100").steps) == (20, 100)
    assert world.draw_spec(None).guidance_scale == 4.0
    assert world.suite(suites["debias"], [DOG], (), []) is suites["debias"]
    assert world.bare_request(RequestSpec(("dog face",))).request.anchors == ("",)
    with pytest.raises(UnknownName, match="did you mean 'dog face'"):
        world.require_concepts(["dog fce"])


def test_a_users_model_knows_what_was_typed() -> None:
    world = world_of("somewhere/model")
    assert isinstance(world, UserWorld)
    assert (world.title, world.judge, world.recipe("uce")) == (None, None, None)
    assert recipe_settings(world, "uce") == {}
    assert (world.draw_spec(None).guidance_scale, world.draw_spec(None, "esd100").steps) == (7.5, 100)
    world.require_concepts(["anything"])
    assert world.request(RequestSpec(("anything",))).request.targets == ("anything",)
    assert world.attacker_knowledge(DOG, ("cat", "")).unrelated == ("cat",)
    asked = world.suite(suites["quick"], [DOG], ("cat",), [])
    checks = asked.checks(("dog face",))
    assert {check.concept for check in checks if check.group != "near"} == {"dog face", "cat"}
    assert "bicycle" in {check.concept for check in checks if check.group == "near"}, "others of its kind"
    assert (asked.attacks, asked.figures) == (suites["quick"].attacks, suites["quick"].figures)
    assert world.erasure_suite([DOG], (), GroupSizes(2, 2)).sizes == GroupSizes(2, 2)
    assert len(world.suite(suites["unlearncanvas"], [], (), []).checks(("Dogs",))) > 1000
    with pytest.raises(RequestError, match="give their file with --prompts"):
        world.suite(suites["i2p"], [DOG], (), [])


def test_another_embedded_model_is_data(monkeypatch) -> None:
    """Registered, it is found, drawn, judged and given its own recipes; nothing else is told of it."""
    data = embedded_world("moji")
    assert data is not None
    other = replace(data, name="moji-turbo", recipes="moji-turbo-", steps=2, guidance_scale=1.0)
    monkeypatch.setitem(worlds._known, "moji-turbo", other)
    world = world_of("moji-turbo")
    assert find_model("moji-turbo") == other.shipped_folder != find_model("moji")
    assert (world.title, world.judge) == ("moji-turbo, the embedded model", Judge("moji-judge"))
    assert (world.recipe("uce"), world.draw_spec(None).steps, world.draw_spec(None).guidance_scale) == (None, 2, 1.0)
    assert world.request(RequestSpec(("dog face",))) == world_of("moji").request(RequestSpec(("dog face",)))


class Brightness:
    """Whether a picture is light or dark."""

    name, version, hash = "brightness", 1, "0" * 16

    def score(self, pictures: torch.Tensor, asked: list[str]) -> list[dict[str, float]]:
        return [{"mean": float(picture.mean())} for picture in pictures]


def test_a_scorer_with_a_reader_is_a_judge(monkeypatch) -> None:
    monkeypatch.setattr(scorers, "_known", {**scorers._known})
    reader = AnswerReader(lambda opened, raw, check: "light" if raw["mean"] > 0.5 else "dark", policy="mean over 0.5")
    scorer("brightness", reads="picture", reader=reader)(Brightness)
    judge = Judge.parse("brightness")
    assert (judge.key, judge.policy, judge.knows_table) == (f"brightness@1:{'0' * 16}", "mean over 0.5", False)
    assert judge.with_labels(["light"]) == judge
    prompts = seeded_prompt("the sun", 0), seeded_prompt("a cellar", 0)
    checks = [Check(prompt, "direct", prompt.text, "object", ("light",)) for prompt in prompts]
    pictures = {prompts[0]: torch.ones(3, 8, 8), prompts[1]: torch.zeros(3, 8, 8)}
    assert judge_labels(judge, checks, pictures) == ["light", "dark"]
    assert image_measures(judge).used(["distance@x, far"]) == []
    open_scorer.cache_clear()


def test_a_scorer_without_a_reader_is_none() -> None:
    texts = {"clip-score", "classifier", "diffusion-classifier", "diffusion-probe", "face-recogniser", "vlm"}
    assert set(answer_readers()) == texts | {"moji-judge", "nudenet"}
    with pytest.raises(UnknownName, match=r"no judge 'lpips'.*diffusion-classifier, diffusion-probe, .*vlm"):
        Judge.parse("lpips")
    with pytest.raises(SettingsError, match="judge clip-score: give its folder, clip-score=FOLDER"):
        Judge.parse("clip-score")
