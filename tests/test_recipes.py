"""Every packaged recipe is for something that exists, with settings it takes; some differ by the kind of concept."""

import re

import pytest

from unconcept.attacks import attacks
from unconcept.core.errors import UnconceptError
from unconcept.core.recipe import load_recipe, recipes
from unconcept.core.request import Request, RequestSpec
from unconcept.core.settings import build_settings
from unconcept.erasing.request_defaults import resolve_request
from unconcept.evaluation.tasks.edit_task import EditTask, Variant
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.jobs.command_options import EraseOptions, ExplainOptions
from unconcept.jobs.explain import explain
from unconcept.jobs.resolve import plan_job
from unconcept.methods import methods
from unconcept.prompts.templates import refuse_named_targets
from unconcept.protection import protections
from unconcept.worlds.table import concept_table


@pytest.mark.parametrize("name", list(recipes()))
def test_settings_fit(name) -> None:
    recipe = load_recipe(name)
    kind, _, owner = recipe.owner.partition(" ")
    info = {"method": methods, "attack": attacks, "protection": protections}[kind][owner]
    assert name.endswith(info.name) or name.startswith(f"{info.name}-")
    assert recipe.family in info.families
    for kind in (None, *recipe.kinds):
        assert build_settings(info.settings, recipe.settings_for(kind)) is not None


KIND_WORDS = {
    "style": "style",
    "nudity": "explicit",
    "explicit": "explicit",
    "sexual": "explicit",
    "celebrity": "person",
    "celebrities": "person",
    "character": "character",
}


@pytest.mark.parametrize("name", [name for name in recipes() if KIND_WORDS.keys() & {*name.split("-")}])
def test_a_recipe_for_a_kind_of_concepts_asks_for_that_kind(name) -> None:
    """What methods and pictures do by kind, such as Concept Ablation's negative prompts, must not wait for a flag."""
    (wanted,) = {KIND_WORDS[word] for word in name.split("-") if word in KIND_WORDS}
    assert load_recipe(name).asked.kind == wanted


@pytest.mark.parametrize(
    ("name", "anchor"),
    [
        ("cpe-artist", "real photograph"),
        ("cpe-celebrity", "a person"),
        ("cpe-explicit", "a person in modest clothing"),
        ("eraseanything-nudity", "clothed"),
    ],
)
def test_a_method_that_reads_a_target_as_its_anchor_is_told_the_authors_one(name, anchor) -> None:
    """Where none is named, a style would be read as art, and nudity as the empty text."""
    assert {*(load_recipe(name).asked.anchors or ())} == {anchor}


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith("moji-")])
def test_moji_recipes_train_as_usual(name) -> None:
    """Benches take a recipe's settings alone."""
    assert load_recipe(name).training == {}


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith("moji-")])
def test_settings_for_moji_come_from_tune_concepts(name) -> None:
    named = re.compile("|".join(rf"\b{re.escape(entry.name)}\b" for entry in concept_table().entries))
    for concept in named.findall(load_recipe(name).source):
        assert concept_table()[concept].split == "tune"


STYLES = """
method = "esd"
source = "a test"
[settings]
iterations = 7
lr = 1e-3
[kinds.style]
lr = 1e-4
"""


@pytest.fixture
def by_kind(tmp_path) -> str:
    path = tmp_path / "r.toml"
    path.write_text(STYLES, encoding="utf-8")
    return str(path)


def test_settings_of_a_kind_replace_those_of_all(by_kind) -> None:
    recipe = load_recipe(by_kind)
    assert recipe.settings_for("style") == {"iterations": 7, "lr": 1e-4}
    assert recipe.settings_for("object") == recipe.settings_for(None) == {"iterations": 7, "lr": 1e-3}


def test_a_job_takes_those_of_its_concepts(by_kind) -> None:
    """A ledger, whose state is one edit for requests of all kinds, takes none of them."""

    def lr(*concepts, for_any_kind=False, **options):
        job = plan_job(EraseOptions(concepts=concepts, recipe=by_kind, **options), for_any_kind).job
        return job.settings["lr"]

    assert (lr("twemoji"), lr("guitar"), lr()) == (1e-4, 1e-3, 1e-3)
    assert lr("twemoji", "guitar") == lr("guitar", "twemoji") == 1e-3
    assert lr("twemoji", settings={"lr": 0.5}) == 0.5
    assert lr("twemoji", for_any_kind=True) == 1e-3
    assert lr("cubism", model="elsewhere", kind="style") == 1e-4
    assert lr("cubism", model="elsewhere") == 1e-3


def test_explain_shows_those_of_the_concept_or_of_every_kind(by_kind) -> None:
    def rows(**options):
        shown = explain(ExplainOptions(recipe=by_kind, **options)).rows
        return {row.part: row.value for row in shown if row.name == "lr"}

    assert rows() == {"settings": 1e-3, "settings, style": 1e-4}
    assert rows(concepts="twemoji") == rows(kind="style") == {"settings": 1e-4}


def test_a_bench_takes_them_too_and_a_candidate_replaces_them(tmp_path) -> None:
    own = Variant("esd", "esd", {"lr": 1e-3, "pool": 4}, kinds={"style": {"lr": 1e-4}})

    def settings(variant, concept):
        return EditTask(EditedModel(), variant, (concept,), tmp_path).settings

    assert settings(own, "twemoji") == {"lr": 1e-4, "pool": 4}
    assert settings(own, "guitar") == {"lr": 1e-3, "pool": 4}
    assert settings(own.changed("faster", {"lr": 0.5}), "twemoji") == {"lr": 0.5, "pool": 4}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STYLES.replace("kinds.style", "kinds.animal"), "kinds"),
        (STYLES.replace('method = "esd"', 'attack = "p4d"'), "only a method has kinds"),
    ],
)
def test_an_unknown_kind_and_an_attack_with_kinds_are_refused(tmp_path, text, said) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UnconceptError, match=said) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def moji_requests() -> list[Request]:
    erasable = [entry.name for entry in concept_table().entries if entry.erasable]
    return [resolve_request(RequestSpec((name,)), "moji").request for name in erasable]


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith("moji-") and load_recipe(name).method])
def test_sentences_of_a_moji_recipe_name_nothing_that_it_may_erase(name, moji_requests) -> None:
    recipe = load_recipe(name)
    by_kind = {kind: recipe.settings_for(kind) for kind in {request.kind for request in moji_requests}}
    for request in moji_requests:
        settings = by_kind[request.kind]
        forms = [*settings.get("templates", ()), settings.get("prompt", ""), settings.get("picture_prompt", "")]
        refuse_named_targets(name, forms, request.targets)
