"""No method ever asks the judge that grades it: over the registry of methods, for a job and for a benchmark."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from tests import tiny
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.request import RequestSpec
from unconcept.edits import DenseEdit, EditOrigin
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.evaluation.judging.choice import require_no_adviser
from unconcept.evaluation.judging.judge import Judge, judge_for_methods, judge_weights, open_scorer
from unconcept.evaluation.tasks.edit_task import EditTask, Variant, variant_of_method
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.evaluation.worlds import world_of
from unconcept.jobs.erase import erase
from unconcept.jobs.erase_job import Job, open_services
from unconcept.jobs.evaluate import EvaluationRun, evaluate
from unconcept.methods import MethodServices, methods
from unconcept.scorers import ScorerInfo, scorers
from unconcept.scorers.moji_judge import JudgeScore
from unconcept.worlds.registry import METHOD_JUDGE_WEIGHTS

CONCEPT = {"erase": "dog face", "debias": "judge", "keep": "dog face"}
ASKING = [name for name in methods if {"attribute_counter", "presence_judge"} & {*methods[name].uses}]
GRADING, SEEING_JUDGE = world_of("moji").judge, Judge("moji-judge", str(METHOD_JUDGE_WEIGHTS))


class ThirdJudge(JudgeScore):
    """A judge of the table that is not the one that grades: it counts as one with other weights."""

    name = "third-judge"

    def __init__(self) -> None:
        super().__init__()
        self.hash = "3" * 64


class SameJudge(JudgeScore):
    """The grading judge under another name."""


def plant(monkeypatch, **judges) -> None:
    """Register judges of moji's table for one test."""
    monkeypatch.setattr(scorers, "_known", {**scorers._known})
    open_scorer.cache_clear()
    own = scorers["moji-judge"]
    for name, build in judges.items():
        label = name.replace("_", "-")
        scorers.register(label)(ScorerInfo(label, build, "picture", None, "A judge.", own.reader))


@pytest.fixture
def third(monkeypatch):
    plant(monkeypatch, third_judge=ThirdJudge, same_judge=SameJudge)
    yield
    open_scorer.cache_clear()


def judges_in(services: MethodServices) -> list[Judge]:
    return [one.judge for one in (services.attribute_counter, services.presence_judge) if one is not None]


def job_of(name: str, tmp_path: Path, **more) -> Job:
    return Job(RequestSpec((CONCEPT[methods[name].does],)), tmp_path / "o", name, report=False, **more)


def services_of(job: Job) -> MethodServices:
    info = methods[job.method]
    return open_services(job, info, EditedModel().base(), world_of(job.model).request(job.ask, info.does))


@pytest.mark.parametrize("name", methods)
def test_no_method_gets_the_judge_that_grades(name, tmp_path, third) -> None:
    """Neither by default nor when it is named, under any name; another judge is handed on."""
    task = EditTask(EditedModel(), variant_of_method(name), (CONCEPT[methods[name].does],), tmp_path / "run")
    store = tmp_path / "store"
    for unasked in (task.services(PictureStore(store)), services_of(job_of(name, tmp_path, store=store))):
        assert judges_in(unasked) == [SEEING_JUDGE] * (name in ASKING)
        assert unasked.adviser == (judge_weights(SEEING_JUDGE) if name in ASKING else "")
    assert judge_weights(SEEING_JUDGE) != judge_weights(GRADING)
    if name not in ASKING:
        with pytest.raises(SettingsError, match=f"{name} asks none: leave it out"):
            erase(job_of(name, tmp_path, method_judge="third-judge"))
        return
    for same in ("moji-judge", "same-judge"):
        with pytest.raises(SettingsError, match=f"method judge '{same}': it grades the result"):
            services_of(job_of(name, tmp_path, method_judge=same))
    services = services_of(job_of(name, tmp_path, method_judge="third-judge"))
    (asked,) = judges_in(services)
    assert (asked.scorer, services.adviser) == ("third-judge", "3" * 64)
    assert {*tmp_path.iterdir()} <= {store}


@pytest.mark.parametrize("name", ASKING)
def test_a_model_without_a_judge_for_methods_shows_nothing(name, tmp_path) -> None:
    """A method that can do without one works as it is; one that counts says what to name."""
    model = str(tiny.folder("sd1", tmp_path / "m"))
    job = replace(job_of(name, tmp_path), model=model, ask=RequestSpec(("dog",), ("cat",), ("cow",)))
    services = partial(open_services, job, methods[name], EditedModel(model).base(), world_of(model).request(job.ask))
    if "attribute_counter" in methods[name].uses:
        with pytest.raises(RequestError, match="does not grade, and none is named: give --method-judge clip-score="):
            services()
    else:
        assert judges_in(services()) == []


