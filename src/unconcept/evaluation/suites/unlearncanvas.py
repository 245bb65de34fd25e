"""UnlearnCanvas' grid at `moji`'s size: every style by some objects, UA, IRA and CRA (NeurIPS 2024, arXiv:2402.11846).

On other models it is the paper's own grid: 51 themes by 20 objects by 5 seeds. The paper's classifiers, the data
set and Inception are no part of this library: a user gives them (`--judge classifier=FOLDER`, `--references FOLDER` and
a network of features with `--measure`), else a zero-shot CLIP judges, and figures do not compare with the paper's.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ...metrics.frechet import Gaussian, frechet, metric_name
from ...metrics.unlearncanvas import GridRow, grid_accuracies, grid_means, grid_rows
from ...models.images import read_fitted_pictures
from ...prompts.checks import Check, GroupSizes
from ...prompts.unlearncanvas import UNLEARNCANVAS_STYLES, grid_checks, unlearncanvas_set
from ...scorers import FeatureScorer
from ...worlds.scenes import object_caption
from ...worlds.table import concept_table
from ..judging.evidence import SuiteFigure, TrialEvidence
from ..judging.judge import image_measures
from .registry import PooledTrial, Suite, suites

_LEAST_PICTURES = 2  # on each side of a distance between sets
_AT_ONCE = 64  # pictures of which features are computed at once
_GRID_FORMULAS = {
    "ua": "1 - accuracy on the target",
    "ira": "mean accuracy on the other receivers of the target's domain",
    "cra": "mean accuracy on the receivers of the other domain",
}


def style_grid_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make checks of eight styles by `sizes.other` objects, the target included; each picture is judged for its style
    and its object.
    """
    known = concept_table()
    styles = [style.name for style in known.styles]
    first = [e for e in map(known.__getitem__, concepts[:1]) if e.kind != "style"]
    others = [e for e in known.far("held_out", "report") if e not in first and set(styles) <= set(e.styles)]
    made = []
    for entry in (*first, *others)[: max(2, sizes.other)]:
        for style in styles:
            asked = sizes.prompt(object_caption(entry.name, style), 0)
            made.append(Check(asked, "direct" if entry.name in concepts else "far", entry.name, "object", entry.labels))
            made.append(Check(asked, "direct" if style in concepts else "style", style, "style", (style,)))
    return made


def unlearncanvas_paper_checks(concepts: Sequence[str], sizes: GroupSizes) -> list[Check]:
    """Make checks of the whole grid; the first concept is one of its styles or objects, underscores optional."""
    return grid_checks(unlearncanvas_set(concepts[0].replace(" ", "_")).items, sizes, concepts)


