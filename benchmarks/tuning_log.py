"""The log of tunings: which settings of a method were tried on which tune concepts, with what counts, and the page made
of it, docs/tuning.md.

Rows are kept in `benchmarks/measured/tuning`, a file a method; those of another embedded model, and its page, have its
name too. What is chosen is what the recipe holds now.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.kept import FOLDER, Row, measured_on, name_for, present_basis, read_rows, write_rows
from benchmarks.report_concepts import require_tune
from unconcept.worlds.registry import DEFAULT_MODEL

SUITE = "tuning"
KEPT = FOLDER / SUITE
FIGURES = {"variety kept@": "variety kept", "distance@": "distance"}  # of far pictures, by the beginning of their name
HEAD = """# Settings that were tried

Recipes of `{model}` are chosen here: on tune concepts, words that requests may hold and seeds below 1,000,000. No row \
says
how good a method is: [results]({results}) are of other concepts. Cells are pictures that show what the prompt asks
for, by moji-judge; "nothing" is the target's pictures in which it knows nothing. Variety kept is the distance of two
pictures of a prompt from different noise, edited over unedited; distance is that of a picture from the unedited one;
both of far objects. Rows in bold hold the settings of the present recipe; settings that no row changes are left out.

Made by `python -m benchmarks.tuning{option}`, from `benchmarks/measured/{folder}`.

"""


def keep(report: Mapping[str, Any], folder: Path = KEPT) -> list[str]:
    """Merge the content of a tuning's `report.json` into the kept rows; the methods that it is of.

    A row is one edit: same settings and same concepts replace an older one. A file of another basis is begun anew.
    """
    if report["suite"] != SUITE:
        raise SystemExit(f"suite {report['suite']!r}: only reports of suite {SUITE!r} are kept")
    basis, found = measured_on(report), dict[str, list[Row]]()
    require_tune([name for trial in report["trials"] for name in trial["concepts"]])
    for trial in report["trials"]:
        if trial["answered"] == trial["asked"]:
            found.setdefault(trial["edit"]["method"], []).append(tuning_row(trial))
    for method, rows in found.items():
        path = folder / f"{method}.json"
        head, older = read_rows(path)
        known = {_key(row): row for row in (older if head == basis else [])}
        known |= {_key(row): row for row in rows}
        write_rows(path, basis, sorted(known.values(), key=_order))
    return list(found)


def tuning_row(trial: Mapping[str, Any]) -> Row:
    """What is kept of one trial. Counts of a group: pictures, hits before, hits after, "nothing" after."""
    groups = {}
    for name, group in trial["groups"].items():
        n = group["after"]["n"]
        groups[name] = [n, *(round(group[side]["value"] * n) for side in ("before", "after", "nothing"))]
    figures = {
        short: round(figure["value"], 4)
        for figure in trial["figures"]
        for begin, short in FIGURES.items()
        if figure["name"].startswith(begin) and figure["name"].endswith(", far")
    }
    made = trial["edit"]
    seconds = trial["cost"].get("seconds")
    return {
        "concepts": trial["concepts"],
        "kind": made["kind"],
        "settings": made["settings"],
        "seconds": seconds and round(seconds, 1),
        "groups": groups,
        "figures": figures,
    }


def _key(row: Row) -> str:
    return str((row["concepts"], sorted(row["settings"].items())))


def _order(row: Row) -> tuple[str, str, str]:
    return row["kind"], str(row["concepts"]), _key(row)


def folder_of(model: str) -> Path:
    """The folder of the rows of an embedded model."""
    return FOLDER / name_for(model, SUITE)


def write_page(docs: Path, model: str = DEFAULT_MODEL) -> None:
    """Write docs/tuning.md, or another model's docs/tuning-MODEL.md, of all kept rows."""
    folder = folder_of(model)
    (docs / f"{folder.name}.md").write_text(page(folder, model), encoding="utf-8")


