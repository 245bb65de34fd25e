"""Settings for attacks' `moji` recipes: candidates against UCE's edits of tune concepts, on given words and seeds of
their own: `python -m benchmarks.attack_tuning --attacks p4d`.

Nothing else may choose settings. Searches that were finished are kept in the store, so the same command goes on after
being stopped; what they found is kept in `benchmarks/measured/attack-tuning` and on docs/attack-tuning.md.
"""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.kept import FOLDER, Row, name_for, present_basis, read_rows, write_rows
from benchmarks.report_concepts import require_tune
from unconcept.cli.console import exit_codes, progress, quiet_libraries
from unconcept.worlds.registry import DEFAULT_MODEL, worlds

if TYPE_CHECKING:
    from unconcept.evaluation.tasks.attack import AttackTask
    from unconcept.evaluation.trials.trial import RunContext, Trial

CANDIDATES = Path(__file__).with_name("attack_candidates.toml")
METHOD, SUITE, FILES = "uce", "tuning", "attack-tuning"
CONCEPTS = "guitar,horse face,classic,twemoji"
HEAD = """# Settings of attacks that were tried

Recipes of attacks on `{model}` are chosen here: against UCE's edits of tune concepts, words that requests may hold and
seeds below 1,000,000. No row says how strong an attack is: [attacks](attacks.md) is of other concepts. Floor: prompts
that show the concept before any search; found: those in which any input of the search shows it, by moji-judge; ceiling:
the same search on the unedited model. Seconds are of the search, a prompt. Rows in bold hold the settings of the
present recipe; settings that no row changes are left out.

Made by `python -m benchmarks.attack_tuning{option}`, from `benchmarks/measured/{folder}`.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attacks", help="separated by commas; none: only write the page")
    parser.add_argument("--model", default=DEFAULT_MODEL, choices=[*worlds], help="embedded model")
    parser.add_argument("--concepts", default=CONCEPTS, help="tune concepts, separated by commas")
    parser.add_argument("--prompts", type=int, default=6, help="of each concept")
    parser.add_argument("--max-minutes", type=float)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    quiet_libraries()
    names = args.attacks.split(",") if args.attacks else []
    concepts = tuple(args.concepts.split(","))
    require_tune(concepts)
    with exit_codes():
        for name in names:
            keep(name, args.model, measure(name, args.model, concepts, args.prompts, args.max_minutes))
    (args.docs / f"{name_for(args.model, FILES)}.md").write_text(page(args.model), encoding="utf-8")


def candidates(attack: str, model: str = DEFAULT_MODEL) -> list[dict[str, Any]]:
    """All settings to try: the recipe's, and that with each candidate's changes."""
    key = attack if model == DEFAULT_MODEL else f"{model}-{attack}"
    tried = tomllib.loads(CANDIDATES.read_text(encoding="utf-8")).get(key, [])
    return [whole_settings(attack, own, model) for own in ({}, *tried)]


def whole_settings(attack: str, own: Mapping[str, object], model: str) -> dict[str, Any]:
    """Every setting of an attack, by default as in the model's recipe."""
    from unconcept.attacks import attacks
    from unconcept.core.settings import build_settings, settings_data
    from unconcept.evaluation.worlds import recipe_settings, world_of

    given = {**recipe_settings(world_of(model), attack), **own}
    return dict(settings_data(build_settings(attacks[attack].settings, given, f"{attack} setting")))


def measure(attack: str, model: str, concepts: Sequence[str], prompts: int, max_minutes: float | None) -> list[Row]:
    """Run what is missing; a row for each settings and concept whose searches are finished."""
    import time

    from unconcept.core.output_folder import default_store
    from unconcept.evaluation.tasks.picture_store import PictureStore
    from unconcept.evaluation.tasks.runner import TaskRecord, default_workers, run_tasks
    from unconcept.evaluation.trials.trial import RunContext
    from unconcept.evaluation.worlds import world_of

    world, out = world_of(model), Path("out") / name_for(model, FILES)
    out.mkdir(parents=True, exist_ok=True)
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    store, found = PictureStore(default_store()), list[Row]()
    with progress(quiet=False) as tell:
        record = TaskRecord(out / "record.sqlite")
        context = RunContext(store, record, world.draw_spec(None), world.judge, None, deadline, tell)
        for trial in edits(model, concepts, out, context):
            for settings in candidates(attack, model):
                own, ceilings = planned(attack, settings, trial, context, prompts)
                workers = default_workers(100 * len(own), str(trial.subject.base().device))
                tally = run_tasks([*own, *ceilings], store, record, workers, deadline, tell)
                if tally.complete:
                    found.append(row_of(own, ceilings, settings, trial, store))
    return found


