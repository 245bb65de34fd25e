"""Tables of kept trials: rates, changes against a reference, variety, each edit by itself, and seeds of trainings."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.kept_trials import KeptTrial
from benchmarks.variants import BUDGETS
from unconcept.evaluation.judging.rates import PairedAnswer, drawn_instead
from unconcept.evaluation.trials.variants import group_by_label, pooled_group_rates, variant_rows
from unconcept.metrics.intervals import clustered_mean
from unconcept.metrics.paired_tests import detectable_change, holm, sign_flip
from unconcept.prompts.sets import GROUP_NAMES, PROMPT_GROUPS, PromptGroup
from unconcept.report.markdown import format_detectable, format_p, markdown_table, results_table

MISSING = "not measured yet"
FIGURES = {  # of a trial, by begin and end of their names
    "variety kept, target": ("variety kept@", ", direct"),
    "variety kept, far": ("variety kept@", ", far"),
    "distance, target": ("distance@", ", direct"),
    "distance, far": ("distance@", ", far"),
}
FIGURES_MEANING = """Means over edits; intervals resample concepts. Variety kept is the mean distance of two pictures of
one prompt from different noise, edited over unedited (1: as before); distance is that of a picture from the unedited
one of the same noise. Both in moji-judge's features.

"""
NAMED = 2  # answers of an edit
INSTEAD_MEANING = """What the judge finds in the target's pictures that showed it before the edit and do not after: the
most frequent answers, and how many pictures these are.

"""
EACH_MEANING = """Target pictures that show the target; far objects that are right.

"""
SPREAD_GROUPS: tuple[PromptGroup, ...] = ("direct", "synonym", "co-occurring", "near", "far", "style")


def whole(
    trials: Sequence[KeptTrial], labels: Sequence[str], requests: Sequence[tuple[str, ...]]
) -> tuple[list[KeptTrial], str]:
    """The trials of variants that were measured on every request, and a sentence on the others."""
    grouped = group_by_label(trials)
    have = {label: len({one.concepts for one in grouped.get(label, ())} & {*requests}) for label in labels}
    complete = [one for label in labels if have[label] == len(requests) for one in grouped[label]]
    others = [f"{label} ({count} of {len(requests)} edits)" for label, count in have.items() if count < len(requests)]
    return complete, f"Not measured yet: {'; '.join(others)}.\n\n" if others else ""


def rates(trials: Sequence[KeptTrial]) -> str:
    """A row a variant: shares of pictures that show what the prompt asks for, pooled over its edits."""
    return results_table(variant_rows(trials)) if trials else ""


def figures(trials: Sequence[KeptTrial]) -> str:
    """A row a variant: means of its edits' figures, with an interval that resamples edits."""
    lines = [["", *FIGURES], ["---"] * (1 + len(FIGURES))]
    for label, own in group_by_label(trials).items():
        cells = []
        for begin, end in FIGURES.values():
            known = {
                ", ".join(one.concepts): value
                for one in own
                for name, (value, _) in one.figures.items()
                if name.startswith(begin) and name.endswith(end)
            }
            mean = clustered_mean(list(known.values()), list(known)) if known else None
            cells.append(f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]" if mean else "n/a")
        lines.append([label, *cells])
    return markdown_table(lines)


def against(trials: Sequence[KeptTrial], reference: Sequence[KeptTrial]) -> list[KeptTrial]:
    """The trials with the reference's answers for those before, on the same concepts; without the reference itself."""
    other = {one.concepts: one for one in reference}
    found = []
    for one in trials:
        if one.concepts in other and one.label != other[one.concepts].label:
            pairs = zip(one.answers, other[one.concepts].answers, strict=True)
            answers = tuple(PairedAnswer(own.check, past.after, own.after) for own, past in pairs)
            found.append(KeptTrial(one.label, one.concepts, one.cost, answers))
    return found


def changes(trials: Sequence[KeptTrial]) -> str:
    """A row a variant, a cell a group: change in points, its interval over concepts, p over prompts."""
    grouped = group_by_label(trials)
    rows = {(label, row.group): row for label, own in grouped.items() for row in pooled_group_rates(own)}
    units = {(label, group): _by_prompt(grouped[label], group) for label, group in rows}
    p = holm({f"{label}\0{group}": sign_flip(*units[label, group]) for label, group in rows})
    smallest = {key: detectable_change(len({*clusters}), len(rows)) for key, (_, clusters) in units.items()}
    groups = [group for group in PROMPT_GROUPS if any(group == asked for _, asked in rows)]

    def cell(label: str, group: PromptGroup) -> str:
        if (label, group) not in rows:
            return "n/a"
        change = rows[label, group].change
        tested = None if smallest[label, group] is None else p[f"{label}\0{group}"]
        return f"{100 * change.value:+.0f} [{100 * change.low:+.0f}, {100 * change.high:+.0f}], p {format_p(tested)}"

    lines = [["", *(GROUP_NAMES[group] for group in groups)], ["---"] * (1 + len(groups))]
    lines += [[label, *(cell(label, group) for group in groups)] for label in grouped]
    first = next(iter(grouped))
    below = {
        "n (prompts, concepts)": lambda group: _counts(*units[first, group], grouped[first], group),
        "detectable change, points": lambda group: format_detectable(smallest[first, group]),
    }
    lines += [
        [name, *(make(group) if (first, group) in rows else "" for group in groups)] for name, make in below.items()
    ]
    return markdown_table(lines)