def page(folder: Path = KEPT, model: str = DEFAULT_MODEL) -> str:
    """A table for each method whose rows are of the present world; the others stand in one line."""
    basis = present_basis(model)
    known = {path.stem: read_rows(path) for path in sorted(folder.glob("*.json"))}
    stale = [method for method, (head, _) in known.items() if head != basis]
    parts = [section(method, rows, model) for method, (head, rows) in known.items() if head == basis]
    option = "" if model == DEFAULT_MODEL else f" --model {model}"
    text = HEAD.format(
        model=model, option=option, folder=folder_of(model).name, results=f"{name_for(model, 'results')}.md"
    ) + "\n".join(parts)
    if stale:
        text += f"\nLeft out, because measured on another model, table or judge: {', '.join(stale)}.\n"
    return text


def section(method: str, rows: Sequence[Row], model: str = DEFAULT_MODEL) -> str:
    """The rows of one method, with what its recipe says of its source."""
    from unconcept.prompts.sets import GROUP_NAMES, PROMPT_GROUPS
    from unconcept.report.markdown import markdown_table

    recipe = recipe_of(method, model)
    names = [name for name in PROMPT_GROUPS if any(name in row["groups"] for row in rows)]
    varied = varied_settings(rows)
    heads = ["concept", "settings", *(GROUP_NAMES[name] for name in names), "nothing", *FIGURES.values(), "seconds"]
    lines = [heads, ["---"] * len(heads)]
    before = None
    for row in rows:
        if row["concepts"] != before:
            lines.append(unedited_cells(row, names))
        before = row["concepts"]
        lines.append(edited_cells(row, names, varied, is_present(method, recipe, row)))
    said = recipe.source if recipe else f"no recipe of `{model}`"
    return f"## {method}\n\nRecipe: {said}.\n\n{markdown_table(lines)}"


def unedited_cells(row: Row, names: Sequence[str]) -> list[str]:
    """The counts before the edit, which are the same for all edits of the concept."""
    counts = [row["groups"].get(name) for name in names]
    return [", ".join(row["concepts"]), "unedited", *(f"{c[1]}/{c[0]}" if c else "" for c in counts), *[""] * 4]


def edited_cells(row: Row, names: Sequence[str], varied: Sequence[str], chosen: bool) -> list[str]:
    """The counts after the edit, beside the settings that differ between rows."""
    own = ", ".join(f"{name} {row['settings'].get(name, 'none')}" for name in varied) or "the recipe"
    counts = [row["groups"].get(name) for name in names]
    direct = row["groups"].get("direct")
    figures = [f"{row['figures'][name]:.2f}" if name in row["figures"] else "" for name in FIGURES.values()]
    cells = [f"{c[2]}/{c[0]}" if c else "" for c in counts]
    nothing = f"{direct[3]}/{direct[0]}" if direct else ""
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
    return ["", f"**{own}**" if chosen else own, *cells, nothing, *figures, seconds]


def varied_settings(rows: Sequence[Row]) -> list[str]:
    """Names of settings that are not the same in all rows."""
    names = dict.fromkeys(name for row in rows for name in row["settings"])
    return [name for name in names if len({str(row["settings"].get(name)) for row in rows}) > 1]


def recipe_of(method: str, model: str = DEFAULT_MODEL) -> Any:
    """The method's recipe for an embedded model, or None."""
    from unconcept.evaluation.worlds import world_of
    from unconcept.worlds.recipes import current_recipe

    name = world_of(model).recipe(method)
    return name and current_recipe(name)


def is_present(method: str, recipe: Any, row: Row) -> bool:
    """Whether the row's edit was made with what the recipe says now for concepts of its kind."""
    from unconcept.core.settings import build_settings, settings_data
    from unconcept.methods import methods

    if not recipe:
        return False
    present = settings_data(build_settings(methods[method].settings, recipe.settings_for(row["kind"])))
    return bool(present == row["settings"])
