"""Prompts, judging, output folders and the plan, without a model."""

from dataclasses import replace
from pathlib import Path

import pytest

from unconcept.core.concept import Concept
from unconcept.core.errors import OutputError, RecipeError, RequestError, SettingsError, UnknownName
from unconcept.core.output_folder import atomic_folder
from unconcept.core.request import RequestSpec
from unconcept.erasing.request_defaults import STYLE_CARRIERS, resolve_request
from unconcept.evaluation.judging.rates import PairedAnswer, calibrate_judge, group_rates
from unconcept.evaluation.sampling import DrawSpec, initial_noise
from unconcept.jobs.command_options import EraseOptions
from unconcept.jobs.resolve import plan_job
from unconcept.metrics.paired_tests import detectable_change
from unconcept.prompts.checks import Check, GroupSizes, moji_checks, seeded_prompt, template_checks
from unconcept.prompts.sets import SCENE_GROUPS
from unconcept.worlds.table import concept_table


def test_noise_is_its_seeds_alone() -> None:
    assert (initial_noise(5, (4, 8, 8)) == initial_noise(5, (4, 8, 8))).all()
    assert not (initial_noise(5, (4, 8, 8)) == initial_noise(6, (4, 8, 8))).any()


def test_seeds_depend_on_text_and_replicate_alone() -> None:
    assert seeded_prompt("a dog", 0, False) == seeded_prompt("a dog", 0, False)
    assert len({seeded_prompt("a dog", i, False).seed for i in range(50)}) == 50
    assert seeded_prompt("a dog", 0, False).seed >= 1_000_000 > seeded_prompt("a dog", 0, True).seed


def test_groups_of_an_object_a_style_and_a_harmful_object() -> None:
    sizes = GroupSizes(24, 12)
    for name, groups in {
        "dog face": {"direct", "synonym", "near", "far", "style", "co-occurring"},
        "ink": {"direct", "synonym", "far", "style"},
        "bomb": {"direct", "synonym", "indirect", "near", "far", "style", "co-occurring"},
    }.items():
        checks = moji_checks(concept_table(), [name], sizes)
        groups |= set(SCENE_GROUPS)
        assert {check.group for check in checks} == groups
        assert len({check.prompt for check in checks if check.group == "direct"}) == 24
        assert all(sum(check.group == group for check in checks) >= 8 for group in groups)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_limit_holds_for_every_group(limit) -> None:
    """However many neighbours there are; each gets its turn, and what else is asked is what it was."""
    most = max(
        (entry for entry in concept_table().entries if entry.erasable and entry.kind == "object"),
        key=lambda entry: len(entry.near.held_out),
    )
    assert len(most.near.held_out) > 1, "else nothing is cut"
    sizes = GroupSizes().with_limit(limit)
    checks = moji_checks(concept_table(), [most.name], sizes)
    groups = [check.group for check in checks]
    assert all(groups.count(group) <= limit for group in groups)
    near = [check.concept for check in checks if check.group == "near"]
    assert len({*near}) == min(limit, len(most.near.held_out))
    free = moji_checks(concept_table(), [most.name], replace(sizes, limit=None))
    assert [check for check in checks if check.group != "near"] == [check for check in free if check.group != "near"]
    assert {check for check in checks if check.group == "near"} <= {*free}


@pytest.mark.parametrize(
    ("limit", "retain", "counts"),
    [(1, (), (1, 1, 1)), (1, ("sea", "sky"), (1, 1, 1)), (2, (), (2, 2, 2)), (None, (), (6, 6, 3))],
)
def test_a_limit_holds_on_other_models(limit, retain, counts) -> None:
    groups = [
        check.group for check in template_checks([Concept("dog", "object")], retain, GroupSizes().with_limit(limit))
    ]
    assert tuple(map(groups.count, ("direct", "near", "far"))) == counts


def test_unseen_pairs_are_not_asked() -> None:
    entry = concept_table()["dog face"]
    direct = [
        check.prompt.text
        for check in moji_checks(concept_table(), ["dog face"], GroupSizes())
        if check.group == "direct"
    ]
    assert entry.unseen
    assert not any(f"{style} style" in text for style in entry.unseen for text in direct)


def answer(group: str, before: str, after: str, concept: str = "dog face") -> PairedAnswer:
    return PairedAnswer(
        Check(seeded_prompt("a dog face", 0, False), group, concept, "object", ("dog face",)), before, after
    )


def test_tabulate_counts_by_hand() -> None:
    answers = [answer("direct", "dog face", "goat")] * 3 + [
        answer("direct", "dog face", "dog face"),
        answer("direct", "goat", "nothing"),
    ]
    (row,) = group_rates(answers)
    assert (row.before.value, row.after.value, row.nothing.value, row.after.n) == (0.8, 0.2, 0.2, 5)
    assert row.change.value == pytest.approx(-0.6)
    assert (row.p, row.detectable) == (None, None), "of five pictures, no test can be significant"


