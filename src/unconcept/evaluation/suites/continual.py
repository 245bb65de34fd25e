"""UA, RA-I and RA-C along a sequence of requests (arXiv:2511.07970): edit number k is asked about the first k concepts.

On other models the questions are the paper's, over UnlearnCanvas' closed world, with its retain lists.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...metrics.harmonic import harmonic
from ...metrics.intervals import Rate, clustered_share
from ...prompts.checks import Check, Sizes, concept_checks, far_entries
from ...prompts.sets import Group, Item
from ...prompts.unlearncanvas import GUIDANCE_SCALE, KEPT_OBJECTS, KEPT_STYLES, SEEDS, STYLES, TEMPLATE, grid_checks, unlearncanvas_set
from ...worlds.prompts import prompt
from ...worlds.table import table
from ..judging.rates import Answer
from .registry import Evidence, Figure, Suite, suites

NAMED = (
    ("UA", "1 - accuracy on the requests so far"),
    ("RA-I", "accuracy on held-out concepts of their domain"),
    ("RA-C", "accuracy on concepts of the other domain"),
    ("H", "harmonic mean of the three"),
)


def ask_step(concepts: Sequence[str], sizes: Sizes) -> list[Check]:
    """The requests so far; twelve held-out objects, each asked for its style too."""
    return ask_within(concepts, concepts, sizes)


def ask_within(sequence: Sequence[str], concepts: Sequence[str], sizes: Sizes) -> list[Check]:
    """The same for the first `concepts` of a `sequence` that is known: what is retained is apart from all of it, and so the same at every step."""
    made = [check for name in concepts for check in concept_checks(table()[name], sizes, sizes.direct, "direct")]
    styles = [style.name for style in table().styles if style.name not in sequence]
    for number, other in enumerate(far_entries(sequence, sizes.tuning)[:12]):
        for i in range(sizes.other):
            style = styles[(number + i) % len(styles)]
            drawn = sizes.prompt(prompt(other.name, style), i)
            made += [Check(drawn, "far", other.name, "object", other.labels), Check(drawn, "style", style, "style", (style,))]
    return made


def ask_paper(concepts: Sequence[str], sizes: Sizes) -> list[Check]:
    """The requests so far and the retained concepts of their domain, by the retained ones of the other, five seeds."""
    names = [name.replace(" ", "_") for name in concepts]
    for name in names:
        unlearncanvas_set(name)  # Refuses what is no style or object of it.
    return grid_checks(_steps(names), sizes, concepts)


def _steps(names: Sequence[str]) -> Iterator[Item]:
    style = names[0] in STYLES
    own, other = (KEPT_STYLES, KEPT_OBJECTS) if style else (KEPT_OBJECTS, KEPT_STYLES)
    for name in dict.fromkeys((*names, *own)):
        for across in other:
            theme, thing = (name, across) if style else (across, name)
            text = TEMPLATE.format(object=thing.replace("_", " "), style=theme.replace("_", " "))
            groups: tuple[tuple[str, Group], ...] = ((theme, "style"), (thing, "far"))
            for seed in SEEDS:
                for concept, group in groups:
                    yield Item(text, concept, "direct" if concept in names else group, seed, GUIDANCE_SCALE)


def step(found: Evidence) -> list[Figure]:
    """After one request of a sequence, intervals over concepts; H of the three is inferred: the paper prints curves."""
    inside, across = ("style", "far") if found.of("direct")[0].check.by == "style" else ("far", "style")
    shares = [[_share(found.of(group), side) for side in (0, 1)] for group in ("direct", inside, across)]
    shares[0] = [_not(rate) for rate in shares[0]]
    figures = [
        Figure(name, new.value, old.value, new.n, formula, (new.low, new.high), (old.low, old.high))
        for (name, formula), (old, new) in zip(NAMED, shares, strict=False)
    ]
    before, after = (harmonic(*(rates[side].value for rates in shares)) for side in (0, 1))
    return [*figures, Figure(NAMED[3][0], after, before, len(found.answers), NAMED[3][1])]


def _share(answers: Sequence[Answer], side: int) -> Rate:
    """Of pictures that show what was asked; pictures of one concept belong together."""
    return clustered_share([answer.shown[side] for answer in answers], [answer.check.concept for answer in answers])


def _not(rate: Rate) -> Rate:
    return replace(rate, value=1 - rate.value, low=1 - rate.high, high=1 - rate.low)


suites.register("continual")(
    Suite(
        "continual",
        "UA, RA-I, RA-C: concepts are the requests so far, one edit a step",
        Sizes(8, 8),
        ask_step,
        step,
        stepwise=True,
        real=ask_paper,
        spec="unlearncanvas-lms100",
    )
)
