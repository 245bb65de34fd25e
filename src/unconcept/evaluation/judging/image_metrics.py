"""Measures how pictures changed, whatever they show: distance from the unedited pictures, agreement with the prompt."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from ...metrics.frechet import cubic_mmd, metric_name
from ...prompts.checks import Prompt
from ...scorers import RawScore
from .evidence import SuiteFigure, TrialEvidence
from .judge import ImageMeasures, image_measures


def image_quality_figures(found: TrialEvidence) -> list[SuiteFigure]:
    """Compute for target and far prompts: mean distance of pairs, distance between sets, CLIP score with the prompt,
    and how far pictures of one prompt still differ.
    """
    pictures, by = found.pictures(), image_measures(found.judge)
    made: list[SuiteFigure] = []
    for group in ("direct", "far"):
        prompts = list(dict.fromkeys(answer.check.prompt for answer in found.answers_in(group)))
        if prompts:
            before, after = stack_images(pictures, prompts, 0), stack_images(pictures, prompts, 1)
            made += image_distances(by, group, before, after) + prompt_agreement(
                by, group, before, after, [prompt.text for prompt in prompts]
            )
            made += kept_variety(by, group, before, after, [prompt.text for prompt in prompts])
    return made


def stack_images(pictures: Mapping[Prompt, tuple[Tensor, Tensor]], prompts: Sequence[Prompt], side: int) -> Tensor:
    """Stack the pictures before (0) or after (1) to (n, 3, h, w), in the order of the prompts."""
    return torch.stack([pictures[prompt][side] for prompt in prompts])


@torch.no_grad()
def image_distances(by: ImageMeasures, what: str, before: Tensor, after: Tensor) -> list[SuiteFigure]:
    """Measure how far pictures (n, 3, h, w) moved, in pairs and as a set."""
    n, made = len(before), []
    if by.pair is not None:
        distance = float(by.pair.compare(before, after).mean())
        made.append(
            SuiteFigure(
                f"distance@{by.pair.name}, {what}",
                distance,
                0.0,
                n,
                "mean over pairs of before and after, 0 for equal pictures",
            )
        )
    if by.embedding is not None and n > 1:
        moved = cubic_mmd(
            by.embedding.features(before), by.embedding.features(after), size=n, draws=1, paired=True
        ).mean
        made.append(
            SuiteFigure(
                f"{metric_name('cubic-mmd', by.embedding.name)}, {what}",
                moved,
                0.0,
                n,
                "between the sets before and after, over pairs",
            )
        )
    return made


@torch.no_grad()
def kept_variety(by: ImageMeasures, what: str, before: Tensor, after: Tensor, texts: list[str]) -> list[SuiteFigure]:
    """Measure how far pictures (n, 3, h, w) of one text differ, after over before; nothing if no text has two."""
    pairs = [(i, j) for i, j in combinations(range(len(texts)), 2) if texts[i] == texts[j]]
    if by.pair is None or not pairs:
        return []
    first, second = (list(side) for side in zip(*pairs, strict=True))
    old, new = (float(by.pair.compare(side[first], side[second]).mean()) for side in (before, after))
    if not old:
        return []
    formula = "mean distance of pictures of one prompt from different noise, after over before"
    return [SuiteFigure(f"variety kept@{by.pair.name}, {what}", new / old, 1.0, len(pairs), formula)]


@torch.no_grad()
def prompt_agreement(
    by: ImageMeasures, what: str, before: Tensor, after: Tensor, texts: list[str]
) -> list[SuiteFigure]:
    """Compute the CLIP score of pictures (n, 3, h, w) with their prompts."""
    if by.clip is None:
        return []
    old, new = (mean_clip_score(by.clip.score(side, texts)) for side in (before, after))
    return [
        SuiteFigure(
            f"CLIP score@{by.clip.name}, {what}",
            new,
            old,
            len(texts),
            "100 * max(cosine of picture and prompt, 0), mean",
        )
    ]


def mean_clip_score(rows: Sequence[RawScore]) -> float:
    """100 * max(cosine, 0), mean over the rows of a scorer of agreement."""
    cosines: list[float] = [max(row["asked"], 0.0) for row in rows]
    return 100 * sum(cosines) / len(rows)