def _by_prompt(trials: Sequence[KeptTrial], group: PromptGroup) -> tuple[list[float], list[str]]:
    """Differences of a group's answers, and the prompt of each: its text, under the concept that was erased."""
    differences, clusters = [], []
    for one in trials:
        for answer in one.answers:
            if answer.check.group == group:
                before, after = answer.hits
                differences.append(float(after) - float(before))
                clusters.append(f"{one.concepts}\0{answer.check.prompt.text}")
    return differences, clusters


def _counts(differences: Sequence[float], prompts: Sequence[str], trials: Sequence[KeptTrial], group: str) -> str:
    concepts = {one.concepts for one in trials if any(answer.check.group == group for answer in one.answers)}
    return f"{len(differences)} ({len({*prompts})}, {len(concepts)})"


def each_edit(trials: Sequence[KeptTrial], labels: Sequence[str], requests: Sequence[tuple[str, ...]]) -> str:
    """A row a variant, a cell an edit: pictures of the target that still show it, and far objects that are right.

    Variants of which no edit was measured have no row.
    """
    known = {(one.label, one.concepts): one for one in trials}

    def cell(one: KeptTrial | None, side: int) -> str:
        return "; ".join(_hits(one, group, side) for group in ("direct", "far")) if one else MISSING

    first = {one.concepts: one for one in reversed(trials)}
    lines = [["", *(", ".join(names) for names in requests)], ["---"] * (1 + len(requests))]
    lines.append(["unedited", *(cell(first.get(names), 0) for names in requests)])
    measured = [label for label in labels if any((label, names) in known for names in requests)]
    lines += [[label, *(cell(known.get((label, names)), 1) for names in requests)] for label in measured]
    return markdown_table(lines)


def instead(trials: Sequence[KeptTrial], labels: Sequence[str], requests: Sequence[tuple[str, ...]]) -> str:
    """A row a variant, a cell an edit: the judge's most frequent answers to pictures that lost the target, by share."""
    known = {(one.label, one.concepts): one for one in trials}

    def cell(one: KeptTrial | None) -> str:
        if one is None:
            return MISSING
        found = drawn_instead(one.answers)
        total = sum(found.values())
        named = [f"{name} {count / total:.0%}" for name, count in list(found.items())[:NAMED]]
        return f"{', '.join(named)} of {total}" if named else "n/a"

    measured = [label for label in labels if any((label, names) in known for names in requests)]
    lines = [["", *(", ".join(names) for names in requests)], ["---"] * (1 + len(requests))]
    lines += [[label, *(cell(known.get((label, names))) for names in requests)] for label in measured]
    return markdown_table(lines)


def _hits(one: KeptTrial, group: str, side: int) -> str:
    hits = [answer.hits[side] for answer in one.answers if answer.check.group == group]
    return f"{sum(hits)}/{len(hits)}"


def seeds(trials: Sequence[KeptTrial], labels: Mapping[str, Sequence[str]], requests: Sequence[tuple[str, ...]]) -> str:
    """A row a method, a cell a group: the share after each training, and their standard deviation.

    `labels[method]`: those of its trainings under several seeds.
    """
    lines = [["", *(GROUP_NAMES[group] for group in SPREAD_GROUPS)], ["---"] * (1 + len(SPREAD_GROUPS))]
    for method, names in labels.items():
        complete, _ = whole(trials, names, requests)
        grouped = group_by_label(complete)
        if len(grouped) < len(names):
            lines.append([method, MISSING, *[""] * (len(SPREAD_GROUPS) - 1)])
            continue
        lines.append([method, *(_spread(list(grouped.values()), group) for group in SPREAD_GROUPS)])
    return markdown_table(lines)


def _spread(trainings: Sequence[Sequence[KeptTrial]], group: PromptGroup) -> str:
    shares = []
    for own in trainings:
        hits = [answer.hits[1] for one in own for answer in one.answers if answer.check.group == group]
        shares += [100 * sum(hits) / len(hits)] if hits else []
    if not shares:
        return "n/a"
    return f"{', '.join(f'{share:.0f}' for share in shares)} %; sd {statistics.stdev(shares):.1f}"


def budgets(trials: Sequence[KeptTrial]) -> str:
    """A row a method: what bounds its training here and in its paper, and the seconds of each training."""
    from unconcept.core.recipe import load_recipe
    from unconcept.methods import methods

    lines = [["", "bounded by", "here", "its paper", "seconds, here"], ["---"] * 5]
    for label, own in group_by_label(trials).items():
        setting, paper = BUDGETS[own[0].method]
        usual = load_recipe(paper).settings.get(setting, getattr(methods[own[0].method].settings, setting, None))
        here = ", ".join(dict.fromkeys(str(one.settings[setting]) for one in own))
        seconds = ", ".join(f"{one.cost['seconds']:.0f}" for one in own)
        lines.append([label, setting, here, str(usual), seconds])
    return markdown_table(lines)


def titled(tables: Mapping[str, str]) -> str:
    """Tables under headings; empty ones are left out."""
    return "\n".join(f"### {title}\n\n{text}" for title, text in tables.items() if text)