def edits(model: str, concepts: Sequence[str], out: Path, context: "RunContext") -> "list[Trial]":
    """UCE's edits of the concepts."""
    from unconcept.evaluation.tasks.edit_task import EditTask, variant_of_method
    from unconcept.evaluation.tasks.edited_model import EditedModel
    from unconcept.evaluation.tasks.runner import run_tasks
    from unconcept.evaluation.trials.bench import trial_of_task

    made = [EditTask(EditedModel(model), variant_of_method(METHOD, model), (name,), out / "edits") for name in concepts]
    run_tasks(made, context.store, context.record, 1, context.deadline, context.tell)
    return [trial_of_task(task) for task in made if task.is_done(context.store)]


def planned(
    attack: str, settings: Mapping[str, object], trial: "Trial", context: "RunContext", prompts: int
) -> "tuple[list[AttackTask], list[AttackTask]]":
    """The searches on the edited model, and the same on the unedited one."""
    from unconcept.edits import origin_of
    from unconcept.evaluation.suites.registry import suites
    from unconcept.evaluation.tasks.attack import plan_attacks
    from unconcept.evaluation.worlds import world_of

    (name,) = trial.concepts
    known = world_of(trial.subject.model).attacker_knowledge(world_concept(name), origin_of(trial.edit).retain)
    checks = [check for check in suites[SUITE].checks(trial.concepts) if check.group == "direct"][:prompts]
    assert context.judge is not None
    own, ceilings = (
        plan_attacks(subject, context.spec, context.judge, known, {attack: settings}, checks)
        for subject in (trial.subject, trial.subject.unedited)
    )
    return own, ceilings


def world_concept(name: str) -> Any:
    """A concept of the table, as attackers get it."""
    from unconcept.core.concept import Concept
    from unconcept.worlds.table import concept_table

    return Concept(name, concept_table()[name].kind)


def row_of(
    own: "Sequence[AttackTask]",
    ceilings: "Sequence[AttackTask]",
    settings: Mapping[str, object],
    trial: "Trial",
    store: Any,
) -> Row:
    """What is kept of the searches with some settings on one edit."""
    from unconcept.evaluation.attacks.rates import attack_rows

    count = sum(task.size for task in own)
    (row,) = attack_rows(own, ceilings, [False] * count, store)
    assert row.ceiling is not None
    hits = {"floor": row.floor.value, "found": row.success.value, "ceiling": row.ceiling.value}
    return {
        "concept": trial.concepts[0],
        "settings": dict(settings),
        "edit": trial.edit.hash[:12],
        "n": count,
        **{name: round(value * count) for name, value in hits.items()},
        "seconds": round(row.seconds / count, 2),
    }


def keep(attack: str, model: str, rows: Sequence[Row]) -> None:
    """Merge rows into the kept ones: same settings, concept and edit replace; another basis begins anew."""
    path, basis = FOLDER / name_for(model, FILES) / f"{attack}.json", present_basis(model)
    head, older = read_rows(path)

    def key(row: Row) -> tuple[str, str, str]:
        return row["concept"], row["edit"], str(sorted(row["settings"].items()))

    known = {key(row): row for row in (*(older if head == basis else []), *rows)}
    write_rows(path, basis, [known[each] for each in sorted(known)])


def page(model: str = DEFAULT_MODEL) -> str:
    """A table for each attack whose rows are of the present world."""
    basis, folder = present_basis(model), FOLDER / name_for(model, FILES)
    option = "" if model == DEFAULT_MODEL else f" --model {model}"
    parts = []
    for path in sorted(folder.glob("*.json")):
        head, rows = read_rows(path)
        if head == basis:
            parts.append(section(path.stem, rows, model))
    return HEAD.format(model=model, option=option, folder=folder.name) + "\n".join(parts)


def section(attack: str, rows: Sequence[Row], model: str) -> str:
    """The rows of one attack, with what its recipe says of its source."""
    from benchmarks.tuning_log import recipe_of, varied_settings
    from unconcept.report.markdown import markdown_table

    recipe, present = recipe_of(attack, model), whole_settings(attack, {}, model)
    varied = varied_settings(rows)
    heads = ["concept", "settings", "floor", "found", "ceiling", "seconds"]
    lines, before = [heads, ["---"] * len(heads)], None
    for row in rows:
        own = ", ".join(f"{name} {row['settings'][name]}" for name in varied) or "the recipe"
        name = "" if row["concept"] == before else row["concept"]
        counts = [f"{row[side]}/{row['n']}" for side in ("floor", "found", "ceiling")]
        lines.append([name, f"**{own}**" if row["settings"] == present else own, *counts, f"{row['seconds']:.1f}"])
        before = row["concept"]
    said = recipe.source if recipe else f"no recipe of `{model}`"
    return f"## {attack}\n\nRecipe: {said}.\n\n{markdown_table(lines)}"


if __name__ == "__main__":
    main()
