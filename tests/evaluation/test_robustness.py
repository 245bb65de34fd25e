"""Attacks through the harness: rates beside ceiling and floor, each computed once, what was found replayable."""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from tests.evaluation.test_harness import SPEC, trial
from tests.evaluation.test_harness import drawn as drawn
from tests.evaluation.test_harness import pizza as pizza
from tests.evaluation.test_harness import where as where
from tests.killed import Killed
from unconcept.attacks import AttackAttempt, AttackInput
from unconcept.core import Concept
from unconcept.core.errors import StoreError
from unconcept.core.output_folder import write_atomically
from unconcept.core.request import Request
from unconcept.edits import load_edit
from unconcept.edits.origin import origin_for
from unconcept.evaluation.attacks.inputs import (
    AdversarialInput,
    hash_input,
    load_adversarial,
    sample_adversarial,
    save_adversarial,
)
from unconcept.evaluation.attacks.rates import WANTED_CHANGE, attack_rows
from unconcept.evaluation.attacks.threat_model import knowledge_from_concept, knowledge_from_table
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.judging.rates import PairedAnswer
from unconcept.evaluation.sampling import DrawSpec, draw_prompts
from unconcept.evaluation.suites.groups import group_checks
from unconcept.evaluation.suites.registry import Suite
from unconcept.evaluation.tasks import attack as attacking
from unconcept.evaluation.tasks.attack import AttackTask, found_picture_key, plan_attacks
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.search_log import SearchLog, SeenPicture
from unconcept.evaluation.trials.bench import examine_trials, picture_warning
from unconcept.evaluation.trials.trial import AnsweredTrial
from unconcept.methods.nag import NAG
from unconcept.models import Conditioning
from unconcept.models.diffusion.procedures.image_to_image import ImageToImage
from unconcept.models.model_view import SoftPrompts
from unconcept.prompts.checks import Check, GroupSizes, Prompt


@dataclass(frozen=True)
class Worded(Judge):
    """A judge whose network is not opened."""

    key = "words"


SUITE = Suite("two", "", GroupSizes(2, 0), group_checks, attacks=("derived-embedding",), prompts_per_attack=2)


@pytest.mark.slow
def test_an_attack_stands_beside_ceiling_and_floor(pizza, where, drawn) -> None:
    (finding,), tally = examine_trials([trial(pizza)], SUITE, where)
    assert tally.complete
    (row,) = finding.attack_results
    assert (row.attack, row.rung, row.missing, row.success.n) == ("derived-embedding", "embedding", 0, 2)
    assert row.ceiling is not None
    assert row.success.value >= row.pre.value
    assert row.curve[0].steps == 0
    assert (row.nothing.n, all(point.seconds is not None for point in row.curve)) == (2, True)
    ((name, file),) = finding.adversarial_files
    replayed = load_adversarial(file)
    assert (name, len(replayed)) == ("derived-embedding", 2)
    subject = finding.answered_trial.trial.subject
    with subject.applied() as model:
        pictures = sample_adversarial(model, list(replayed.values()), SPEC)
    for one, picture in zip(replayed.values(), pictures, strict=True):
        kept = where.store.load(found_picture_key(subject, SPEC, name, one))
        assert (kept - picture).abs().max() <= 1.01 / 255
    count = len(drawn)
    (again,), _ = examine_trials([trial(pizza, "again")], SUITE, where)
    assert len(drawn) == count, "finished attacks and ceilings are taken from the store"
    assert again.attack_results == finding.attack_results


def test_an_attack_that_cannot_act_on_the_edit_is_not_run(pizza, where, drawn, tmp_path) -> None:
    view, request = EditedModel().base(), Request(("pizza",), ("taco",))
    edit = NAG().erase(view, request)
    edit.stamped(origin_for(edit, view, request, "nag", {})).save(tmp_path / "edit.safetensors")
    (finding,), tally = examine_trials([trial(tmp_path / "edit.safetensors")], SUITE, where)
    assert tally.complete
    assert finding.attack_results == ()
    assert "changes no weight but steers while sampling" in finding.out_of_reach["derived-embedding"]


