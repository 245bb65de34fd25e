"""docs/results.md, and another embedded model's docs/results-MODEL.md, made of kept trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import results_tables as made
from benchmarks.kept import name_for
from benchmarks.kept_trials import KeptTrial
from benchmarks.report_concepts import together
from benchmarks.state_rank import rank_sentence
from unconcept.evaluation.trials.report import judge_calibration
from unconcept.evaluation.trials.variants import variant_rows
from unconcept.report.html import trade_off_svg
from unconcept.worlds.registry import DEFAULT_MODEL

MAIN = "uce"
HEAD = """# Results on `{model}`

Share of pictures that show what the prompt asks for, by {judge} version {version} (weights {hash}); unedited and
edited model from the same noise, seeds from 1,000,000 on, {steps} steps, guidance {guidance}; 95 % intervals. Every
concept is a `report` concept of the table {table}; those of the first table are drawn by hash. Settings were chosen on
other concepts ([tuning]({tuning}.md)). Synonyms and near objects are held-out ones; background, count and left/right
are of other objects. "nothing" is the share of the target's prompts in which the judge then knows nothing.

A prompt is a cluster, a concept is a cluster above it. Intervals resample concepts. In tables of changes, p and the
detectable change are of a test that flips the signs of whole prompts: they hold for these concepts only, with Holm's
correction over the whole table. In tables of rates the detectable change is that of a test over concepts. Detectable:
the smallest true change that a test finds in 80 % of cases, if all of it goes one way and a cluster changes as a whole;
a test that can find none prints no p.

Made by `{command}` of the rows in `benchmarks/measured`.
A row is missing until its edits were measured on this world.

"""
RIVALS = """One edit a method for each of {count} concepts ({names}).{scripts}
word-filter and output-filter edit nothing: the one draws no prompt that names the target, the other withholds a picture
in which a second judge finds it, and a grey picture counts as nothing.

"""
SCRIPTS = """ The rows "null anchor" are UCE as its papers'
scripts run it: the name alone, read as nothing, nothing retained."""
CHART = "![Target gone against far objects kept]({chart}.svg)\n\n"
UCE = """One edit for each of {count} concepts ({names}), pooled.

Goals: target <= 10 % (>= 85 % before) with a known object drawn instead in >= 80 %, held-out synonyms <= 25 % (>= 70 %
before), far objects and other styles lose at most 5 points, held-out near neighbours at most 15.

"""
TOGETHER = """One edit for all concepts of a request, about 48 prompts a group shared among them, one each at least;
near neighbours that are erased themselves are left out. Intervals resample the concepts that prompts are about; of a
single concept they are Wilson's.

"""
TRAINED = """The same trainings under three seeds, on {names}: share of pictures after each, pooled, and the standard
deviation between trainings.

"""
PARTS = """The study of the paper (arXiv:2405.07288) on {names}: which of the text encoder's parameters the same steps
up the loss move. All have the recipe's rate, which was chosen for its own `parts`, so that a part of few or small
tensors may move too little to erase.

"""
BUDGETS = """What each training of the first table took, beside the budget of its paper:

