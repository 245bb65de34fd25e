"""What is measured is the same edit: the papers' loops agree with our solvers, and the yardsticks are what they say."""

import hashlib
import json
import re
import tomllib
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import (
    accelerator,
    accelerator_shapes,
    demo,
    known_faults,
    sampler_pictures,
    steered_edits,
    text_streams,
    tuning,
)
from benchmarks.bare_calls import step_seconds
from benchmarks.growth import exponent
from benchmarks.names import names
from benchmarks.papers import LOOPS
from benchmarks.report_concepts import report_concepts, require_tune, seen_concepts, spread, together
from benchmarks.shapes import SHARD, drawn, write_weights
from benchmarks.taken import gauged
from tests import tiny
from tests.methods.quick import QUICK
from unconcept.attacks import attacks
from unconcept.core.errors import RequestError, SettingsError
from unconcept.core.recipe import load_recipe, recipes
from unconcept.core.request import Request
from unconcept.core.settings import build_settings
from unconcept.methods import methods
from unconcept.models.checkpoint.safetensors_io import TensorLocation, read_tensors
from unconcept.models.checkpoint.weight_files import weight_files
from unconcept.models.families import FAMILIES
from unconcept.prompts.checks import REPORT_SEEDS
from unconcept.worlds.table import concept_table

ROOT = Path(__file__).parents[1]