@pytest.mark.slow
def test_a_killed_attack_draws_no_picture_twice(pizza, where, drawn, monkeypatch) -> None:
    """A search whose inputs are sampling procedures, killed at its third attempt."""
    asked, real = list[str](), attacking.sample_adversarial

    def counting(model, found, spec):
        if len(asked) == 2:
            asked.append("killed")
            raise Killed
        asked.extend(hash_input(one.input) for one in found)
        return real(model, found, spec)

    monkeypatch.setattr(attacking, "sample_adversarial", counting)
    checks = [check for check in SUITE.checks(("pizza",)) if check.group == "direct"][:1]
    subject = EditedModel.of(EditedModel(), pizza)
    (task,) = planned(subject, "sdedit", checks, strengths=(0.5,), edits=("in ink style", "and a key"))
    with pytest.raises(Killed):
        task.run(where.store)
    before = sum(drawn)
    task.run(where.store)
    assert len(asked) == len({*asked}) > 3
    assert sum(drawn) == before, "nor are those of the unedited model that it needs"
    assert task.is_done(where.store)


def planned(subject: EditedModel, name: str, checks, **settings) -> list[AttackTask]:
    return plan_attacks(subject, SPEC, Judge("moji-judge"), knowledge_from_table("pizza"), {name: settings}, checks)


def planted(task: AttackTask, store, shown: list[tuple[int, dict[int, bool]]]) -> None:
    """A finished attack with a known course."""
    attempts = [
        {"steps": steps, "queries": 0, "loss": None, "shown": {str(i): hit for i, hit in hits.items()}}
        for steps, hits in shown
    ]
    task.path(store).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(
        task.path(store), json.dumps({"attempts": attempts, "seconds": {"search": 2.0, "drawing": 1.0}}).encode()
    )


def test_rates_are_of_prompts(pizza, where) -> None:
    """Four prompts: shown unattacked; found at the floor; found after 20 steps; never.

    A missing one fails and is counted.
    """
    subject = EditedModel.of(EditedModel(), pizza)
    checks = [
        check for check in Suite("x", "", GroupSizes(4, 0), group_checks).checks(("pizza",)) if check.group == "direct"
    ]
    (task,) = planned(subject, "derived-embedding", checks)
    (top,) = planned(subject.unedited, "derived-embedding", checks)
    assert task.id != top.id
    planted(
        task,
        where.store,
        [
            (0, {0: False, 1: True, 2: False, 3: False}),
            (10, {0: False, 2: False, 3: False}),
            (20, {0: False, 2: True, 3: False}),
        ],
    )
    planted(top, where.store, [(0, dict.fromkeys(range(4), True))])
    (row,) = attack_rows([task], [top], [True, False, False, False], where.store)
    assert (row.pre.value, row.floor.value, row.success.value) == (0.25, 0.25, 0.75)
    assert row.ceiling.value == 1.0
    assert [(p.steps, p.queries, p.success) for p in row.curve] == [(0, 1.0, 0.25), (10, 1.75, 0.25), (20, 2.5, 0.5)]
    single = planned(subject, "latent-inversion", checks)
    assert [one.size for one in single] == [4]
    (row,) = attack_rows(single, [], [False] * 4, where.store)
    assert (row.success.value, row.missing, row.ceiling) == (0.0, 4, None)


def test_seconds_and_nothing_are_of_prompts(pizza, where) -> None:
    """Two prompts: found after 10 steps; never, its last picture unknown.

    What was kept before words were has neither figure.
    """
    checks = [
        check for check in Suite("x", "", GroupSizes(2, 0), group_checks).checks(("pizza",)) if check.group == "direct"
    ]
    (task,) = planned(EditedModel.of(EditedModel(), pizza), "derived-embedding", checks)
    attempts = [
        {"steps": 0, "seconds": 1.0, "shown": {"0": False, "1": False}, "words": {"0": "nothing", "1": "goat"}},
        {"steps": 10, "seconds": 4.0, "shown": {"0": True, "1": False}, "words": {"0": "pizza", "1": "goat"}},
        {"steps": 20, "seconds": 3.0, "shown": {"1": False}, "words": {"1": "nothing"}},
    ]
    kept = {"attempts": attempts, "seconds": {"search": 8.5, "drawing": 1.0}}
    task.path(where.store).parent.mkdir(parents=True)
    write_atomically(task.path(where.store), json.dumps(kept).encode())
    (row,) = attack_rows([task], [], [False] * 2, where.store)
    assert [(point.steps, point.seconds) for point in row.curve] == [(0, 0.5), (10, 2.5), (20, 4.0)]
    assert (row.nothing.value, row.nothing.n) == (0.5, 2)
    for attempt in attempts:
        del attempt["words"], attempt["seconds"]
    write_atomically(task.path(where.store), json.dumps(kept).encode())
    (row,) = attack_rows([task], [], [False] * 2, where.store)
    assert ([point.seconds for point in row.curve], row.nothing) == ([None] * 3, None)