"""


@dataclass(frozen=True)
class Found:
    """Kept trials of each table, and what the table is to hold."""

    trials: Mapping[str, Sequence[KeptTrial]]
    labels: Mapping[str, Sequence[str]]
    requests: Mapping[str, Sequence[tuple[str, ...]]]


def page(basis: Mapping[str, Any], found: Found, stale: Sequence[str], model: str = DEFAULT_MODEL) -> tuple[str, str]:
    """The page, and its chart."""
    judge, drawing = basis["judge"], basis["drawing"]
    head = HEAD.format(
        model=basis["models"][0],
        judge=judge[0],
        version=judge[1],
        hash=judge[2][:12],
        steps=drawing["steps"],
        guidance=drawing["guidance_scale"],
        table=basis["table"][:12],
        tuning=name_for(model, "tuning"),
        command="make results" if model == DEFAULT_MODEL else f"python -m benchmarks.results --model {model}",
    )
    left_out = "".join(f"- {line}\n" for line in stale)
    if left_out:
        head += f"Kept rows that are left out:\n\n{left_out}\n"
    complete, _ = made.whole(found.trials["rivals"], found.labels["rivals"], found.requests["rivals"])
    sections = {"Methods beside each other": rivals(found, name_for(model, "results"))}
    titles = {
        "UCE": ("uce", many),
        "Erased together": ("together", erased_together),
        "Trained methods": ("trained", trained),
        "Few-shot erasing: what moves": ("parts", encoder_parts),
    }
    sections |= {title: made_of(found) for title, (table, made_of) in titles.items() if table in found.requests}
    text = head + "\n".join(f"## {title}\n\n{section}" for title, section in sections.items())
    return text, trade_off_svg({one.label: one.groups for one in variant_rows(complete)})


def rivals(found: Found, chart: str) -> str:
    """Methods beside each other: rates, figures, changes against the unedited model and against UCE, each edit."""
    trials, labels, requests = (part["rivals"] for part in (found.trials, found.labels, found.requests))
    complete, others = made.whole(trials, labels, requests)
    scripts = SCRIPTS if any("null anchor" in label for label in labels) else ""
    text = RIVALS.format(count=len(requests), names=_names(requests), scripts=scripts) + others
    if complete:
        main = [one for one in complete if one.label == MAIN]
        beside = made.against(complete, main)
        text += CHART.format(chart=chart) + made.rates(complete) + f"\n{judge_calibration(complete)}\n\n"
        tables = {
            "Change against the unedited model, points": made.changes(complete),
            "Change against UCE on the same noise, points": made.changes(beside) if beside else "",
            "Variety and distance": made.FIGURES_MEANING + made.figures(complete),
        }
        text += made.titled(tables) + "\n"
    each = made.EACH_MEANING + made.each_edit(trials, labels, requests)
    replaced = made.INSTEAD_MEANING + made.instead(trials, labels, requests)
    return text + made.titled({"Each edit": each, "Drawn instead": replaced})


def many(found: Found) -> str:
    """UCE on more concepts."""
    trials, labels, requests = (part["uce"] for part in (found.trials, found.labels, found.requests))
    complete, others = made.whole(trials, labels, requests)
    text = UCE.format(count=len(requests), names=_names(requests)) + others
    return f"{text}{made.rates(complete)}\n{made.changes(complete)}" if complete else text


def erased_together(found: Found) -> str:
    """A table for each request."""
    trials, labels = found.trials["together"], found.labels["together"]
    parts = {}
    for name, concepts in together().items():
        own, others = made.whole([one for one in trials if one.concepts == concepts], labels, [concepts])
        parts[name] = others.replace(" (0 of 1 edits)", "") + made.rates(own)
    return f"{TOGETHER}{rank_sentence()}\n\n{made.titled(parts)}"


def trained(found: Found) -> str:
    """Seeds of trainings, and what they took."""
    requests = found.requests["trained"]
    labels = dict[str, list[str]]()
    for label in found.labels["trained"]:
        labels.setdefault(label.partition(",")[0], []).append(label)
    text = TRAINED.format(names=_names(requests)) + made.seeds(found.trials["trained"], labels, requests)
    took = [one for one in found.trials["rivals"] if one.label in labels]
    return f"{text}\n{BUDGETS}{made.budgets(took)}" if took else text


def encoder_parts(found: Found) -> str:
    """Few-shot erasing with each choice of what it trains: rates, and what is drawn instead."""
    trials, labels, requests = (part["parts"] for part in (found.trials, found.labels, found.requests))
    complete, others = made.whole(trials, labels, requests)
    text = PARTS.format(names=_names(requests)) + others
    if not complete:
        return text
    replaced = made.INSTEAD_MEANING + made.instead(complete, labels, requests)
    return f"{text}{made.rates(complete)}\n{made.titled({'Drawn instead by what moves': replaced})}"


def _names(requests: Sequence[tuple[str, ...]]) -> str:
    return ", ".join(", ".join(names) for names in requests)
