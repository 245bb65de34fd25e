"""An edit that breaks the model is told as that: by the norms of its weights, and by its pictures."""

import re

import pytest
import torch

from tests import tiny
from tests.cli.test_cli import run
from tests.evaluation.test_harness import pizza as pizza
from tests.methods.planted import planted_services
from tests.methods.quick import QUICK
from tests.methods.test_contract import chosen
from tests.methods.test_rece import edited, literal
from unconcept.core.request import Request, RequestSpec, merge_requests
from unconcept.edits import DenseEdit, EditOrigin
from unconcept.erasing.edit_notes import edit_notes
from unconcept.erasing.failure_checks import (
    MAX_NORM_JUMP,
    PROMISE_CHECKS,
    is_blank,
    is_noise,
    picture_failures,
    weight_failures,
)
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import ResolvedRequest, resolve_request
from unconcept.evaluation.tasks import draw as drawing
from unconcept.jobs.evaluate import evaluate
from unconcept.jobs.evaluate_job import EvaluationRun
from unconcept.methods import methods
from unconcept.methods.rece import RECE
from unconcept.prompts.checks import Prompt

CHOSEN = resolve_request(RequestSpec(("dog",), ("cat",), ("cow",)), "tiny")


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MMDITS])
@torch.no_grad()
def test_norm_jump_is_of_the_matrix_that_changes_most(family) -> None:
    view = tiny.shared(family)
    edit = make_edit(view, CHOSEN, "uce", {}).scaled(3.0)
    ratios = [float((w + edit.delta(name, w)).norm() / w.norm()) for name, w in view.reference(edit.names).items()]
    wanted = max(ratios, key=lambda ratio: max(ratio, 1 / ratio))
    assert edit.effect(view, CHOSEN.request)["norm_jump"] == pytest.approx(wanted, rel=1e-5)


def test_norm_jump_sees_what_vanishes_and_passes_over_biases() -> None:
    view = tiny.shared("sd1")
    own = view.reference(["unet.conv_in.weight", "unet.conv_in.bias"])
    edit = DenseEdit(
        {"unet.conv_in.weight": -0.99 * own["unet.conv_in.weight"], "unet.conv_in.bias": 100 * own["unet.conv_in.bias"]}
    )
    assert edit.effect(view, CHOSEN.request)["norm_jump"] == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("jump", "said"),
    [
        (1.0, False),
        (MAX_NORM_JUMP * 0.99, False),
        (MAX_NORM_JUMP * 1.01, True),
        (0.99 / MAX_NORM_JUMP, True),
        (1.01 / MAX_NORM_JUMP, False),
    ],
)
def test_a_jump_is_told_whatever_the_residual_says(jump, said) -> None:
    report = {"relative_norm": 0.5, "residual": 300.0 if said else 0.1, "norm_jump": jump}
    origin = EditOrigin("hand", {}, ("dog",), ("cat",), (), "object", "sd1", "tiny", "0" * 64, "0", report)
    failures = weight_failures(DenseEdit({"unet.conv_in.weight": torch.ones(1, 1)}, origin=origin), 1.0)
    assert [failure.startswith("collapse: the norm of a weight matrix became ") for failure in failures] == [
        True
    ] * said


BROKEN = {  # figures that break each promise, and what is then said
    "changes": ({"relative_norm": 0.0}, "changes no weight"),
    "moves-targets": ({"moved": 0.001}, "still reads a target as before"),
    "nears-anchors": ({"residual": 1.2}, "no nearer to its anchor"),
    "leaves-vision-tower": ({"forget_accuracy": 0.5}, "recognises the target in 50%"),
}


@pytest.mark.parametrize("name", list(methods))
def test_a_guard_tests_what_the_method_promises(name) -> None:
    """And nothing else: RECE, for one, makes the derived embeddings read as the anchor, not the target's own."""
    assert set(BROKEN) == set(PROMISE_CHECKS)
    for promise, (figures, said) in BROKEN.items():
        origin = EditOrigin(name, {}, ("dog",), ("cat",), (), "object", "sd1", "tiny", "0" * 64, "0", figures)
        edit = DenseEdit({"unet.conv_in.weight": torch.ones(1, 1)}, origin=origin)
        failures = weight_failures(edit, 1.0)
        assert len(failures) == (promise in methods[name].promises)
        assert all(said in failure for failure in failures)
        assert weight_failures(edit, 0.0) == []


FIGURES = {"changes": "relative_norm", "moves-targets": "moved", "nears-anchors": "residual"}


@pytest.mark.parametrize("name", [name for name in methods if methods[name].mechanism in ("closed-form", "steering")])
def test_a_promise_has_a_figure_that_can_break_it(name) -> None:
    view = tiny.view("sd1", torch.float32)
    edit = make_edit(view, chosen(name), name, QUICK.get(name, {}), planted_services(view))
    told = {FIGURES[promise] for promise in methods[name].promises if promise != "changes"}
    assert told <= set(edit.origin.report)
    assert weight_failures(edit, 1.0) == []


def test_rece_that_equals_its_oracle_passes() -> None:
    """After two rounds its edit is the authors', though no target is nearer to its anchor than before."""
    view, method = tiny.shared("sd1"), RECE(epochs=2)
    request = Request(("guitar",), ("piano",), ("cow", "wolf"))
    edit = make_edit(view, ResolvedRequest(request, (), {}), "rece", {"epochs": 2})
    found = edited(view, edit)
    with torch.no_grad():
        for name, w in literal(view, merge_requests([request]), method).items():
            assert torch.allclose(found[name], w, atol=1e-9, rtol=1e-7)
    assert edit.origin.report["residual"] > 0.99
    assert weight_failures(edit, 1.0) == []


