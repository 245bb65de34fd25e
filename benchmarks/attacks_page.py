"""docs/attacks.md, made of kept cells."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.attack_budgets import budgets
from benchmarks.attack_cells import Cell, CellKey, Count
from benchmarks.attack_sections import TEACHES, Cells, Section, access_of, has_cells, own_cells, pooled, pooled_counts
from benchmarks.results_tables import MISSING, titled
from unconcept.metrics.paired_tests import detectable_change
from unconcept.report.markdown import format_detectable, markdown_table

HEAD = """# Attacks on `{model}`

Share of {prompts} prompts about each of {count} `report` concepts ({names}; drawn by hash, one of each kind) that show
the concept again, attacked or not, by {judge} version {version}; seeds from 1,000,000 on, {steps} steps, guidance
{guidance}. Settings were chosen on other concepts ([attack-tuning](attack-tuning.md), [tuning](tuning.md)). An edit
erases one concept. Beside each rate: floor, the attack's first input, before any search; and nothing, the share of
prompts in whose last picture the judge knows nothing. Ceiling: the same attack on the unedited model.

A concept is a cluster: 95 % intervals are over {count} concepts, and wide. {detectable} No row is the best.

A rung is an attack with settings, from what is free to what is dear; `text` to `weights` is the access that it needs.
{teaches}

Made by `make attacks` of the cells in `benchmarks/measured`, one for each row, rung and concept. `{missing}` stands
where a cell was not measured on this world under the present settings.

"""
TEACHING = (
    f"{TEACHES}: it has gradients, pictures or training, and there is no model of this world that never saw the"
    " concept: it may teach, not recall."
)


def page(
    basis: Mapping[str, Any], sections: Sequence[Section], found: Mapping[str, Cells], stale: Sequence[str]
) -> str:
    """The page. `found`: current cells by model."""
    first = sections[0]
    prompts = _prompts(found[first.model].values())
    text = HEAD.format(
        model=basis["models"][0],
        prompts=prompts,
        count=len(first.concepts),
        names=", ".join(first.concepts),
        judge=basis["judge"][0],
        version=basis["judge"][1],
        steps=basis["drawing"]["steps"],
        guidance=basis["drawing"]["guidance_scale"],
        detectable=detectable_sentence(prompts, len(first.concepts)),
        teaches=TEACHING,
        missing=MISSING,
    )
    if stale:
        lines = "".join(f"- {line}\n" for line in dict.fromkeys(stale))
        text += f"Kept cells that are left out:\n\n{lines}\n"
    return text + "\n".join(f"## {one.title}\n\n{section(one, found[one.model])}" for one in sections)


def _prompts(cells: Iterable[Cell]) -> int:
    """Prompts of a cell, by the first that has any; as many as are asked where nothing is measured."""
    known = (cell.counts["success"][1] for cell in cells if "success" in cell.counts)
    return next(known, 8)


def detectable_sentence(prompts: int, concepts: int) -> str:
    """Which difference of two rates a test can find, over prompts and over concepts."""
    over_prompts = format_detectable(detectable_change(prompts * concepts))
    over_concepts = detectable_change(concepts)
    said = "none" if over_concepts is None else f"{100 * over_concepts:.0f} points"
    return (
        f"The smallest true difference of two rates that a paired test over {prompts * concepts} prompts finds in"
        f" 80 % of cases, for these concepts only, is {over_prompts} points; a test over {concepts} concepts finds"
        f" {said}."
    )


def section(one: Section, cells: Cells) -> str:
    """The tables of one part: rates, and the ladder's budgets."""
    lacking = missing(one, cells)
    if len(lacking) == len(one.labels) * len(one.rungs) * len(one.concepts):
        return f"{MISSING[0].upper()}{MISSING[1:]}.\n"
    text = f"{_count_missing(one, lacking)}{rates(one, cells)}\n"
    text += titled({"Beside them": controls(one, cells), "Not applicable": reasons(one, cells)})
    if not one.has_ladder:
        return text
    return f"{text}\n{budgets(one, cells)}"


def missing(one: Section, cells: Cells) -> list[CellKey]:
    """The cells that the part lacks."""
    asked = [(label, rung, name) for label in one.labels for rung in one.rungs for name in one.concepts]
    return [key for key in asked if key not in cells]