@pytest.mark.parametrize("name", ASKING)
def test_the_judge_for_methods_grades_no_edit_of_one_that_asks_it(name, tmp_path) -> None:
    """Neither when the edit is made nor in a bench."""
    grading = f"moji-judge={METHOD_JUDGE_WEIGHTS}"
    with pytest.raises(SettingsError, match="it grades the result, and a method that asks it"):
        services_of(job_of(name, tmp_path, judge=grading))
    run = EvaluationRun(("judge",), tmp_path / "o", variants=(Variant(name, name),), judge=grading)
    with pytest.raises(SettingsError, match="a method asked it while it made its edit"):
        evaluate(run)


def test_two_folders_of_one_clip_are_one_judge(tmp_path) -> None:
    one, copy = (str(tiny.clip_folder(tmp_path / name)) for name in ("a", "b"))
    other = str(tiny.clip_folder(tmp_path / "c", seed=1))
    grading = Judge("clip-score", one, ("dog", "cat"))
    assert judge_for_methods(None, grading) is None
    assert judge_for_methods(Judge("clip-score", other), grading) == Judge("clip-score", other)
    assert judge_for_methods(Judge("clip-score", one), None) == Judge("clip-score", one)
    for path in (one, copy):
        with pytest.raises(SettingsError, match="name another judge"):
            judge_for_methods(Judge("clip-score", path), grading)


SEEING = [name for name in methods if "vision_towers" in methods[name].uses]


@pytest.mark.parametrize("name", SEEING)
def test_the_clip_that_steers_a_method_grades_no_edit_of_it(name, tmp_path) -> None:
    """Neither when the edit is made, in a bench, nor of a finished edit; the tiny CLIP's text tower is the model's."""
    own, other = (tiny.clip_folder(tmp_path / label, seed=seed) for label, seed in (("own", 0), ("other", 1)))
    model = EditedModel(str(tiny.folder("sd1", tmp_path / "m")))
    ask = RequestSpec(("dog",), ("cat",), ("cow",))
    origin = EditOrigin(name, {}, ("dog",), ("cat",), (), "object", "sd1", "m", "0" * 64, "0", {})
    DenseEdit({"unet.conv_in.weight": torch.ones(1, 1)}, origin=origin).save(tmp_path / "e.safetensors")
    settings = {"model": model.model, "judge": f"clip-score={own}", "suite": "smoke"}
    variant = Variant("slug", name, {})
    for run in (
        lambda: erase(Job(ask, tmp_path / "o", name, model=model.model, judge=f"clip-score={own}")),
        lambda: evaluate(EvaluationRun(("dog",), tmp_path / "o", variants=(variant,), **settings)),
        lambda: evaluate(EvaluationRun(("dog",), tmp_path / "o", (tmp_path / "e.safetensors",), **settings)),
    ):
        with pytest.raises(SettingsError, match=f"own text encoder, by which {name} made its edit: name another"):
            run()
        assert not (tmp_path / "o").exists()
    require_no_adviser(Judge("clip-score", str(other)), [name], model.base())
    require_no_adviser(Judge("clip-score", str(own)), [each for each in methods if each not in SEEING], model.base())


def test_a_judge_that_a_method_asked_does_not_grade_its_edit_later(tmp_path, third) -> None:
    """The edit says whom its method asked; one that asked nobody is written as before."""
    origin = EditOrigin("uce", {}, ("dog face",), ("cat face",), (), "object", "sd1", "moji", "0" * 64, "0", {})
    assert "adviser" not in origin.to_json()
    advised = replace(origin, adviser=ThirdJudge().hash)
    assert EditOrigin.from_json(advised.to_json()) == advised
    paths = []
    for number, own in enumerate((advised, origin)):
        paths.append(tmp_path / f"{number}.safetensors")
        DenseEdit({"unet.conv_in.weight": torch.ones(1, 1)}, origin=own).save(paths[-1])
    run = EvaluationRun(("dog face",), tmp_path / "o", (paths[0],), model="moji", judge="third-judge", suite="smoke")
    with pytest.raises(SettingsError, match="third-judge: a method asked it while it made its edit: name another"):
        evaluate(run)
    unedited = EditedModel()
    for advisers in ((), ("", "4" * 64)):
        require_no_adviser(Judge("third-judge"), ["uce"], unedited.base(), advisers)
    edit = make_edit(unedited.base(), resolve_request(RequestSpec(("pizza",)), "moji"), "uce", {}, MethodServices())
    assert edit.origin.adviser == ""
    services = MethodServices(adviser="3" * 64)
    edit = make_edit(unedited.base(), resolve_request(RequestSpec(("pizza",)), "moji"), "uce", {}, services)
    assert edit.origin.adviser == "3" * 64
