"""How pictures of `moji` changed, whatever they show: distances from the unedited pictures, and agreement with the prompt."""

import torch
from torch import Tensor

from ..metrics.frechet import cubic_mmd, metric_name
from .judges import open_scorer
from .suites import Evidence, Figure

PAIR, FEATURES, CLIP = "moji-judge-features", "moji-judge-embedding", "moji-clip"


def quality(found: Evidence) -> list[Figure]:
    """For target and far prompts: mean distance of pairs, set distance over pairs, CLIP score with the prompt."""
    pictures = found.pictures()
    made: list[Figure] = []
    for group in ("direct", "far"):
        prompts = list(dict.fromkeys(answer.check.prompt for answer in found.of(group)))
        if prompts:
            before, after = (torch.stack([pictures[prompt][side] for prompt in prompts]) for side in (0, 1))
            made += _compared(group, before, after, [prompt.text for prompt in prompts])
    return made


def _compared(group: str, before: Tensor, after: Tensor, texts: list[str]) -> list[Figure]:
    n = len(texts)
    with torch.no_grad():
        apart = float(open_scorer(PAIR).compare(before, after).mean())
        clip = open_scorer(CLIP)
        said = [sum(row["asked"] for row in clip.score(side, texts)) / n for side in (before, after)]
        figures = [Figure(f"distance@{PAIR}, {group}", apart, 0.0, n, "mean over pairs of before and after, 0 for equal pictures")]
        if n > 1:
            embedding = open_scorer(FEATURES)
            moved = cubic_mmd(embedding.features(before), embedding.features(after), size=n, draws=1, paired=True).mean
            figures.append(Figure(f"{metric_name('cubic-mmd', FEATURES)}, {group}", moved, 0.0, n, "between the sets before and after, over pairs"))
    return [*figures, Figure(f"CLIP score@{CLIP}, {group}", 100 * said[1], 100 * said[0], n, "100 * cosine of picture and prompt, mean")]