def test_a_closed_form_that_blows_up_fails_and_keeps_what_was_made(tmp_path) -> None:
    """Rounds of RECE that nothing holds back; the same figures are printed."""
    out, wild = tmp_path / "o", ("--method", "rece", "--set", "lamb=1e-9", "--set", "epochs=9")
    result = run(
        "erase",
        "dog",
        "--anchor",
        "cat",
        "--retain",
        "cow",
        *wild,
        "--no-report",
        "--model",
        tiny.folder("sd1", tmp_path / "m"),
        "--out",
        out,
    )
    assert result.exit_code == 1
    assert "FAILED: collapse: the norm of a weight matrix became " in result.stderr
    assert "norm_jump" in result.stdout
    assert (out / "edit.safetensors").exists()


def test_blank_pictures_and_noise() -> None:
    noise, drawn = random(3, 32, 32), torch.linspace(0, 1, 32).outer(torch.linspace(0, 1, 32)).expand(3, -1, -1)
    blank, faint = torch.full((3, 32, 32), 0.4), 0.4 + 0.001 * noise
    assert [is_blank(picture) for picture in (noise, drawn, blank, faint)] == [False, False, True, True]
    assert [is_noise(picture) for picture in (noise, drawn, blank, faint)] == [True, False, False, False]


@pytest.mark.parametrize(("made", "what"), [(torch.full((3, 32, 32), 0.4), "blank"), (random(3, 32, 32), "noise")])
def test_pictures_that_became_degenerate(made, what) -> None:
    """Those that were so before do not count, and a quarter may be by chance."""
    drawn = torch.linspace(0, 1, 32).expand(3, 32, -1)

    def told(after: int, before: int = 0) -> list[str]:
        pairs = [(made if i < before else drawn, made if i < after else drawn) for i in range(8)]
        return picture_failures({Prompt(f"p{i}", i): pair for i, pair in enumerate(pairs)})

    assert told(3) == [f"collapse: 3 of 8 pictures are {what}, 0 before the edit"]
    assert told(2) == told(8, 8) == []


def test_an_evaluation_of_degenerate_pictures_is_whole_and_says_so(pizza, tmp_path, monkeypatch) -> None:
    """Nothing is missing: the same command would find the same, so no run is left to go on with."""

    def flat(task: drawing.DrawTask, store) -> None:
        for key in task.keys:
            store.save(
                key,
                torch.full((3, 64, 64), 0.4) if task.subject.edit_path else torch.linspace(0, 1, 64).expand(3, 64, -1),
            )

    monkeypatch.setattr(drawing.DrawTask, "run", flat)
    report = evaluate(
        EvaluationRun(("pizza",), tmp_path / "o", (pizza,), suite="smoke", limit=2, workers=1, store=tmp_path / "s")
    )
    assert (report.status, report.missing) == ("FAILED", 0)
    assert [line.partition(":")[2] for line in report.failures] == [
        " collapse: 16 of 16 pictures are blank, 0 before the edit"
    ]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "report.html",
        "report.json",
        "results.csv",
        "run.json",
    ]


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
@pytest.mark.parametrize(
    ("name", "subject"),
    [("uce", "pooled text"), ("mace", "pooled text"), ("esd", "unconditional"), ("slug", "nothing")],
)
def test_what_an_edit_of_sdxl_cannot_reach_is_said(family, name, subject) -> None:
    """SD 1.x reads no pooled text, and FLUX reads it through a map, which UCE edits and MACE leaves."""
    origin = EditOrigin(name, {}, ("dog",), ("cat",), (), "object", family, "tiny", "0" * 64, "0", {})
    notes = edit_notes(DenseEdit({"unet.conv_in.weight": torch.ones(1, 1)}, origin=origin), tiny.shared(family))
    told = (family == "sdxl" and subject != "nothing") or (name, family) == ("mace", "flux")
    assert list(notes) == ([subject] if told else [])
    assert all("\n" not in note and name in note for note in notes.values())


ON_SDXL = [name for name in methods if "sdxl" in methods[name].families and methods[name].does != "keep"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (methods[n].mechanism == "trained")) for n in ON_SDXL]
)
def test_what_a_method_leaves_of_sdxl_is_what_it_declares(name, monkeypatch) -> None:
    """An edit of text maps alone, not trained on the whole prediction, leaves the pooled text; a training of it that
    encodes the empty text had that in place of the pipeline's zeros; guidance is of the whole prediction.
    """
    view, texts = tiny.view("sdxl", torch.float32), []
    plain = view.condition
    monkeypatch.setattr(view, "condition", lambda given: texts.extend(list_of(given)) or plain(given))
    edit = methods[name].settings(**QUICK.get(name, {})).erase(view, chosen(name).request, planted_services(view))
    declared = methods[name].unreached
    if methods[name].mechanism == "trained" and name != "cpe":  # CPE trains on what its maps say, not on predictions.
        assert ("" in texts) == (declared == "unconditional")
    if methods[name].does == "keep" or methods[name].needs_guidance:
        assert declared == "nothing"
    elif methods[name].mechanism in ("closed-form", "steering") or name in ("mace", "cpe"):
        assert set(edit.names) <= set(view.text_maps())
        assert declared in ("pooled text", "any pooled text")
        said = " ".join(methods[name].settings.erase.__doc__.split())
        assert re.search(r"pooled text (of SDXL, SD3 and FLUX )?still names", said)


def list_of(given) -> list[object]:
    return list(given) if isinstance(given, list | tuple) else []
