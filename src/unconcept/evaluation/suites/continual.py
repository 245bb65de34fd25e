"""UA, RA-I and RA-C along a sequence of requests (arXiv:2511.07970): edit number k is tested on the first k concepts.

On other models than the embedded ones the prompts are the paper's: UnlearnCanvas' styles and objects, with its retain
lists.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...metrics.harmonic import harmonic_mean
from ...metrics.intervals import Rate, clustered_share
from ...prompts.checks import Check, GroupSizes, concept_checks, far_entries
from ...prompts.sets import PromptGroup, PromptItem
from ...prompts.unlearncanvas import (
    UNLEARNCANVAS_GUIDANCE,
    UNLEARNCANVAS_RETAINED_OBJECTS,
    UNLEARNCANVAS_RETAINED_STYLES,
    UNLEARNCANVAS_SEEDS,
    UNLEARNCANVAS_STYLES,
    UNLEARNCANVAS_TEMPLATE,
    grid_checks,
    unlearncanvas_set,
)
from ...worlds.scenes import object_caption
from ...worlds.table import concept_table
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.rates import PairedAnswer, hits_of
from .registry import Suite, suites

_CONTINUAL_FORMULAS = (
    ("UA", "1 - accuracy on the requests so far"),
    ("RA-I", "accuracy on held-out concepts of their domain"),
    ("RA-C", "accuracy on concepts of the other domain"),
    ("H", "harmonic mean of the three"),
)


def continual_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make checks of the requests so far and of twelve held-out objects, each with a check of its style."""
    return fixed_sequence_checks(concepts, concepts, sizes)


def fixed_sequence_checks(sequence: Sequence[str], concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make the same checks for the first `concepts` of a known `sequence`.

    Retained concepts are disjoint from the whole sequence, and so the same at every step.
    """
    made = [
        check for name in concepts for check in concept_checks(concept_table()[name], sizes, sizes.direct, "direct")
    ]
    styles = [style.name for style in concept_table().styles if style.name not in sequence]
    for number, other in enumerate(far_entries(sequence, sizes.tuning)[:12]):
        for i in range(sizes.other):
            style = styles[(number + i) % len(styles)]
            drawn = sizes.prompt(object_caption(other.name, style), i)
            made += [
                Check(drawn, "far", other.name, "object", other.labels),
                Check(drawn, "style", style, "style", (style,)),
            ]
    return made


def continual_paper_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make the paper's checks: requests so far and retained concepts of their domain, crossed with the retained
    concepts of the other domain, five seeds each.
    """
    names = [name.replace(" ", "_") for name in concepts]
    for name in names:
        unlearncanvas_set(name)  # Raises an error for a name that is not one of its styles or objects.
    return grid_checks(_steps(names), sizes, concepts)


def _steps(names: Sequence[str]) -> Iterator[PromptItem]:
    style = names[0] in UNLEARNCANVAS_STYLES
    own, other = (
        (UNLEARNCANVAS_RETAINED_STYLES, UNLEARNCANVAS_RETAINED_OBJECTS)
        if style
        else (UNLEARNCANVAS_RETAINED_OBJECTS, UNLEARNCANVAS_RETAINED_STYLES)
    )
    for name in dict.fromkeys((*names, *own)):
        for across in other:
            theme, thing = (name, across) if style else (across, name)
            text = UNLEARNCANVAS_TEMPLATE.format(object=thing.replace("_", " "), style=theme.replace("_", " "))
            groups: tuple[tuple[str, PromptGroup], ...] = ((theme, "style"), (thing, "far"))
            for seed in UNLEARNCANVAS_SEEDS:
                for concept, group in groups:
                    yield PromptItem(
                        text, concept, "direct" if concept in names else group, seed, UNLEARNCANVAS_GUIDANCE
                    )


def continual_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute UA, RA-I, RA-C and H after one request of a sequence, with intervals over concepts.

    H, the harmonic mean of the three, is (inferred): the paper prints curves.
    """
    inside, across = ("style", "far") if found.answers_in("direct")[0].check.by == "style" else ("far", "style")
    shares = [_shares(found.answers_in(group)) for group in ("direct", inside, across)]
    shares[0] = (_not(shares[0][0]), _not(shares[0][1]))
    figures = [
        SuiteFigure(name, new.value, old.value, new.n, formula, (new.low, new.high), (old.low, old.high))
        for (name, formula), (old, new) in zip(_CONTINUAL_FORMULAS, shares, strict=False)
    ]
    before, after = (harmonic_mean(*values) for values in zip(*map(_values, shares), strict=True))
    return [
        *figures,
        SuiteFigure(_CONTINUAL_FORMULAS[3][0], after, before, len(found.answers), _CONTINUAL_FORMULAS[3][1]),
    ]


def _shares(answers: Sequence[PairedAnswer]) -> tuple[Rate, Rate]:
    """Shares before and after of pictures that show what the prompt asks for, clustered by concept."""
    concepts = [answer.check.concept for answer in answers]
    return clustered_share(hits_of(answers, 0), concepts), clustered_share(hits_of(answers, 1), concepts)


def _values(rates: tuple[Rate, Rate]) -> tuple[float, float]:
    return rates[0].value, rates[1].value


def _not(rate: Rate) -> Rate:
    return replace(rate, value=1 - rate.value, low=1 - rate.high, high=1 - rate.low)


suites.register("continual")(
    Suite(
        "continual",
        "UA, RA-I, RA-C: concepts are the requests so far, one edit a step",
        GroupSizes(8, 8),
        continual_checks,
        continual_figures,
        stepwise=True,
        published_questions=continual_paper_checks,
        spec="unlearncanvas-lms100",
    )
)
