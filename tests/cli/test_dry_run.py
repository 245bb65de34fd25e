"""`--dry-run` says what a command would do, writes nothing, and refuses what the command refuses."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import pytest
import typer.main
from huggingface_hub import constants
from PIL import Image

from tests import tiny
from tests.cli.test_cli import run
from tests.models.hub_server import serve_hub
from unconcept.cli import app

ERASE = ("erase", "dog", "--anchor", "cat", "--model", "MODEL")
JUDGED = ("--judge", "CLIP", "--limit", 1)
CASES = {  # of every command that writes or takes long, in a form that works, and in one that is refused
    "erase": ((*ERASE, *JUDGED, "--out", "OUT"), (*ERASE, "--set", "lamb=0", "--out", "OUT")),
    "apply": (("apply", "EDIT", "--out", "OUT"), ("apply", "EDIT", "--out", "TAKEN")),
    "export": (
        ("export", "EDIT", "--to", "kohya", "--out", "OUT.safetensors"),
        ("export", "EDIT", "--to", "single-file", "--rank", 3, "--out", "OUT.safetensors"),
    ),
    "import": (
        ("import", "LORA", "dog", "--anchor", "cat", "--model", "MODEL", "--out", "OUT.safetensors"),
        ("import", "EDIT", "dog", "--anchor", "cat", "--model", "MODEL", "--out", "OUT.safetensors"),
    ),
    "sample": (
        ("sample", "a dog", "--edit", "EDIT", "--steps", 2, "--out", "OUT"),
        ("sample", "a dog", "--edit", "EDIT", "--strength", -1, "--out", "OUT"),
    ),
    "invert": (
        ("invert", "PICTURE", "--edit", "EDIT", "--steps", 2, "--out", "OUT"),
        ("invert", "PICTURE", "--edit", "EDIT", "--by", "flow", "--out", "OUT"),
    ),
    "protect": (
        ("protect", "PICTURE", "--model", "MODEL", "--set", "iterations=30", "--out", "OUT"),
        ("protect", "PICTURE", "--model", "MODEL", "--budget", 0, "--out", "OUT"),
    ),
    "evaluate": (
        ("evaluate", "dog", "--edit", "EDIT", *JUDGED, "--out", "OUT"),
        ("evaluate", "dog", "--edit", "EDIT", "--judge", "nobody", "--out", "OUT"),
    ),
    "attack": (
        ("attack", "wordings", "dog", "--edit", "EDIT", *JUDGED, "--out", "OUT"),
        ("attack", "wordings", "dog", "--edit", "EDIT", "--out", "OUT"),
    ),
    "bench": (
        ("bench", "dog", "--methods", "uce", "--suite", "smoke", "--model", "MODEL", *JUDGED, "--out", "OUT"),
        ("bench", "dog", "--methods", "uce", "--model", "MODEL", "--spec", "nothing", "--out", "OUT"),
    ),
    "worst-case": (
        ("worst-case", "dog", "house", "--size", 1, "--random", 1, "--model", "MODEL", *JUDGED, "--out", "OUT"),
        ("worst-case", "dog", "house", "--size", 2, "--model", "MODEL", *JUDGED, "--out", "OUT"),
    ),
    "recheck": (
        ("recheck", "EDIT", "--model", "MODEL", "--pictures", 1, "--judge", "CLIP", "--out", "OUT"),
        ("recheck", "EDIT", "--model", "MODEL", "--judge", "CLIP"),
    ),
    "ledger init": (("ledger", "init", "OUT", "--model", "MODEL"), ("ledger", "init", "LEDGER", "--model", "MODEL")),
    "ledger add": (
        ("ledger", "add", "LEDGER", "house", "--anchor", "tree"),
        ("ledger", "add", "LEDGER", "house", "--anchor", "tree", "--set", "lamb=2"),
    ),
    "ledger revoke": (("ledger", "revoke", "LEDGER", "KEPT"), ("ledger", "revoke", "LEDGER", "GONE")),
    "ledger forget": (("ledger", "forget", "LEDGER", 2), ("ledger", "forget", "LEDGER", 1)),
    "ledger repair": (("ledger", "repair", "LEDGER"), ("ledger", "repair", "TAKEN")),
    "ledger materialize": (
        ("ledger", "materialize", "LEDGER", "--checkpoint", "--out", "OUT"),
        ("ledger", "materialize", "LEDGER", "--out", "TAKEN"),
    ),
    "ledger status": (("ledger", "status", "LEDGER", "--html", "OUT.html"), ("ledger", "status", "TAKEN")),
    "ledger drift": (("ledger", "drift", "LEDGER", "--history"), ("ledger", "drift", "LEDGER", "--model", "nowhere")),
    "ledger verify": (
        ("ledger", "verify", "LEDGER"),
        ("ledger", "verify", "LEDGER", "--card", "MODEL/model_index.json"),
    ),
    "ledger audit": (("ledger", "audit", "MOJI", "--pictures", 2, "--steps", 2), ("ledger", "audit", "LEDGER", "GONE")),
    "ledger diff": (("ledger", "diff", "LEDGER", "LEDGER"), ("ledger", "diff", "LEDGER", "TAKEN")),
}
SLOW = {
    "evaluate",
    "bench",
    "attack",
    "worst-case",
    "invert",
    "protect",
    *(f"ledger {name}" for name in ("audit", "drift", "status", "verify")),
}
# They print what is known at once, or read texts.
QUICK = {"explain", "methods", "attacks", "protections", "scorers", "suites", "specs", "recipes"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> dict[str, object]:
    """A model, an edit, a LoRA, a judge, two ledgers, a folder of somebody else, and nothing at OUT."""
    root = tmp_path_factory.mktemp("planned")
    model, edit, lora = tiny.folder("sd1", root / "m"), root / "e/edit.safetensors", root / "l.safetensors"
    (root / "taken").mkdir()
    (root / "taken/notes.txt").write_text("mine")
    (root / "tmp").mkdir()
    own, moji = root / "own", root / "moji"
    asked = ("ledger", "add", own)
    for words in (
        (*ERASE[:-1], model, "--no-report", "--quiet", "--out", edit.parent),
        ("export", edit, "--to", "kohya", "--out", lora),
        ("ledger", "init", own, "--model", model),
        (*asked, "dog", "--anchor", "cat"),
        (*asked, "car", "--anchor", "bus"),
    ):
        assert (result := run(*words)).exit_code == 0, result.output
    told = {one["id"]: one["concepts"] for one in json.loads(run("ledger", "status", own, "--json").stdout)["requests"]}
    kept, gone = sorted(told, key=lambda id_: told[id_] == ["car"])
    assert run("ledger", "revoke", own, gone).exit_code == 0
    picture = root / "p.png"
    Image.new("RGB", (16, 16), "red").save(picture)
    found = {
        "PICTURE": picture,
        "MODEL": model,
        "EDIT": edit,
        "LORA": lora,
        "LEDGER": own,
        "MOJI": moji,
        "TAKEN": root / "taken",
    }
    clip = tiny.clip_folder(root / "clip")
    return {**found, "CLIP": f"clip-score={clip}", "KEPT": kept, "GONE": gone, "OUT": root / "out", "root": root}


@pytest.fixture(autouse=True)
def own_places(place, monkeypatch) -> None:
    """Store, cache and temporary files are below the same folder, so that nothing is written elsewhere unseen."""
    root = place["root"]
    monkeypatch.setenv("UNCONCEPT_STORE", str(root / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(root / "tmp"))
    monkeypatch.chdir(root / "tmp")


def words_of(words: tuple, place: dict[str, object]) -> list[str]:
    found = []
    for word in map(str, words):
        head, dot, rest = word.partition("." if word.startswith("OUT") else "/")
        found.append(f"{place[head]}{dot}{rest}" if head in place else word)
    return found


def content(root: Path) -> dict[str, str]:
    """Every file and folder, with the hash of its bytes; locks and hidden files too."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(root.rglob("*"))
    }


