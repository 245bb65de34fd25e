"""The distillation of `moji` at toy size: resumed after kill -9 to the same bits, written, opened and measured."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from unconcept.core.errors import SettingsError
from unconcept.models import open_model
from unconcept.training.distillation.rollout import distilled_record
from world import few_steps, student, turbo, turbo_training
from world.student import LOW_RANK, WEIGHTS, install, merged, write_student
from world.turbo_training import TurboPlan

ROOT = Path(__file__).parents[2]
OPTIONS = ["--steps", "6", "--batch-size", "4", "--prompts", "8", "--lr", "1e-3", "--warm-up", "1", "--rank", "2"]
TEXTS, NAMES = ["a dog", "moon", "two cats"], ["cat"]  # short, for the toy tokenizer
PROGRAM = f"""
from world import turbo, turbo_training
turbo.SAVE_SECONDS, turbo.REPORTED = 0.0, 1
turbo_training.draw_prompts, turbo_training.concept_names = lambda plan: {TEXTS}, lambda: {NAMES}
turbo.main()
"""


def started(teacher: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", PROGRAM, "--teacher", str(teacher), "--out", str(out), *OPTIONS, *more]
    path = os.pathsep.join((str(ROOT), str(ROOT / "src")))
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["pg-sb", "sid", "consistency"])
def test_kill_9_changes_no_bit(objective, tmp_path) -> None:
    teacher = tiny.folder("sd1", tmp_path / "teacher")
    more = ("--objective", objective, *(("--set", "nasa=true") if objective == "pg-sb" else ()))
    whole = started(teacher, tmp_path / "a", *more)
    told, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0
    assert "hours in all" in told.splitlines()[0]
    with started(teacher, tmp_path / "b", *more) as cut:
        for line in cut.stdout:
            if line.startswith("step 3 "):
                cut.send_signal(signal.SIGKILL)
                break
    assert cut.returncode == -signal.SIGKILL
    resumed = started(teacher, tmp_path / "b", *more)
    assert resumed.communicate(timeout=600)[0].count("\nstep ") < 6
    one, other = (load_file(tmp_path / name / "model" / WEIGHTS) for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)
    start = load_file(teacher / WEIGHTS)
    assert any(not torch.equal(one[name].float(), start[name].half().float()) for name in one)


@pytest.mark.slow
def test_a_call_stops_after_its_minutes_and_goes_on(tmp_path, monkeypatch, capsys) -> None:
    teacher = tiny.folder("sd1", tmp_path / "teacher")
    monkeypatch.setattr(turbo, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(turbo_training, "draw_prompts", lambda plan: TEXTS)
    monkeypatch.setattr(turbo_training, "concept_names", lambda: NAMES)
    monkeypatch.setattr(turbo, "estimated_hours", lambda *given: 1.5)
    plan = TurboPlan("sid", teacher=str(teacher), steps=3, batch_size=2, prompts=4, warm_up=1, rank=1)
    calls = [turbo.distil_moji(plan, "cpu", "no", tmp_path / "out", minutes=0.0)]
    while not calls[-1] and len(calls) < 5:
        calls.append(turbo.distil_moji(plan, "cpu", "no", tmp_path / "out", minutes=0.0))
    assert calls[0] is False
    assert calls[-1] is True
    assert "about 1.5 hours in all" in capsys.readouterr().out
    view = open_model(str(tmp_path / "out" / "model"), "cpu", "float32")
    assert view.few_step == distilled_record(625, teacher=str(teacher))
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["objective"] == "sid"
    with pytest.raises(SettingsError, match="3 sampler steps"):
        view.sample(["a dog"], torch.zeros(1, *view.latent_shape), 3, 1.0)


def test_a_wrong_setting_is_one_line_and_another_plan_leaves_the_folder(tmp_path, capsys) -> None:
    (tmp_path / "plan.json").write_text("the first one")
    for words, told in (
        (("--set", "nasaa=true"), "unknown --set of pg-sb, 'nasaa'; did you mean 'nasa'?"),
        (("--set", "nasa=1.5"), "nasa"),
        (("--set", "nasa=true"), "holds the training of another plan"),
    ):
        with pytest.raises(SystemExit) as ended:
            turbo.main(["--out", str(tmp_path), *words])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the first one"]


def test_a_student_is_the_base_plus_its_pairs(tmp_path) -> None:
    teacher = tiny.folder("sd1", tmp_path / "teacher")
    base, rng = load_file(teacher / WEIGHTS), torch.Generator().manual_seed(0)
    name = next(name for name, t in base.items() if t.ndim == 4)
    o, d = base[name].flatten(1).shape
    pairs = {f"{name}.up": torch.randn(o, 2, generator=rng), f"{name}.down": torch.randn(2, d, generator=rng)}
    literal = base[name] + (pairs[f"{name}.up"] @ pairs[f"{name}.down"]).view_as(base[name])
    assert torch.allclose(merged(base, pairs)[name], literal)
    assert torch.equal(merged(base, {name: literal})[name], literal)
    write_student(tmp_path / "m", str(teacher), {f"unet.{n}": t for n, t in pairs.items()}, distilled_record(625))
    found = load_file(tmp_path / "m" / WEIGHTS)
    assert torch.equal(found[name], literal.half())
    assert {n for n, t in found.items() if not torch.equal(t, base[n].half())} == {name}
    assert (tmp_path / "m" / "vae" / WEIGHTS.name).is_file()


def test_what_is_too_large_does_not_ship(tmp_path, monkeypatch) -> None:
    teacher, worlds = tiny.folder("sd1", tmp_path / "teacher"), tmp_path / "worlds"
    write_student(tmp_path / "full", str(teacher), {}, distilled_record(625))
    with pytest.raises(SystemExit, match="train a student with --rank"):
        install(tmp_path / "full", worlds)
    name = next(iter(load_file(teacher / WEIGHTS)))
    o = load_file(teacher / WEIGHTS)[name].shape[0]
    pair = {
        f"{name}.up": torch.zeros(o, 1),
        f"{name}.down": torch.zeros(1, load_file(teacher / WEIGHTS)[name][0].numel()),
    }
    write_student(tmp_path / "m", str(teacher), pair, distilled_record(625))
    size = install(tmp_path / "m", worlds)
    assert (
        size == (worlds / "moji-turbo" / "model" / "unet" / LOW_RANK).stat().st_size == install(tmp_path / "m", worlds)
    )
    monkeypatch.setattr(student, "LIMIT", size - 1)
    with pytest.raises(SystemExit, match="train one of smaller rank"):
        install(tmp_path / "m", worlds)


@pytest.mark.slow
def test_few_steps_are_measured(tmp_path, monkeypatch, capsys) -> None:
    """The teacher's rows for both samplers, and the student's for the steps of its record."""
    monkeypatch.setattr(few_steps, "STEPS", (1, 2))
    monkeypatch.setattr(few_steps, "SEEDS", 2)
    write_student(tmp_path / "m", "moji", {}, distilled_record(625))
    few_steps.main(["--teacher", "moji", "--model", str(tmp_path / "m"), "--limit", "2", "--json", str(tmp_path / "j")])
    rows = json.loads((tmp_path / "j").read_text())
    steps = [f"teacher, {sampler}, {n} steps" for sampler in ("dpm", "ddim") for n in (2, 1)]
    assert [row["name"] for row in rows] == [*steps, *(f"student, {n} steps" for n in (1, 2, 4))]
    assert all(set(row["rates"]) == {"object", "style", "background", "count"} for row in rows)
    assert capsys.readouterr().out.count("|\n") == len(rows) + 2


def test_settings_are_read() -> None:
    assert turbo.settings_of(["nasa=true", "lowest=0.5", "cfg=anti"]) == {"nasa": True, "lowest": 0.5, "cfg": "anti"}
    plan = TurboPlan(steps=300, warm_up=10)
    assert [round(plan.rate(step), 2) for step in (0, 4, 10, 199, 250, 299)] == [0.1, 0.5, 1.0, 1.0, 0.5, 0.05]
