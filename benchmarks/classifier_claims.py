"""What the papers lead one to expect of `benchmarks.classifiers`, and whether it was found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .classifier_data import DIGITS, DRAWINGS

Found = Mapping[str, dict]


@dataclass(frozen=True)
class Claim:
    """A figure of each seed of a trial, and the least or the most that it should be."""

    text: str
    trial: str
    figure: Callable[[dict], float]
    least: float = float("-inf")
    most: float = float("inf")
    form: str = "{:.1%}"


@dataclass(frozen=True)
class Gain:
    """What a trial has more of a figure than another, seed by seed, in points."""

    text: str
    trial: str
    other: str
    figure: str
    least: float


def _last(kind: str) -> Callable[[dict], float]:
    return lambda own: own["tasks"][-1][kind]


def _first(kind: str) -> Callable[[dict], float]:
    return lambda own: own["tasks"][0][kind]


_IN_SEQUENCE = tuple(
    Claim(f"{method}, {data}, vit: {text}", f"sequence/{method}/{data}/vit/", _last(kind), least, most)
    for method in ("gs-lora", "gs-lora-plus", "stochastic-teacher")
    for data in (DIGITS, DRAWINGS)
    for text, kind, least, most in (
        ("forgotten at most 5 % at the last request", "forgotten", 0.0, 0.05),
        ("earlier ones at most 5 % then", "earlier", 0.0, 0.05),
        ("remaining at least 95 % then", "remaining", 0.95, 1.0),
    )
)
CLAIMS = (
    *_IN_SEQUENCE,
    Claim("GS-LoRA, alpha 0: forgets, at most 5 %", "sparsity/0/0", _first("forgotten"), most=0.05),
    Claim("GS-LoRA, alpha 0.1 from the start: collapses, forgets nothing", "sparsity/0.1/0", _first("forgotten"), 0.9),
    Claim(
        "GS-LoRA, alpha 0.03 after a warm-up: at most five of six blocks", "sparsity/0.03/4", _first("used"), most=5,
        form="{:.0f}",
    ),
    Claim("stochastic teacher: forgotten at most 5 % after erasing", "teacher/", lambda o: o["erased"][0], most=0.05),
    Claim("... and after the repair", "teacher/", lambda o: o["repaired"][0], most=0.05),
    Claim("... others at least 90 % after the repair", "teacher/", lambda o: o["repaired"][1], 0.9),
    Claim("... 10 points above before it", "teacher/", lambda o: o["repaired"][1] - o["erased"][1], 0.1),
    Claim("... within 6 points of retraining", "teacher/", lambda o: o["retrained"][1] - o["repaired"][1], most=0.06),
    Claim(
        "... random records: their loss within 0.5 nat of retraining", "teacher/",
        lambda o: abs(o["records"]["after"][0] - o["records"]["retrained"][0]), most=0.5, form="{:.2f}",
    ),
    Claim("DOM removing: every training image is learned", "dom/remove/natural/", lambda o: o["learned"], 1.0),
)  # fmt: skip
GAINS = (
    Gain("DOM augmenting: at most 1 point below plain", "dom/augment/natural/", "dom/plain/natural/", "last", -0.01),
    Gain("DOM removing, robust: above plain at the end", "dom/remove/robust/", "dom/plain/robust/", "last", 0.0),
    Gain("DOM augmenting, robust: above plain at the end", "dom/augment/robust/", "dom/plain/robust/", "last", 0.0),
    Gain("Random Erasing: at most 1 point lost on whole images", "erasing/0.5/", "erasing/0/", "whole", -0.01),
    Gain("Random Erasing: 2 points or more won with a hole", "erasing/0.5/", "erasing/0/", "holed", 0.02),
)  # fmt: skip


def section(found: Found) -> str:
    rows = []
    for claim in CLAIMS:
        values = [claim.figure(own) for own in of(found, claim.trial) if "refused" not in own]
        if values:
            met = sum(claim.least <= value <= claim.most for value in values)
            rows.append([claim.text, ", ".join(map(claim.form.format, values)), f"{met} of {len(values)}"])
    for gain in GAINS:
        pairs = zip(of(found, gain.trial), of(found, gain.other), strict=True)
        values = [one[gain.figure] - other[gain.figure] for one, other in pairs]
        if values:
            told = ", ".join(f"{100 * value:+.1f}" for value in values)
            rows.append([gain.text, told, f"{sum(value >= gain.least for value in values)} of {len(values)}"])
    text = "\n## What one would expect, and what was found\n\nOne figure a seed.\n\n"
    return text + table(("expected", "found", "met"), rows)


def of(found: Found, prefix: str) -> list[dict]:
    """The figures of all seeds of a trial."""
    return [own for name, own in found.items() if name.startswith(prefix)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(own) + " |" for own in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"