def test_controls_stand_beside_the_rate_and_solve_nothing(pizza, where) -> None:
    """Two prompts: a control shows the concept in one of them, the attack in neither; one shows the asked change."""
    checks = [
        check for check in Suite("x", "", GroupSizes(2, 0), group_checks).checks(("pizza",)) if check.group == "direct"
    ]
    (task,) = planned(EditedModel.of(EditedModel(), pizza), "derived-embedding", checks)
    attempts = [
        {"steps": 0, "seconds": 1.0, "shown": {"0": False, "1": False}, "words": {"0": "goat", "1": "goat"}},
        {"steps": 0, "control": "picture", "seconds": 0.0, "shown": {"0": True, "1": False}, "words": {}},
        {"steps": 1, "seconds": 1.0, "shown": {"0": False, "1": False}, "changed": {"0": True, "1": False}},
    ]
    for attempt in attempts:
        attempt["words"] = dict.fromkeys(attempt["shown"], "goat")
    kept = {"attempts": attempts, "seconds": {"search": 2.0, "drawing": 1.0}}
    task.path(where.store).parent.mkdir(parents=True)
    write_atomically(task.path(where.store), json.dumps(kept).encode())
    (row,) = attack_rows([task], [], [False] * 2, where.store)
    assert (row.success.value, row.floor.value, [point.queries for point in row.curve]) == (0.0, 0.0, [1.0, 2.0])
    assert [(one.name, one.rate.value, one.rate.n) for one in row.controls] == [
        ("picture", 0.5, 2),
        (WANTED_CHANGE, 0.5, 2),
    ]


def test_a_prompt_is_attacked_at_its_own_guidance_scale(tmp_path) -> None:
    """Published sets prescribe one: the floor is the picture that is judged without an attack, and a replay too."""
    model, spec = tiny.view("sd1", torch.float32), DrawSpec(2, 7.5)
    plain, own = Prompt("a dog", 3), Prompt("a dog", 3, 1.5)
    floor = AttackInput("a dog")
    found = {0: AdversarialInput("a dog", 3, floor), 1: AdversarialInput("a dog", 3, floor, own.guidance_scale)}
    save_adversarial(tmp_path / "f.safetensors", found)
    drawn = sample_adversarial(model, [*load_adversarial(tmp_path / "f.safetensors").values()], spec)
    expected = [draw_prompts(model, [one], spec.of(one))[0] for one in (plain, own)]
    assert not torch.allclose(*expected)
    assert torch.allclose(drawn, torch.stack(expected), atol=1e-5)


def test_searches_by_prompt_share_a_guidance_scale_and_pictures_are_drawn_at_their_own(where, monkeypatch) -> None:
    checks = Suite("x", "", GroupSizes(3, 0), group_checks).checks(("pizza",))[:3]
    scaled = [replace(one, prompt=replace(one.prompt, guidance_scale=2.0)) for one in checks[1:]]
    asked, subject = [checks[0], *scaled], EditedModel()
    tasks = planned(subject, "wordings", asked)
    assert [(task.size, task.case(lambda prompts: torch.zeros(0)).guidance_scale) for task in tasks] == [
        (1, SPEC.guidance_scale),
        (2, 2.0),
    ]
    (whole,) = planned(subject, "derived-embedding", asked)
    (plain,) = planned(subject, "derived-embedding", [checks[0], *checks[1:3]])
    assert (whole.size, whole.id != plain.id) == (3, True)
    given = whole._inputs_to_try(AttackAttempt(0, {1: AttackInput("x")}), SimpleNamespace(solved=()), SearchLog())
    assert given[1].guidance_scale == 2.0
    drawn: list[list[float | None]] = []
    monkeypatch.setattr(
        attacking.DrawTask, "run", lambda task, store: drawn.append([one.guidance_scale for one in task.prompts])
    )
    monkeypatch.setattr(type(where.store), "load", lambda store, key: torch.zeros(3, 2, 2))
    whole._drawn([check.prompt for check in asked], where.store)
    assert drawn == [[None], [2.0, 2.0]]