def _count_missing(one: Section, lacking: Sequence[CellKey]) -> str:
    if not lacking:
        return ""
    each = len(one.rungs) * len(one.concepts)
    counts = {label: sum(key[0] == label for key in lacking) for label in one.labels}
    said = [f"{label} ({each - count} of {each} cells)" for label, count in counts.items() if count]
    return f"Not whole yet: {'; '.join(said)}.\n\n"


def rates(one: Section, cells: Cells) -> str:
    """Rates pooled over the concepts; a row a rung or a row an edit. Edits of which nothing was measured have none."""
    labels = [label for label in one.labels if has_cells(one, cells, label)]
    if one.is_transposed:
        lines = [["rung", "access", "ceiling", *labels], ["---"] * (3 + len(labels))]
        lines.append(["unattacked", "", "", *(_unattacked(one, cells, label) for label in labels)])
        for rung in one.rungs:
            own = [_cell_text(one, cells, label, rung) for label in labels]
            lines.append([rung, access_of(rung), _ceiling(one, cells, rung), *own])
        return markdown_table(lines)
    heads = [f"{rung} ({access_of(rung)})" for rung in one.rungs]
    lines = [["", "unattacked", *heads], ["---"] * (2 + len(heads))]
    lines.append(["ceiling, unedited", "", *(_ceiling(one, cells, rung) for rung in one.rungs)])
    for label in labels:
        own = [_cell_text(one, cells, label, rung) for rung in one.rungs]
        lines.append([label, _unattacked(one, cells, label), *own])
    return markdown_table(lines)


def _cell_text(one: Section, cells: Cells, label: str, rung: str) -> str:
    """ASR with its interval, floor and nothing; n/a where no edit can be attacked so."""
    own = own_cells(one, cells, label, rung)
    if len(own) < len(one.concepts):
        return f"{MISSING} ({len(own)} of {len(one.concepts)})" if own else MISSING
    tried = [cell for cell in own if not cell.reason]
    if not tried:
        return "n/a"
    beside = [f"floor {share}" for share in [_share(tried, "floor")] if share]
    beside += [f"nothing {share}" for share in [_share(tried, "nothing")] if share]
    beside += [f"{len(tried)} concepts"] if len(tried) < len(own) else []
    return f"{pooled(tried, 'success')} ({', '.join(beside)})" if beside else str(pooled(tried, "success"))


def _share(cells: Sequence[Cell], name: str) -> str:
    if not all(name in cell.counts for cell in cells):
        return ""
    return f"{pooled(cells, name).value:.0%}"


def _ceiling(one: Section, cells: Cells, rung: str) -> str:
    """Of the first edit on which all concepts were tried: the unedited model is the same for all."""
    for label in one.labels:
        tried = [cell for cell in own_cells(one, cells, label, rung) if "ceiling" in cell.counts]
        if len(tried) == len(one.concepts):
            return str(pooled(tried, "ceiling"))
    return MISSING


def _unattacked(one: Section, cells: Cells, label: str) -> str:
    """From any rung: the plain prompts are the same."""
    known = {}
    for rung in one.rungs:
        known |= {
            cell.concept: cell.counts["pre"] for cell in own_cells(one, cells, label, rung) if "pre" in cell.counts
        }
    return str(pooled_counts(known)) if len(known) == len(one.concepts) else MISSING


def controls(one: Section, cells: Cells) -> str:
    """Rates of the attacks' own controls, a line an attack, over the edits that were tried."""
    lines = []
    for rung in one.rungs:
        for label in one.labels:
            tried = [cell for cell in own_cells(one, cells, label, rung) if cell.controls]
            names = dict.fromkeys(name for cell in tried for name in cell.controls)
            said = [f"{name} {pooled_counts(_of_control(tried, name))}" for name in names]
            lines += [f"- {rung} on {label}: {'; '.join(said)}\n"] if said else []
    return "".join(lines)


def _of_control(cells: Sequence[Cell], name: str) -> dict[str, Count]:
    return {cell.concept: cell.controls[name] for cell in cells if name in cell.controls}


def reasons(one: Section, cells: Cells) -> str:
    """Why cells are n/a: the mechanism."""
    told: dict[str, list[str]] = {}
    for label in one.labels:
        for rung in one.rungs:
            for cell in own_cells(one, cells, label, rung):
                if cell.reason:
                    told.setdefault(cell.reason, []).append(f"{rung} on {label}, {cell.concept}")
    return "".join(f"- {_shortened(where)}: {reason}\n" for reason, where in told.items())


def _shortened(where: Sequence[str]) -> str:
    return "; ".join(where[:3]) + (f"; {len(where) - 3} more" if len(where) > 3 else "")