def test_calibration_looks_at_the_unedited_model_alone() -> None:
    far = PairedAnswer(Check(seeded_prompt("a goat", 0, False), "far", "goat", "object", ("goat",)), "dog face", "goat")
    style = PairedAnswer(Check(seeded_prompt("a goat", 0, False), "style", "ink", "style", ("ink",)), "nothing", "ink")
    found = calibrate_judge([answer("direct", "dog face", "goat"), answer("direct", "goat", "dog face"), far, style])
    assert (found.true_positive.value, found.false_positive.value, found.nothing.value) == (0.5, 1.0, 0.25)


def test_calibration_of_several_requests_keeps_each_to_its_own_target() -> None:
    """Seen in the other's pictures a target is false there; the sentence says all three shares with their counts."""
    goat = PairedAnswer(Check(seeded_prompt("a goat", 0, False), "direct", "goat", "object", ("goat",)), "goat", "ox")
    far = PairedAnswer(
        Check(seeded_prompt("a dog face", 0, False), "far", "dog face", "object", ("dog face",)), "nothing", "ox"
    )
    found = calibrate_judge([answer("direct", "dog face", "goat")], [goat, far])
    assert (found.true_positive.value, found.true_positive.clusters) == (1.0, 2)
    assert (found.false_positive.value, found.false_positive.n, found.nothing.value) == (0.0, 1, pytest.approx(1 / 3))
    assert str(found).startswith("On the unedited model the judge finds the target in 100.0% [")
    assert "of the 2 pictures asked for it, sees it in 0.0% [" in str(found)
    assert str(found).endswith(f"of 1 others, and nothing in {found.nothing} of all 3.")
    assert "others" not in str(calibrate_judge([goat]))


def test_same_model_means_no_change() -> None:
    words = ["dog face", "goat"] * 4
    rows = group_rates([answer(group, word, word) for group in ("direct", "far") for word in words])
    assert all((row.change.value, row.change.low, row.change.high, row.p) == (0, 0, 0, 1) for row in rows)


def test_p_values_are_corrected_for_the_number_of_groups() -> None:
    lost = [answer(group, "dog face", "goat") for group in ("direct", "far") for _ in range(7)]
    rows = group_rates(lost)
    assert [row.p for row in rows] == pytest.approx([2 * 2 / 2**7] * 2)
    assert [row.detectable for row in rows] == [detectable_change(7, 2)] * 2


def test_a_group_that_cannot_be_significant_has_no_p() -> None:
    """Of six pictures alone p may be 1/32; beside a second group, or in three clusters, it cannot be significant."""
    six = [answer("direct", "dog face", "goat")] * 6
    assert group_rates(six)[0].p == pytest.approx(2 / 2**6)
    both = group_rates([*six, *[answer("far", "goat", "goat")] * 40])
    assert [row.p for row in both] == [None, 1]
    assert group_rates(six, list("aabbcc"))[0].p is None


def test_clusters_are_counted() -> None:
    (row,) = group_rates([answer("far", "dog face", "goat")] * 8, list("aabbcdef"))
    assert (row.after.clusters, row.after.n) == (6, 8)
    assert row.p == pytest.approx(2 / 2**6), "six clusters, all of one sign"


def test_defaults_elsewhere_are_the_kinds() -> None:
    request = resolve_request(RequestSpec(("Van Gogh",), kind="style"), "some/folder").request
    assert (request.targets, request.anchors, request.retain) == (("Van Gogh",), ("art",), ())


def test_a_style_is_erased_in_captions_too() -> None:
    """Target and anchor stand in the same place, and only retained objects carry them."""
    request = resolve_request(RequestSpec(("ink",)), "moji").request
    pairs = dict(zip(request.targets, request.anchors, strict=True))
    assert pairs["ink"] == pairs["outline"] == "flat"
    assert pairs["outline style"] == "flat style"
    carried = {target.removeprefix("ink style ") for target in request.targets if target.startswith("ink style ")}
    assert len(carried) == STYLE_CARRIERS
    assert carried <= set(request.retain)
    assert all(pairs[f"ink style {name}"] == f"flat style {name}" for name in carried)