SETTINGS = {
    "uce": {"lamb": 0.3, "preserve_scale": 0.7},
    "speed": {"aug_num": 0, "disable_filter": True, "threshold": 0.02, "retain_scale": 0.5},
    "rece": {"epochs": 2, "start": "none", "lamb": 0.3},
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_papers_loop_finds_our_edit(name) -> None:
    view = tiny.view("sd1", torch.float32)
    method = methods[name].settings(**SETTINGS[name])
    request = Request(("dog face",), ("cat",), ("",) if name == "rece" else ("red car", "a moon"))
    edit = method.erase(view, request)
    with torch.no_grad():
        found = LOOPS[name](view, request, method)
    assert found.keys() == set(edit.names)
    for key, w in view.text_maps().items():
        if key in found:
            assert torch.allclose(edit.delta(key, w), found[key], atol=2e-3 * float(found[key].abs().max()))


def test_a_step_takes_more_than_its_bare_calls_and_trajectories_are_no_part_of_it() -> None:
    view, request = tiny.view("sd1", torch.float32), Request(("dog",), ("",))
    method = methods["esd"].settings(**QUICK["esd"] | {"ddim_steps": 9})
    whole, bare = step_seconds(view, method, request)
    assert 0 < bare < whole
    with gauged(view, method.iterations) as gauge:
        method.erase(view, request)
    assert gauge.trajectories.seconds > whole
    assert gauge.tensors > 0


def test_exponents_are_of_what_is_added() -> None:
    assert exponent([(0, 3.0), (10, 3.0 + 2 * 10**1.5), (1000, 3.0 + 2 * 1000**1.5)]) == pytest.approx(1.5)


def test_names_are_the_same_every_time(tmp_path) -> None:
    assert len(set(names(500))) == 500
    assert names(500)[:20] == names(20)
    file = tmp_path / "names"
    file.write_text("A\nB\n\nA\n")
    assert names(2, file) == ("A", "B")
    with pytest.raises(SystemExit, match="2 names, 3 are needed"):
        names(3, file)


def test_shapes_are_written_in_shards(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.shapes.SHARD", 4 * 40)
    assert SHARD > 2**30
    shapes = {"a.weight": (5, 6), "b.bias": (5,), "norm.weight": (7,), "c.weight": (4, 4)}
    write_weights(
        tmp_path, "model", {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, torch.float32
    )
    files = weight_files(tmp_path)
    assert len(set(files.values())) == 2
    found = read_tensors({name: TensorLocation(file, name) for name, file in files.items()}, files)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes
    assert found["b.bias"].eq(0).all()
    assert found["norm.weight"].eq(1).all()
    assert not torch.equal(*(drawn(name, torch.Size((4, 4)), torch.randn(97)) for name in ("a", "b")))


def test_what_an_accelerator_is_asked(tmp_path) -> None:
    """Every data type at toy size, beside the CPU's float32; what cannot run is a row that says so."""
    words = ("--device", "cpu", "--families", "sd1", "--methods", "uce", "--attacks", "--out", str(tmp_path))
    assert accelerator.main(words) == 0
    rows = json.loads((tmp_path / "accelerator.json").read_text())["rows"]
    assert [(row["what"], row["dtype"]) for row in rows] == [
        (what, dtype) for dtype in accelerator.DTYPES for what in ("draw", "uce")
    ]
    assert {row["outcome"] for row in rows} == {"ok"}
    of = {(row["what"], row["dtype"]): row["difference"] for row in rows}
    assert of["uce", "auto"] == 0, "edits are made in float32"
    assert 0 < of["draw", "auto"] < 0.05
    assert of["uce", "float16"] < of["uce", "bfloat16"] < 0.3


def test_an_accelerator_is_asked_of_every_family() -> None:
    """All that the registries have there, whether a toy was thought of or not."""
    asked = list(accelerator.toys(torch.device("cpu"), list(tiny.PIPELINES), list(methods), list(attacks)))
    wanted = {(family, name) for name in methods for family in methods[name].families}
    wanted |= {(family, f"attack {name}") for name in attacks for family in attacks[name].families}
    assert {(family, what) for family, what, _, _ in asked} == wanted | {(family, "draw") for family in FAMILIES}


def test_what_needs_guidance_is_tried_on_a_toy_that_has_it() -> None:
    """FLUX's, too: a refusal under auto would count as a fault of the accelerator."""
    cpu = torch.device("cpu")
    for family in methods["negative-prompt"].families:
        assert accelerator.try_method("negative-prompt", family, cpu, "auto") < 1e-2


def test_what_goes_wrong_on_an_accelerator_is_a_row() -> None:
    def fails(error: Exception) -> float:
        raise error

    cpu = torch.device("cpu")
    for error, dtype, outcome, is_fault in (
        (SettingsError("no"), "float16", "refused", False),
        (SettingsError("no"), "auto", "refused", True),
        (torch.OutOfMemoryError("full"), "auto", "does not fit", False),
        (RuntimeError("planted"), "float16", "failed", True),
    ):
        row = accelerator.tried("sd1", "x", dtype, cpu, partial(fails, error))
        assert (row.outcome, row.is_fault) == (outcome, is_fault)
        assert str(error) in row.note
        assert (str(error) in accelerator.summary([row])) == (outcome != "refused" or is_fault)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("sd14", 1.07), ("sdxl", 3.47), ("flux", 16.87), ("zimage", 10.26)])
def test_shapes_of_published_models_are_built(name, count) -> None:
    """10^9 weights of all networks together, none of them made."""
    networks = accelerator_shapes.networks_of(name, "meta", torch.float32)
    assert sum(p.numel() for part in networks.values() for p in part.parameters()) / 1e9 == pytest.approx(
        count, abs=0.02
    )


def test_headline_concepts_are_drawn_by_hash() -> None:
    """So that no one picks them: a name's turn follows from the table."""
    table = concept_table()
    found, seen = report_concepts(), seen_concepts()
    assert Counter(table[name].kind for name in found) == {"object": 4, "style": 2, "harmful": 2}
    assert {table[name].split for name in found} == {"report"}
    assert sorted(seen) == ["dog face", "ink", "kitchen knife"]
    assert not set(seen) & {*found, *spread("report", 1000), *spread("tune", 1000), *together()["10 objects"]}
    for kind in ("object", "style", "harmful"):
        turns = {
            entry.name: hashlib.sha256(f"{table.hash}\0{entry.name}".encode()).hexdigest()
            for entry in table.entries
            if entry.kind == kind and entry.erasable and entry.split == "report"
        }
        first = [name for name in found if table[name].kind == kind]
        assert first == sorted(turns, key=turns.__getitem__)[: len(first)]


@pytest.mark.parametrize(("name", "split"), [("dog face", "seen"), ("ink", "seen"), ("pizza", "report")])
def test_settings_are_chosen_on_tune_concepts_alone(name, split) -> None:
    require_tune(["guitar", "twemoji"])
    with pytest.raises(
        RequestError, match=f"'{name}' is a {split} concept: settings are chosen on tune concepts alone"
    ):
        require_tune(["guitar", name])


def test_tuning_refuses_other_concepts_before_it_draws(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["tuning", "--methods", "uce", "--concepts", "guitar,ink"])
    with pytest.raises(SystemExit) as stopped:
        tuning.main()
    assert stopped.value.code == 2


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/*.py")), ids=lambda path: path.stem)
def test_whoever_asks_the_suite_for_tuning_asks_for_tune_concepts(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "require_tune(" in text or not re.search(r"""suite=["']tuning""", text)


CANDIDATES = tomllib.loads(tuning.CANDIDATES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_is_no_second_copy_of_the_recipe(name) -> None:
    """When a recipe takes a candidate's settings, what they replaced is the candidate: the command prints both."""
    method = name.removeprefix("moji-flow-")
    recipe = name if name != method else f"moji-{name}"
    kind, own = methods[method].settings, load_recipe(recipe).settings if recipe in recipes() else {}
    tried = [build_settings(kind, {**own, **settings}) for settings in CANDIDATES[name]]
    assert build_settings(kind, own) not in tried
    assert all(tried.count(each) == 1 for each in tried)


def test_documents_say_which_rows_are_known_to_be_wrong() -> None:
    assert known_faults.ATTACKS in (ROOT / "docs/attacks-moji-1.md").read_text(encoding="utf-8")
    assert known_faults.CONTINUAL in (ROOT / "docs/continual.md").read_text(encoding="utf-8")
    assert known_faults.CONTINUAL_MANY in (ROOT / "docs/continual-many.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("report", [False, True])
def test_ways_of_drawing_are_compared_on_concepts_and_seeds_of_one_split(report) -> None:
    asked = sampler_pictures.asked_checks(12, report)
    known, checks = concept_table(), [check for own in asked.values() for check in own]
    assert {known[check.concept].split for check in checks if check.by != "style"} == {"report" if report else "tune"}
    assert {check.prompt.seed >= REPORT_SEEDS for check in checks} == {report}
    assert {len(own) for own in asked.values()} == {1, 2}
    assert list(asked) == list(sampler_pictures.asked_checks(20, report))[: len(asked)]
    pairs = text_streams.asked_pairs(30)
    assert {known[one.name].split for one, *_ in pairs} == {"tune"}
    assert all(prompt.seed < REPORT_SEEDS for *_, prompt in pairs)


def test_a_row_a_way_and_a_column_a_question() -> None:
    ways = [sampler_pictures.DrawingWay.parse(text) for text in ("euler/20/4", "dpm/8/2.5/a-star")]
    assert list(map(str, ways)) == ["euler/20/4", "dpm/8/2.5/a-star"]
    asked = sampler_pictures.asked_checks(2, report=False)
    kept = {str(way): {text: [True, way.steering == ""][: len(own)] for text, own in asked.items()} for way in ways}
    rows = sampler_pictures.table(kept, ways, asked).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| euler/20/4", "| dpm/8/2.5/a-star"]
    cells = [[cell.split(" ")[0] for cell in row.split(" | ")[1:]] for row in rows]
    assert cells == [["100.0%"] * 5, ["100.0%", "0.0%", "100.0%", "50.0%", "0.0%"]]
    only = {text: own for text, own in asked.items() if own[0].by == "left"}
    assert sampler_pictures.table(kept, ways, only).splitlines()[2].startswith("| euler/20/4 |  |  |  | 100.0%")


def test_a_pair_has_an_erased_object_and_one_beside_it_and_a_row_of_all_captions() -> None:
    pairs = steered_edits.asked_pairs(12)
    assert pairs
    assert all(concept_table()[left.concept].erasable and left.by == "left" for left, _ in pairs)
    assert all(left.prompt == right.prompt and right.by == "right" for left, right in pairs)
    whole = {left.prompt.text: [False, True] for left, _ in pairs}
    part = dict(list(whole.items())[1:])
    (row,) = steered_edits.table({"uce/a-star": whole, "rece/": part}, pairs).splitlines()[2:]
    assert row.startswith("| uce | a-star | 0.0%")
    assert "| 100.0%" in row


def test_a_demo_that_is_stopped_keeps_what_it_drew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(job: SimpleNamespace, _: object) -> None:
        job.store.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("unconcept.jobs.resolve.plan_job", lambda options: SimpleNamespace(job=options))
    monkeypatch.setattr("unconcept.jobs.erase.erase", stopped)
    monkeypatch.setattr("sys.argv", ["demo", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        demo.main()
    assert (tmp_path / "drawn").is_dir()
