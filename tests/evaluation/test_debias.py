"""Debiasing from end to end: eyes on `moji` and on a user's model, the suite's shares, the command, what is refused."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tests import tiny
from tests.evaluation.test_method_judges import ThirdJudge, plant
from unconcept.cli import app
from unconcept.core.errors import RequestError
from unconcept.core.request import RequestSpec
from unconcept.edits import load_edit
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.evaluation.judging import live as observing
from unconcept.evaluation.judging.evidence import TrialEvidence
from unconcept.evaluation.judging.judge import Judge
from unconcept.evaluation.judging.live import open_attribute_counter
from unconcept.evaluation.judging.rates import PairedAnswer
from unconcept.evaluation.sampling import DrawSpec
from unconcept.evaluation.suites.registry import suites
from unconcept.evaluation.tasks.edit_task import variant_of_method
from unconcept.evaluation.tasks.edited_model import EditedModel
from unconcept.evaluation.tasks.picture_store import PictureStore
from unconcept.jobs.erase import erase
from unconcept.jobs.erase_job import Job
from unconcept.jobs.evaluate import evaluate
from unconcept.jobs.evaluate_job import EvaluationRun
from unconcept.prompts.checks import REPORT_SEEDS
from unconcept.worlds.table import concept_table

BOTH = ("woman", "man")
PROFESSIONS = [entry.name for entry in concept_table().professions]


@pytest.fixture
def eyes(tmp_path):
    spec, store = DrawSpec(steps=2, batch_size=3), PictureStore(tmp_path / "store")
    return open_attribute_counter(EditedModel().base(), Judge("moji-judge"), spec, store, "person")


def test_eyes_look_once_at_each_picture(eyes, monkeypatch) -> None:
    """Neutral captions, tuning seeds, other noise every turn; the same model is not drawn again, an edited one is."""
    prompts, real = [], observing.draw_prompts

    def draw(model, asked, spec):
        prompts.extend(asked)
        return real(model, asked, replace(spec, steps=4))

    monkeypatch.setattr(observing, "draw_prompts", draw)
    first = eyes("judge", BOTH, 4, 0)
    assert [prompt.text for prompt in prompts] == ["judge", "a judge"] * 2
    assert all(prompt.seed < REPORT_SEEDS for prompt in prompts)
    assert 0 <= sum(first) <= 4
    assert eyes("judge", BOTH, 4, 0) == first
    assert eyes("judge", BOTH[::-1], 4, 0) == first[::-1]
    assert len(prompts) == 4
    eyes("judge", BOTH, 4, 1)
    assert len({prompt.seed for prompt in prompts}) == 8
    with make_edit(eyes.model, resolve_request(RequestSpec(("dog face",)), "moji"), "uce", {}).applied(eyes.model):
        eyes("judge", BOTH, 4, 0)
    assert len(prompts) == 12


@pytest.mark.parametrize(
    ("text", "attributes", "said"),
    [
        ("judge", ("woman", "robot"), "attribute 'robot': moji's judge can distinguish woman, man for 'judge'"),
        ("dog face", BOTH, "can distinguish nothing"),
    ],
)
def test_attributes_that_nobody_can_tell(eyes, text, attributes, said) -> None:
    with pytest.raises(RequestError, match=said):
        eyes(text, attributes, 2, 0)


@pytest.mark.parametrize(
    ("model", "judge"),
    [("tiny", None), ("tiny", Judge("moji-judge")), ("tiny", Judge("nudenet")), ("moji", Judge("clip-score", "x"))],
)
def test_judges_that_tell_no_attributes(tmp_path, model, judge) -> None:
    view = tiny.view("sd1")
    view.name = model
    with pytest.raises(
        RequestError,
        match="distinguishes no attributes" if judge else "by a judge that does not grade, and none is named",
    ):
        open_attribute_counter(view, judge, DrawSpec(), PictureStore(tmp_path / "s"), "person")


def test_a_request_needs_no_anchor_and_keeps_the_others() -> None:
    chosen = resolve_request(RequestSpec(("judge", "teacher")), "moji", "debias")
    assert chosen.request.targets == ("judge", "teacher")
    assert chosen.request.anchors == ()
    assert set(chosen.request.retain) == {*PROFESSIONS} - {"judge", "teacher"}
    with pytest.raises(RequestError, match="'dog face' has no variants"):
        resolve_request(RequestSpec(("dog face",)), "moji", "debias")


def test_shares_are_of_what_shows_an_attribute() -> None:
    """Any profession's variant counts; what shows none is left out, and stands in the group's rate."""
    suite = suites["debias"]
    checks = [check for check in suite.checks(("judge",)) if check.concept in ("judge", "cook")]
    words = ("woman judge", "woman pilot", "man judge", "nothing")
    answers = tuple(
        PairedAnswer(
            check,
            words[0] if check.concept == "judge" else words[2],
            words[i % 4] if check.concept == "judge" else words[2],
        )
        for i, check in enumerate(checks)
    )
    seen = TrialEvidence(("judge",), answers, dict, Judge("moji-judge"))
    found = {figure.name: figure for figure in suite.figures(seen)}
    assert list(found) == ["judge: woman", "judge: man", "cook: woman", "cook: man"]
    woman = found["judge: woman"]
    assert (woman.before, woman.value, woman.n) == (1.0, pytest.approx(2 / 3), 300)
    assert woman.interval[0] < 2 / 3 < woman.interval[1] < woman.interval[0] + 0.12
    assert (found["cook: woman"].before, found["cook: woman"].value, found["cook: woman"].n) == (0.0, 0.0, 400)


def test_suite_asks_every_profession_four_hundred_times() -> None:
    checks = suites["debias"].checks(("judge", "pilot"))
    counts = {name: sum(check.concept == name for check in checks) for name in PROFESSIONS}
    assert set(counts.values()) == {400}
    assert {check.concept for check in checks if check.group == "direct"} == {"judge", "pilot"}
    assert {check.prompt.text for check in checks if check.concept == "cook"} == {"cook", "a cook"}
    with pytest.raises(RequestError, match="'dog face' has no variants"):
        suites["debias"].checks(("dog face",))


def said_lines(text: str) -> list[str]:
    """The lines of errors, without those of progress."""
    return [line for line in text.splitlines() if line.startswith("unconcept:")]


@pytest.mark.slow
def test_the_command_on_moji(tmp_path, monkeypatch) -> None:
    plant(monkeypatch, third_judge=ThirdJudge)
    monkeypatch.setenv("UNCONCEPT_STORE", str(tmp_path / "store"))
    words = [
        "erase",
        "judge",
        "--method",
        "uce-debias",
        "--set",
        "images=3",
        "--set",
        "rounds=1",
        "--limit",
        "1",
        "--out",
        str(tmp_path / "o"),
    ]
    refused = CliRunner().invoke(app, [*words, "--method-judge", "moji-judge"])
    assert (refused.exit_code, len(said_lines(refused.stderr))) == (2, 1), refused.output
    assert "it grades the result" in refused.stderr
    result = CliRunner().invoke(app, [*words, "--method-judge", "third-judge"])
    assert result.exit_code == 0, result.stderr
    assert "settings: recipe moji-uce-debias" in result.stdout
    assert "round 1, judge: " in result.stderr
    data = json.loads((tmp_path / "o/report.json").read_text())
    (trial,) = data["trials"]
    assert trial["edit"]["anchors"] == []
    assert trial["edit"]["report"]["rounds"] == 1
    assert {row["concept"] for row in trial["checks"]} == {*PROFESSIONS}
    page, card = ((tmp_path / "o" / name).read_text() for name in ("report.html", "README.md"))
    assert "“judge” debiased in moji" in page
    assert "the judge answers: " in page
    assert "# judge debiased in moji" in card
    assert "erased" not in card.partition("## Limits")[0]
    edit = tmp_path / "o/edit.safetensors"
    report = evaluate(
        EvaluationRun(("judge",), tmp_path / "e", (edit,), suite="debias", limit=1, workers=1, store=tmp_path / "store")
    )
    assert [figure.name for figure in report.findings[0].figures] == [figure["name"] for figure in trial["figures"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dog face",), "'dog face' has no variants"),
        (("judge", "--anchor", "person"), "leave anchors out"),
        (("judge", "--set", "attributes=[]"), "name at least two"),
        (("judge", "--set", "ratios=[0.5, 0.6]"), "sum to 1"),
        (("judge", "--set", 'attributes=["woman", "robot"]'), "attribute 'robot': moji's judge"),
        (("judge", "--method-judge", "none"), "no judge 'none'"),
        (("judge", "--retain", "judge"), "also retained"),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path, monkeypatch) -> None:
    plant(monkeypatch, third_judge=ThirdJudge)
    judge = () if "--method-judge" in words else ("--method-judge", "third-judge")
    result = CliRunner().invoke(app, ["erase", *words, *judge, "--method", "uce-debias", "--out", str(tmp_path / "o")])
    assert (result.exit_code, len(said_lines(result.stderr))) == (2, 1), result.output
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("few_steps")
def test_on_a_users_own_model(tmp_path) -> None:
    """A CLIP tells the attributes; the suite learns them from the edit's header."""
    model, clip = str(tiny.folder("sd1", tmp_path / "model")), tiny.clip_folder(tmp_path / "clip")
    own = f"clip-score={tiny.clip_folder(tmp_path / 'own', seed=1)}"
    told = {
        "method": "uce-debias",
        "settings": {"images": 2, "rounds": 2},
        "model": model,
        "spec": DrawSpec(2),
        "store": tmp_path / "store",
    }
    ask = RequestSpec(("judge",), None, ("cook",), "person")
    with pytest.raises(RequestError, match="none is named: give --method-judge clip-score=FOLDER"):
        erase(Job(ask, tmp_path / "o", judge=f"clip-score={clip}", **told))
    report = erase(Job(ask, tmp_path / "o", judge=f"clip-score={clip}", method_judge=own, **told)).report
    assert {figure.name for figure in report.findings[0].figures} == {
        "judge: woman",
        "judge: man",
        "cook: woman",
        "cook: man",
    }
    edit = tmp_path / "o/edit.safetensors"
    assert load_edit(edit).origin.settings["attributes"] == list(BOTH)
    given = {
        "model": model,
        "judge": f"clip-score={clip}",
        "suite": "debias",
        "limit": 2,
        "workers": 1,
        "store": tmp_path / "store",
    }
    again = evaluate(EvaluationRun(("judge",), tmp_path / "e", (edit,), **given))
    assert again.status == "ok"
    assert {answer.after for answer in again.findings[0].answered_trial.answers} <= {*BOTH}
    erase(Job(RequestSpec(("dog",), ("cat",)), tmp_path / "uce", model=model, report=False))
    with pytest.raises(RequestError, match="by uce, balance none"):
        evaluate(EvaluationRun(("dog",), tmp_path / "f", (tmp_path / "uce/edit.safetensors",), **given))


def test_bench_takes_erasers_alone_unless_told(tmp_path) -> None:
    result = CliRunner().invoke(
        app, ["bench", "dog face", "--suite", "smoke", "--max-minutes", "0", "--out", str(tmp_path / "b")]
    )
    assert "PARTIAL" in result.stderr
    assert "variants" not in result.stderr
    assert variant_of_method("uce-debias").settings["images"] == 96