def test_table_defaults() -> None:
    chosen = resolve_request(RequestSpec(("dog face",)), "moji")
    assert chosen.request.targets == ("dog face", "puppy face", "doggy")
    assert set(chosen.request.anchors) == {"goat"}
    assert {"wolf", "poodle"} <= set(chosen.request.retain)
    with pytest.raises(RequestError, match="'judge' has no anchor"):
        resolve_request(RequestSpec(("judge",)), "moji")
    with pytest.raises(UnknownName, match="did you mean 'dog face'"):
        resolve_request(RequestSpec(("dog fase",)), "moji")


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"concepts": []}, RequestError, "no concept"),
        ({"concepts": ["  "]}, RequestError, "empty target"),
        ({"concepts": ["dog face"], "anchors": ["dog face"]}, RequestError, "equals its anchor"),
        ({"concepts": ["dog face"], "retain": ["dog face"]}, RequestError, "also retained"),
        (
            {"concepts": ["dog face", "pizza"], "anchors": ["goat", "ox", "fox"]},
            RequestError,
            "2 concepts but 3 anchors",
        ),
        ({"concepts": ["dog face"], "kind": "animal"}, RequestError, "kind 'animal': allowed are"),
        ({"concepts": ["dog face"], "recipe": "moji-uec"}, UnknownName, "did you mean 'moji-uce'"),
        ({"concepts": ["dog face"], "recipe": "moji-uce", "method": "esd"}, RecipeError, "is for uce, not for esd"),
    ],
)
def test_plans_that_make_no_sense(tmp_path, given, error, said) -> None:
    with pytest.raises(error, match=said):
        resolve_request(plan_job(EraseOptions(out=tmp_path / "o", **given)).job.ask, "moji")


def test_flags_win_over_recipe_over_default(tmp_path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        'method = "uce"\nsource = "test"\n[request]\ntargets = ["pizza"]\nretain = ["sky"]\n[settings]\nlamb = 0.3\n'
    )
    planned = plan_job(EraseOptions(out=tmp_path / "o", recipe=str(path), settings={"lamb": 0.7}))
    job = planned.job
    assert (job.ask.targets, job.ask.retain, job.settings["lamb"]) == (("pizza",), ("sky",), 0.7)
    other = EraseOptions(concepts="crown", out=tmp_path / "o", recipe=str(path), retain=[])
    assert plan_job(other).job.ask == RequestSpec(("crown",), None, ())
    assert "recipe" in planned.reasons["method"]


def test_folder_appears_when_it_is_whole(tmp_path) -> None:
    out = tmp_path / "deep" / "o"
    with atomic_folder(out, {"a": 1}, False) as folder:
        (folder / "x").write_text("x")
        assert not out.exists()
    assert sorted(path.name for path in out.iterdir()) == [".unconcept", "x"]
    assert [path.name for path in out.parent.iterdir()] == ["o"]


def test_folder_that_exists_is_kept(tmp_path) -> None:
    (tmp_path / "o").mkdir()
    with pytest.raises(OutputError, match="--overwrite"), atomic_folder(tmp_path / "o", {}, False):
        pass
    with atomic_folder(tmp_path / "o", {}, True) as folder:
        (folder / "new").write_text("")
    assert (tmp_path / "o" / "new").exists()


def test_a_folder_of_somebody_elses_is_never_replaced(tmp_path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(OutputError, match=r"did not write.*: choose another path or move them away"),
        atomic_folder(out, {}, True),
    ):
        pass
    assert (out / "thesis.tex").exists()
    (out / "thesis.tex").unlink()
    for name in ("x", "run.json", "y"):  # into an empty folder, over one without a run, over one with a run
        with atomic_folder(out, {}, True) as folder:
            (folder / name).write_text(name)
    assert sorted(path.name for path in out.iterdir()) == [".unconcept", "y"]


def interrupted(out: Path) -> None:
    with atomic_folder(out, {"a": 1}, False) as folder:
        (folder / "done").write_text("")
        raise KeyboardInterrupt


def test_errors_leave_nothing_and_interruptions_leave_the_state(tmp_path) -> None:
    with pytest.raises(ValueError, match="x"), atomic_folder(tmp_path / "o", {"a": 1}, False):
        raise ValueError("x")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "o")
    with atomic_folder(tmp_path / "o", {"a": 1}, False) as folder:
        assert (folder / "done").exists()
    assert (tmp_path / "o" / "done").exists()


def test_state_of_another_job_is_not_taken(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "o")
    with atomic_folder(tmp_path / "o", {"a": 2}, False) as folder:
        assert not (folder / "done").exists()


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path) -> None:
    with pytest.raises(OutputError, match="No space left"), atomic_folder(tmp_path / "o", {}, False):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_strength_is_a_number(tmp_path) -> None:
    from unconcept.jobs.erase import erase
    from unconcept.jobs.erase_job import Job

    with pytest.raises(SettingsError, match="strength nan"):
        erase(Job(RequestSpec(("dog face",)), tmp_path / "o", strength=float("nan")))
    for spec in ({"guidance_scale": float("nan")}, {"steps": 0}):
        with pytest.raises(SettingsError, match=str(next(iter(spec.values())))):
            DrawSpec(**spec)