def commands() -> dict[str, set[str]]:
    """The flags of every command, by its name."""
    group = typer.main.get_command(app)
    found = dict(group.commands)
    found |= {f"ledger {name}": one for name, one in found.pop("ledger").commands.items()}
    return {name: {flag for one in command.params for flag in one.opts} for name, command in found.items()}


def test_every_command_that_writes_or_takes_long_has_a_plan() -> None:
    found = commands()
    assert {name for name, flags in found.items() if "--dry-run" in flags} == set(CASES)
    assert found.keys() - set(CASES) == QUICK


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_a_plan_writes_nothing(name, place) -> None:
    if name == "ledger audit":  # Its judge knows no other model.
        for words in (("init", place["MOJI"]), ("add", place["MOJI"], "guitar")):
            assert run("ledger", *words).exit_code == 0
    before = content(place["root"])
    result = run(*words_of(CASES[name][0], place), "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert content(place["root"]) == before
    lines = result.stdout.strip().splitlines()
    assert any(line.startswith("1. ") for line in lines)
    assert lines[-1].startswith("cost: about ")
    if "OUT" in str(CASES[name][0]):
        assert any(f"would write {place['OUT']}" in line for line in lines)


@pytest.mark.parametrize("name", CASES)
def test_a_plan_refuses_what_the_command_refuses(name, place) -> None:
    """By the same line; the command itself leaves nothing either."""
    before, words = content(place["root"]), words_of(CASES[name][1], place)
    planned = run(*words, "--dry-run")
    assert planned.exit_code == 2, planned.output
    assert content(place["root"]) == before
    real = run(*words)
    assert (real.exit_code, real.stderr) == (planned.exit_code, planned.stderr)
    shutil.rmtree(place["root"] / "store", ignore_errors=True)


def planned(place, *words: object) -> dict:
    result = run(*words_of(words, place), "--dry-run", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def step_of(plan: dict, start: str) -> dict:
    (found,) = [step for step in plan["steps"] if step["what"].startswith(start)]
    return found


@pytest.mark.parametrize(
    ("targets", "steps"),
    [pytest.param(1, 10, marks=pytest.mark.slow), pytest.param(4, 10, marks=pytest.mark.slow), (8, 20)],
)
def test_a_training_grows_with_its_targets(targets, steps, place) -> None:
    """By the rule of `training/budget.py`."""
    names = [f"dog{number}" for number in range(targets)]
    words = ("erase", *names, *ERASE[2:], "--method", "esd", "--set", "iterations=10", "--set", "ddim_steps=2")
    plan = planned(place, *words, "--no-report", "--out", "OUT")
    assert step_of(plan, "make the edit")["what"] == f"make the edit with esd: {steps} steps of training"
    assert plan["seconds"] == pytest.approx(sum(step["seconds"] for step in plan["steps"]))
    assert [Path(file["path"]).name for file in plan["files"]] == ["edit.safetensors", "run.json"]


@pytest.mark.slow
def test_pictures_of_a_plan_are_those_of_the_run(place, tmp_path) -> None:
    """Drawn, judged and written; what is in the store is not drawn again."""
    out = tmp_path / "o"
    words = (*ERASE, *JUDGED, "--out", out)
    plan = planned(place, *words)
    assert run(*words_of(words, place), "--quiet").exit_code == 0
    store = place["root"] / "store"
    drawn = len(list(store.rglob("*.png")))
    assert step_of(plan, "draw ")["what"] == f"draw {drawn} pictures in 20 steps"
    sizes = {file["path"]: file["bytes"] for file in plan["files"]}
    real = (out / "edit.safetensors").stat().st_size
    assert sizes[str(out / "edit.safetensors")] == pytest.approx(real, rel=0.5)
    assert {Path(name).name for name in sizes} == {path.name for path in out.iterdir()} | {"pictures"}
    shutil.rmtree(out)
    assert step_of(planned(place, *words), "draw ")["what"].endswith(f"; {drawn} more are in the store")
    shutil.rmtree(store)


@pytest.mark.slow
def test_a_bench_plans_each_edit(place) -> None:
    words = ("bench", "dog", "car", "--methods", "uce,rece", "--suite", "smoke", "--model", "MODEL", *JUDGED)
    plan = planned(place, *words, "--out", "OUT")
    assert plan["facts"]["edits"] == "0 given, 4 to make"
    assert step_of(plan, "make 2 edits with uce")["seconds"] > 0
    assert step_of(plan, "draw ")["seconds"] > 0


@pytest.mark.slow
def test_an_attack_plans_its_searches(place) -> None:
    plan = planned(place, "attack", "p4d", "dog", "--edit", "EDIT", "--judge", "CLIP", "--limit", 6, "--out", "OUT")
    what = step_of(plan, "attack with p4d")["what"]
    assert what == "attack with p4d: 1 searches for 2 prompts, at most 3000 steps each"


def test_what_would_be_fetched_is_planned_and_not_fetched(place, tmp_path, monkeypatch) -> None:
    with serve_hub() as hub:
        hub.add("owner/model", place["MODEL"])
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        plan = planned(place, *ERASE[:-1], "owner/model", "--out", "OUT")
        weights = sum(path.stat().st_size for path in place["MODEL"].rglob("*.safetensors"))
        (download,) = plan["downloads"]
        assert (download["name"], plan["is_complete"]) == ("owner/model", False)
        assert download["bytes"] > weights
        assert hub.fetched == ["model_index.json"]
        assert list(tmp_path.iterdir()) == []
        assert run(*ERASE[:-1], "owner/model", "--dry-run", "--offline", "--out", tmp_path / "o").exit_code == 2
