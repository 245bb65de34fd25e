"""Figures that every closed-form edit carries, against their definitions."""

import json

import jsonschema
import pytest
import torch

from tests import tiny
from unconcept.core.request import RequestSpec
from unconcept.erasing.make_edit import make_edit
from unconcept.erasing.request_defaults import resolve_request
from unconcept.linalg.cholesky import stable_cholesky
from unconcept.linalg.conditions import condition_figure
from unconcept.linalg.low_rank import numerical_rank
from unconcept.methods import methods
from unconcept.report.data import ReportData

SCHEMA = ReportData.model_json_schema()
CLOSED_PART = {"mace": {"max_train_steps": 0}}  # of a method that also trains
CLOSED = ("uce", "speed", "rece", "mace", "trce", "realera")
ASK = RequestSpec(("dog face", "car"), ("goat", "sky"), ("cat", "moon"))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [name for name in CLOSED if name in methods])
@torch.no_grad()
def test_every_closed_form_edit_says_what_it_does(name, tmp_path) -> None:
    """Residual of each target and drift by their literal definition; rank of the largest layer; in the file's header
    and as the schema says.
    """
    view = tiny.view("sd1")
    request = resolve_request(ASK, "tiny").request
    edit = make_edit(view, resolve_request(ASK, "tiny"), name, CLOSED_PART.get(name, {}))
    report = edit.origin.report
    assert {"residual", "drift", "rank", "condition", "parameters", "relative_norm"} <= set(report)
    before = {map_: view.text_maps()[map_] for map_ in edit.names}
    after = {map_: w + edit.delta(map_, w) for map_, w in before.items()}
    worst = 0.0
    for target, anchor in zip(request.targets, request.anchors, strict=True):
        c, a = view.embed([target])[0], view.embed([anchor])[0]
        left = sum(float(((after[n] @ c - before[n] @ a) ** 2).sum()) for n in before)
        gap = sum(float(((before[n] @ c - before[n] @ a) ** 2).sum()) for n in before)
        assert report[f"residual of {target}"] == pytest.approx((left / gap) ** 0.5, rel=1e-3)
        worst = max(worst, (left / gap) ** 0.5)
    assert report["residual"] == pytest.approx(worst, rel=1e-3)
    moved = []
    for text in request.retain:
        p = view.embed([text])[0]
        change = sum(float(((after[n] @ p - before[n] @ p) ** 2).sum()) for n in before)
        moved.append((change / sum(float(((before[n] @ p) ** 2).sum()) for n in before)) ** 0.5)
    assert report["drift"] == pytest.approx(max(moved), rel=1e-3, abs=1e-6)
    assert report["condition"] >= 1
    assert report["parameters"] == edit.parameters
    edit.save(tmp_path / "e.safetensors")
    size = int.from_bytes((tmp_path / "e.safetensors").read_bytes()[:8], "little")
    header = json.loads(json.loads((tmp_path / "e.safetensors").read_bytes()[8 : 8 + size])["__metadata__"]["origin"])
    assert header["report"] == report
    jsonschema.validate(
        report,
        next(
            part["properties"]["report"] for part in SCHEMA["$defs"].values() if "report" in part.get("properties", {})
        ),
    )


def test_both_rows_of_sd3_count_for_their_target() -> None:
    view = tiny.view("sd3")
    report = make_edit(view, resolve_request(ASK, "tiny"), "uce", {}).origin.report
    assert report["residual"] == max(report["residual of dog face"], report["residual of car"]) > 0


@pytest.mark.parametrize("size", [5, 300])
def test_rank_is_that_of_the_product(size) -> None:
    """Few rows and many, with copies and a direction that is rounding."""
    up, down = random(400, size), random(size, 320, seed=1)
    assert numerical_rank(up, down) == min(size, 320)
    up[:, 1] = up[:, 0]
    down[1] = down[0]
    down[2] *= 1e-9
    wanted = int(torch.linalg.matrix_rank(up @ down, rtol=1e-6))
    assert numerical_rank(up, down) == wanted < min(size, 320) + 1
    assert numerical_rank(torch.zeros(4, size), down) == 0


def test_condition_is_lapacks_estimate_within_a_factor() -> None:
    """Against the eigenvalues: the 1-norm's and the 2-norm's differ by at most the dimension."""
    rows = random(40, 30) * torch.logspace(0, 4, 30, dtype=torch.float64)
    a = rows.T @ rows
    values, found = torch.linalg.eigvalsh(a), stable_cholesky(a).condition
    assert stable_cholesky(torch.eye(3, dtype=torch.float64)).condition == pytest.approx(1)
    assert float(values[-1] / values[0]) / 30 < found < 30 * float(values[-1] / values[0])
    assert condition_figure(2.0, found) == {"condition": found}
    assert condition_figure(2.0, float("inf")) == {}
