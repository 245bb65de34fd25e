"""How a method is trained, as a user types it: options of any training, trainings that are stopped, and what is refused
in one line.
"""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from tests import tiny
from unconcept.cli import app
from unconcept.core import Request
from unconcept.edits import load_edit
from unconcept.erasing import make_edit as editing
from unconcept.methods import methods
from unconcept.training import TrainingSession

RUN = CliRunner()
SHORT = ("--no-report", "--set", "ddim_steps=2", "--set", "iterations=6", "--set", "pool=2")
ALL = ("--mixed-precision", "bf16", "--checkpointing", "--random-erasing", 0.5, "--dom", 0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.folder("sd1", tmp_path_factory.mktemp("model") / "tiny")


def erase(*words: object):
    return RUN.invoke(app, ["erase", "dog", *(str(word) for word in words)])


def one_line(result, code: int, said: str) -> None:
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("unconcept:")]
    assert len(lines) == 1
    assert said in lines[0]


def test_flags_and_recipes_say_how_to_train(model, tmp_path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'method = "esd"\nsource = "a test"\n[settings]\nddim_steps = 2\niterations = 6\n[training]\nmixed_precision ='
        ' "bf16"\nsh = 0.3\n'
    )
    for name, words in {
        "flags": ("--method", "esd", *SHORT, *ALL),
        "recipe": ("--recipe", recipe, "--no-report", "--dom", 0.2),
    }.items():
        result = erase("--model", model, *words, "--out", tmp_path / name)
        assert result.exit_code == 0, result.stderr
    told = {name: json.loads((tmp_path / name / "run.json").read_text())["training"] for name in ("flags", "recipe")}
    assert told["flags"] == {"mixed_precision": "bf16", "checkpointing": True, "random_erasing": 0.5, "dom": 0.1}
    assert told["recipe"] == {"mixed_precision": "bf16", "sh": 0.3, "dom": 0.2}
    rows = json.loads(RUN.invoke(app, ["explain", str(recipe), "dog", "--json"]).stdout)["rows"]
    found = {row["name"]: (row["value"], row["layer"]) for row in rows if row["part"] == "training"}
    assert found["mixed_precision"] == ("bf16", "recipe")
    assert found["random_erasing"] == (0.0, "default")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "esd", "--mixed-precision", "half"), "'no', 'bf16' or 'fp16'"),
        (("--method", "esd", "--mixed-precision", "fp16", *SHORT), "needs a GPU"),
        (("--method", "esd", "--random-erasing", 1.5), "0 to 1, got 1.5"),
        (("--method", "esd", "--dom", -1), "dom must be >= 0"),
        (
            ("--method", "rece", "--checkpointing"),
            "checkpointing: only for trained methods, and rece is closed-form",
        ),
        (("--method", "esd", "--retain", " Dog"), "target 'dog' is also retained"),
        (("--method", "esd", "--device", "cuda"), "device 'cuda' does not exist"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(words, said, model, tmp_path) -> None:
    one_line(erase("--model", model, *words, "--out", tmp_path / "o"), 2, said)
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_training_that_is_none_are_refused(model, tmp_path) -> None:
    """Before anything is looked for: SLUG takes a single gradient, and the CLIP that it needs is not named."""
    told = "dom: only for trained methods, and slug is one-step: leave it out"
    one_line(
        erase(
            "--model",
            model,
            "--method",
            "slug",
            "--retain",
            "cat",
            "--no-report",
            "--dom",
            0.1,
            "--out",
            tmp_path / "o",
        ),
        2,
        told,
    )


@pytest.fixture
def stopped(model, tmp_path, monkeypatch):
    """A training that is interrupted after two of its six steps, its state kept after each; what was typed."""
    words = ("--model", model, "--method", "esd", *SHORT, "--out", tmp_path / "o")

    def breaking(tell, folder, **more):
        def told(progress):
            tell(progress)
            if progress.done == 2:
                raise KeyboardInterrupt

        return TrainingSession(told, folder, seconds=0.0, **more)

    with monkeypatch.context() as patched:
        patched.setattr(editing, "TrainingSession", breaking)
        assert erase(*words).exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == [".o.training"]
    return words


def test_the_same_command_goes_on(stopped, model, tmp_path) -> None:
    result = erase(*stopped)
    assert result.exit_code == 0, result.stderr
    assert erase(*stopped[:-1], tmp_path / "whole").exit_code == 0
    assert (
        load_edit(tmp_path / "o" / "edit.safetensors").hash == load_edit(tmp_path / "whole" / "edit.safetensors").hash
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o", "whole"]


@pytest.mark.parametrize("changed", ["settings", "options", "request", "base"])
def test_another_command_is_refused_and_the_state_stays(changed, stopped, tmp_path) -> None:
    more = {"settings": ("--set", "lr=1e-4"), "options": ("--dom", 0.1), "request": ("cat",), "base": ()}[changed]
    if changed == "base":
        tiny.pipeline("sd1", seed=1).save_pretrained(tmp_path / "other")
        more = ("--model", tmp_path / "other")
    state = tmp_path / ".o.training" / "esd.safetensors"
    before = state.read_bytes()
    one_line(
        erase(*stopped, *more),
        2,
        f"the training saved in {state} was begun with other settings, another model or other data: delete",
    )
    assert state.read_bytes() == before
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("method", ["spm", "receler"])
def test_adapters_begin_alike_on_every_base_and_know_it(method, model, tmp_path) -> None:
    other = tmp_path / "other"
    tiny.pipeline("sd1", seed=1).save_pretrained(other)
    own = {"spm": ("max_denoising_steps=2", "lr_warmup_steps=0"), "receler": ("ddim_steps=2", "advrs_iters=0")}[method]
    words = (
        "--method",
        method,
        "--no-report",
        "--set",
        "iterations=2",
        *(word for text in own for word in ("--set", text)),
        "--out",
        tmp_path / "o",
    )
    state = tmp_path / ".o.training"
    settings = {
        "spm": {"max_denoising_steps": 2, "lr_warmup_steps": 0},
        "receler": {"ddim_steps": 2, "advrs_iters": 0},
    }[method]
    with editing.train_in_folder(state, lambda what, done, of: None):
        methods[method].settings(iterations=2, **settings).erase(
            tiny.view("sd1", torch.float32, seed=1), Request(("dog",), ("",))
        )
    one_line(erase("--model", model, *words), 2, "another model or other data")


def test_a_loss_that_is_no_number_says_what_to_do_and_where_the_state_is(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(editing, "TrainingSession", partial(TrainingSession, seconds=0.0))
    result = erase("--model", model, "--method", "esd", *SHORT, "--set", "lr=1e30", "--out", tmp_path / "o")
    one_line(result, 1, "step 1 of 6: the loss became nan: use a smaller lr")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [("training", "out of memory: lower batch_size or pool"), ("elsewhere", "out of memory: lower --batch-size")],
)
def test_out_of_memory_says_what_to_lower(error, said, model, tmp_path, monkeypatch) -> None:
    """As torch words it on a CPU; on a GPU its class is one of its own, and its words are known as well."""

    def full(*given):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
            " allocate 9 bytes."
        )

    monkeypatch.setattr(
        "unconcept.methods.esd.goal_predictions" if error == "training" else "unconcept.methods.esd.TrainableWeights",
        full,
    )
    one_line(erase("--model", model, "--method", "esd", *SHORT, "--out", tmp_path / "o"), 1, said)
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_two_processes_write_one_edit(model, tmp_path) -> None:
    """Over gloo, as `accelerate launch --cpu --num_processes 2` would run it."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29519",
        "-m",
        "unconcept",
    ]
    words = ["erase", "dog", "--model", str(model), "--method", "esd", *map(str, SHORT), "--out", str(tmp_path / "o")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *words], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    edit = load_edit(tmp_path / "o" / "edit.safetensors")
    assert edit.origin.report["steps"] == 6
    assert erase("--model", model, "--method", "esd", *SHORT, "--out", tmp_path / "alone").exit_code == 0
    assert edit.hash != load_edit(tmp_path / "alone" / "edit.safetensors").hash
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "o"]