def unlearncanvas_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute UA, IRA and CRA of one erased concept; receivers are all styles and objects of the prompts."""
    before, after = (_row(found, side) for side in (0, 1))
    counts = {"ua": 1, "ira": after.n_ira, "cra": after.n_cra}
    return [
        SuiteFigure(name.upper(), getattr(after, name), getattr(before, name), counts[name], formula)
        for name, formula in _GRID_FORMULAS.items()
    ] + _distance(found)


def _distance(found: TrialEvidence) -> list[SuiteFigure]:
    """The Frechet distance of the pictures without the target from real ones; FID if the features are Inception's.

    Nothing without references and a network of features.
    """
    extractor = image_measures(found.judge).embedding
    about_target = {answer.check.prompt for answer in found.answers_in("direct")}
    others = (answer.check.prompt for answer in found.answers if answer.check.prompt not in about_target)
    prompts = list(dict.fromkeys(others))
    if found.references is None or extractor is None or len(prompts) < _LEAST_PICTURES:
        return []
    pictures = found.pictures()
    height, width = pictures[prompts[0]][0].shape[-2:]
    real = read_fitted_pictures(found.references, height, width, _LEAST_PICTURES)
    target = Gaussian.of(_features(extractor, list(real)))
    before, after = zip(*(pictures[prompt] for prompt in prompts), strict=True)
    old, new = (frechet(Gaussian.of(_features(extractor, side)), target, singular=True) for side in (before, after))
    name = f"{metric_name('frechet', extractor.name)}, references"
    formula = f"distance of the pictures without the target from {len(real)} real ones; biased at so few"
    return [SuiteFigure(name, new, old, len(prompts), formula)]


@torch.no_grad()
def _features(extractor: FeatureScorer, pictures: Sequence[Tensor]) -> Tensor:
    """Features (n, d) of pictures (3, h, w)."""
    parts = [pictures[i : i + _AT_ONCE] for i in range(0, len(pictures), _AT_ONCE)]
    return torch.cat([extractor.features(torch.stack(list(part))) for part in parts])


def _row(found: TrialEvidence, side: int) -> GridRow:
    receivers = {by: _asked_by(found, by) for by in ("style", "object")}
    pictures = Counter(answer.check.concept for answer in found.answers)
    acc = grid_accuracies(((found.concepts[0], a.check.concept, a.hits[side]) for a in found.answers), pictures)
    (row,) = grid_rows(acc, [found.concepts[0]], receivers)
    return row


def _asked_by(found: TrialEvidence, by: str) -> list[str]:
    """The concepts of one domain that prompts ask for."""
    return list(dict.fromkeys(answer.check.concept for answer in found.answers if answer.check.by == by))


def unlearncanvas_notes(found: TrialEvidence) -> dict[str, str]:
    """Say who judges in place of the paper's classifiers, and what is not computed."""
    told = {}
    if not _distance_is_possible(found):
        told["UnlearnCanvas, FID"] = (
            "not computed: it needs the data set and Inception, which are no part of this library; give real pictures"
            " with --references FOLDER and a network of features with --measure (clip-embedding=FOLDER, or Inception as"
            " a scorer of your own, docs/extending.md)"
        )
    if found.judge.reader.answers == "scorer":  # A classifier with labels of its own.
        return told
    return told | {
        "UnlearnCanvas": f"judged by {found.judge.open().name}, not by the paper's classifiers: to compare with its"
        " table, give them with --judge classifier=FOLDER"
    }


def _distance_is_possible(found: TrialEvidence) -> bool:
    return found.references is not None and image_measures(found.judge).embedding is not None


def unlearncanvas_means(trials: Sequence[PooledTrial]) -> dict[str, str]:
    """Average UA, IRA and CRA over the targets of each domain, as the paper's table does, with the denominators."""
    rows: dict[str, list[GridRow]] = {}
    for label, concepts, figures in trials:
        own = {figure.name: figure for figure in figures}
        grid = [own[name.upper()] for name in _GRID_FORMULAS if name.upper() in own]
        if len(grid) == len(_GRID_FORMULAS):
            rows.setdefault(label, []).append(_row_of_figures(concepts[0], grid))
    told = {}
    for label, members in rows.items():
        for domain, mean in grid_means(members).items():
            told[f"UnlearnCanvas, {label}, {domain} targets"] = (
                f"{mean.target}: UA {mean.ua:.2%}, IRA {mean.ira:.2%}, CRA {mean.cra:.2%}, over {mean.n_ira} others of"
                f" the domain and {mean.n_cra} of the other"
            )
    return told


def _row_of_figures(target: str, figures: Sequence[SuiteFigure]) -> GridRow:
    ua, ira, cra = figures
    styles = {*UNLEARNCANVAS_STYLES, *(style.name for style in concept_table().styles)}
    domain = "style" if {target, target.replace(" ", "_")} & styles else "object"
    return GridRow(target, domain, ua.value, ira.value, cra.value, ira.n, cra.n)


suites.register("unlearncanvas")(
    Suite(
        "unlearncanvas",
        "UA, IRA, CRA over 8 styles by 12 objects, the paper's grid on other models; one concept an edit",
        GroupSizes(1, 12),
        style_grid_checks,
        unlearncanvas_figures,
        published_questions=unlearncanvas_paper_checks,
        notes=unlearncanvas_notes,
        pool=unlearncanvas_means,
        least_references=_LEAST_PICTURES,
        spec="unlearncanvas-lms100",
    )
)