def test_an_attack_judged_by_other_questions_is_another(pizza) -> None:
    """A judge that reads words is asked about a style or about an object."""
    checks = [Check(Prompt("a harbour", 1), "direct", "Van Gogh", by, ("Van Gogh",)) for by in ("object", "style")]
    known = knowledge_from_concept(Concept("Van Gogh", "style"), ())
    made = [plan_attacks(EditedModel(), SPEC, Worded("vlm"), known, {"wordings": {}}, [check]) for check in checks]
    assert len({task.id for (task,) in made}) == 2


def test_pictures_that_do_not_show_the_concept_are_warned_of(pizza) -> None:
    """Attacks that begin with pictures of it begin with those."""
    checks = [one for one in SUITE.checks(("pizza",)) if one.group == "direct"][:2]

    def told(shown: int, *names: str) -> dict[str, str]:
        words = [("pizza" if i < shown else "goat", "goat") for i in range(2)]
        answers = [PairedAnswer(check, *pair) for check, pair in zip(checks, words, strict=True)]
        return picture_warning(AnsweredTrial(trial(pizza), tuple(checks), tuple(answers)), checks, names)

    assert told(1, "wordings", "recall", "sdedit") == {
        "pictures of the concept": "pictures of pizza, with which recall, sdedit begin: the judge finds it in 1 of 2"
        " that were drawn for it, so their rates say little"
    }
    assert told(2, "recall") == told(1, "wordings") == told(0) == {}


def test_what_was_found_can_be_replayed(pizza, tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    soft = SoftPrompts(torch.tensor([[1, 2, 3]]), torch.tensor([[1]]), (torch.randn(1, 1, 4, generator=generator),))
    given = {
        0: AttackInput("a pizza", soft=soft),
        1: AttackInput("a pizza", states=Conditioning(torch.randn(1, 3, 4, generator=generator))),
        2: AttackInput("a pizza", noise=torch.randn(4, 2, 2, generator=generator), weights=load_edit(pizza)),
        3: AttackInput("pozza"),
        4: AttackInput("a pizza", sampling=ImageToImage(torch.randn(1, 4, 2, 2, generator=generator), 0.5)),
    }
    found = {i: AdversarialInput("a pizza", 7, one) for i, one in given.items()}
    save_adversarial(tmp_path / "f.safetensors", found)
    back = load_adversarial(tmp_path / "f.safetensors")
    assert {i: hash_input(one.input) for i, one in back.items()} == {i: hash_input(one) for i, one in given.items()}
    noisier = replace(given[4], sampling=replace(given[4].sampling, level=0.6))
    assert len({hash_input(one) for one in [*given.values(), noisier, AttackInput("a pizza")]}) == 7
    assert (back[3].prompt, back[3].seed, back[3].input.text) == ("a pizza", 7, "pozza")
    whole = (tmp_path / "f.safetensors").read_bytes()
    for damage in (whole[: len(whole) // 2], b"", pizza.read_bytes()):
        (tmp_path / "bad.safetensors").write_bytes(damage)
        with pytest.raises(StoreError):
            load_adversarial(tmp_path / "bad.safetensors")


@pytest.mark.slow
def test_found_weights_are_kept_with_their_origin(pizza, where) -> None:
    checks = [
        check for check in Suite("x", "", GroupSizes(1, 0), group_checks).checks(("pizza",)) if check.group == "direct"
    ]
    (task,) = planned(
        EditedModel.of(EditedModel(), pizza), "resurgence", checks, checkpoints=[1], batch_size=1, rank=1, lr=0.0
    )
    task.run(where.store)
    (one,) = load_adversarial(task.path(where.store).with_suffix(".safetensors")).values()
    assert one.input.weights is not None
    assert (one.input.weights.origin.method, one.input.weights.origin.targets) == ("resurgence", ("pizza",))
    assert one.input.weights.origin.licence == "apache-2.0"


def test_an_attack_is_of_its_settings_and_seed(pizza) -> None:
    checks = Suite("x", "", GroupSizes(1, 0), group_checks).checks(("pizza",))
    (task,) = planned(EditedModel(), "derived-embedding", checks)
    (other,) = planned(EditedModel(), "derived-embedding", checks, lamb=1.0)
    assert len({task.id, other.id, replace(task, seed=1).id, replace(task, spec=replace(SPEC, batch_size=9)).id}) == 3


@pytest.mark.slow
def test_an_edit_of_a_picture_is_kept_with_its_control_and_its_change_and_drawn_again(pizza, where) -> None:
    """What is kept draws the same picture again; only a picture with the asked change counts."""
    checks = [
        check for check in Suite("x", "", GroupSizes(1, 0), group_checks).checks(("pizza",)) if check.group == "direct"
    ]
    subject = EditedModel.of(EditedModel(), pizza)
    edits = ["on a blue background", "and a key"]
    (task,) = planned(subject, "sdedit", checks, strengths=[0.5], edits=edits)
    task.run(where.store)
    floor, control, *tried = json.loads(task.path(where.store).read_text())["attempts"]
    assert (control["control"], control["queries"], floor["queries"]) == ("picture itself", 1, 1)
    assert all(set(one["changed"]) == {"0"} for one in tried)
    assert all(one["changed"]["0"] or not one["shown"]["0"] for one in [floor, *tried])
    (found,) = load_adversarial(task.path(where.store).with_suffix(".safetensors")).values()
    assert found.input.sampling is not None
    with subject.applied() as model:
        (picture,) = sample_adversarial(model, [found], SPEC)
    kept = where.store.load(found_picture_key(subject, SPEC, "sdedit", found))
    assert (kept - picture).abs().max() <= 1.01 / 255


def test_what_a_search_takes_before_a_control_counts_with_its_next_try() -> None:
    """A picture is inverted before the control that draws it again, and the edits need the inversion."""
    log, seen = SearchLog(), {0: SeenPicture("goat", False, None)}
    given = {0: AdversarialInput("a pizza", 7, AttackInput("a pizza"))}
    for steps, seconds, control in ((0, 1.0, None), (0, 9.0, "drawn again"), (30, 2.0, None), (31, 0.5, None)):
        log.add(AttackAttempt(steps, {0: given[0].input}, control=control), given, seen, seconds)
    assert [one["seconds"] for one in log.attempts] == [1.0, 0.0, 11.0, 0.5]
    assert log.searching == 12.5


def test_a_control_that_has_shown_the_concept_is_not_drawn_again(pizza) -> None:
    checks = Suite("x", "", GroupSizes(2, 0), group_checks).checks(("pizza",))[:2]
    (task,), log = planned(EditedModel(), "derived-embedding", checks), SearchLog()
    attempt = AttackAttempt(0, dict.fromkeys((0, 1), AttackInput("a fox")), control="others")
    asked = SimpleNamespace(solved={1})
    given = task._inputs_to_try(attempt, asked, log)
    assert [*given] == [0, 1]
    log.add(attempt, given, {i: SeenPicture("pizza", i == 0, None) for i in given}, 0.0)
    assert [*task._inputs_to_try(attempt, asked, log)] == [1]
    assert [*task._inputs_to_try(replace(attempt, control="elsewhere"), asked, log)] == [0, 1]
    assert [*task._inputs_to_try(replace(attempt, control=None), asked, log)] == [0]


@pytest.mark.slow
def test_search_is_timed_attempt_by_attempt(pizza, where) -> None:
    checks = [
        check for check in Suite("x", "", GroupSizes(1, 0), group_checks).checks(("pizza",)) if check.group == "direct"
    ]
    (task,) = planned(EditedModel.of(EditedModel(), pizza), "wordings", checks, synonyms=1, misspellings=0)
    task.run(where.store)
    kept = json.loads(task.path(where.store).read_text())
    assert sum(attempt["seconds"] for attempt in kept["attempts"]) <= kept["seconds"]["search"] + 0.01
    known = {*Judge("moji-judge").open().labels["objects"]}
    assert all(
        attempt["shown"].keys() == attempt["words"].keys() and {*attempt["words"].values()} <= known
        for attempt in kept["attempts"]
    )
