"""The page of `benchmarks.protection`: copies recognised by learner and pictures, and whether the goal was reached."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from unconcept.evaluation.protection.proof import CLEAN, NOT_COPIED
from unconcept.metrics.intervals import Rate, clustered_share, wilson

Found = Sequence[Mapping[str, Any]]  # what was measured of each emoji
GOAL = 0.5  # share of the recognised copies that must be gone
PICTURES, STAGES = 3, ("lora", "textual-inversion", "adaptive")  # of `benchmarks.protection`
_PROTECTION = "trajectory-shift"
_HEAD = """# Protecting pictures against personalisation

`unconcept protect PICTURES --out DIR` changes pictures within a budget so that models learn badly from them, and
writes copies, figures and a page of pictures before, after and changed. `--prove` lets textual inversion and LoRA
learn the clean and the protected pictures from the same seeds and counts the copies that are recognised; `--adaptive`
and `--other-base` add what somebody does who knows of the protection. **It delays learning and does not prevent it,
and later attacks work on pictures that are already published.**

`trajectory-shift` moves the noise from which the model itself draws a picture (arXiv:2510.03089, whose training code
is not published: loss, dual ascent and settings are concluded, see its page in the reference). `pixel-pgd`, `jpeg`
and `blur` are controls of the same budget.

## Measured on `moji`

Made by `make protection` (`python -m benchmarks.protection`){took}.
Ten drawings of the artwork that no concept of the table names, {pictures} pictures each (other places, sizes and
grounds), budget 0.05 of pixels (26 dB, which is as much as `moji`'s own autoencoder loses), ten copies a learner.
A copy is **recognised** if the picture nearest to it by the features of `moji-judge-embedding` is a clean one of its
emoji; the others are {others} clean ones of the other nine emoji and ten that the model draws before it learns.
The judge itself knows no name for these emoji. Intervals of 95 % resample emoji, or are Wilson's where there is but
one.
"""
_TRIED = """
## Tried on one picture

Before the settings above were fixed, and too little to rank anything: one picture of `crayon`, LoRA of 64 steps from it
alone, eight copies. Floor (not learned): 0 of 8 recognised, likeness 0.41.

| picture | PSNR, dB | loss | itself recognised | copies recognised | likeness |
|---|---|---|---|---|---|
| clean | - | 0.154 | yes | 3 of 8 (38 % [14, 69]) | 0.582 |
| `trajectory-shift`, 4 steps, 40 iterations, lr 0.01 | 27.2 | 0.166 | yes | 3 of 8 (38 % [14, 69]) | 0.611 |
| `pixel-pgd`, 40 iterations of 2 samples | 26.0 | 0.476 | yes | 0 of 8 (0 % [0, 32]) | 0.447 |
| `jpeg` | 26.0 | 0.176 | | | |
| `blur` | 26.0 | 0.142 | | | |

So the goal, half of the recognised copies gone, is **not reached by `trajectory-shift`** there, and is by the
control in pixels. The cause: one step along the gradient of the shift that spends the whole budget raises the loss
by 13 % (0.141 to 0.160, other draws), where pixels raise it by 209 %. What few steps of the model's own draw is
what the model denoises well; what raises its loss most lies beside that, where pixels can go and a shifted
trajectory cannot. At lr 0.05 the loss even fell, to 0.140.
"""
_TAIL = """
## What may be claimed

Only what the tables show, on this model, at this budget, against these learners: nothing about faces, photographs,
larger models or what will be published tomorrow. The learners' settings were not tuned against the protection, nor
the protection's against them.
"""


def page(found: Found, settings: Mapping[str, Mapping[str, Any]], emoji: Sequence[str]) -> str:
    """The whole page."""
    done = len({one["emoji"] for one in found})
    took = f", {sum(one['seconds'] for one in found):.0f} seconds of one core for {done} of {len(emoji)} emoji"
    others = (len(emoji) - 1) * PICTURES
    parts = [_HEAD.format(took=took if found else "", pictures=PICTURES, others=others)]
    if not found:
        return "\n".join([*parts, "**Nothing is measured yet.**", _TRIED, _TAIL])
    parts.append(_measured(found, emoji))
    parts += ["### The pictures\n", _pictures(found), "### Copies recognised\n", _copies(found)]
    parts += ["### The goal\n", goal(found), "### Settings\n", _settings(settings), _TRIED, _TAIL]
    return "\n".join(parts)


def _measured(found: Found, emoji: Sequence[str]) -> str:
    """Which emoji were measured in which stage, and how many were not."""
    lines = []
    for stage in STAGES:
        names = [one["emoji"] for one in found if one["stage"] == stage]
        missing = (
            f"; **not measured yet: {len(emoji) - len(names)} of {len(emoji)}**" if len(names) < len(emoji) else ""
        )
        lines.append(f"- {stage}: {', '.join(names) or 'none'}{missing}")
    return "\n".join([*lines, ""])


def goal(found: Found) -> str:
    """For each learner: whether half of the recognised copies are gone, or by how much not, and what else was seen."""
    told = []
    for learner in _learners(found):
        clean, shown = _rate(found, learner, CLEAN), _rate(found, learner, _PROTECTION)
        if clean is None or shown is None or not clean.value:
            told.append(f"- {learner}: not to be told; no copy of the clean pictures is recognised.")
            continue
        fall = 1 - shown.value / clean.value
        verdict = "reached" if fall >= GOAL else "**missed**"
        told.append(
            f"- {learner}: {clean.value:.0%} of the copies of clean pictures are recognised, {shown.value:.0%} of"
            f" those of protected ones: {fall:+.0%} gone, goal {GOAL:.0%} {verdict}."
        )
    return "\n".join([*told, "", _cause(found), ""])


def _cause(found: Found) -> str:
    """What the figures say of why."""
    own = _with_figures(found)
    if not own:
        return ""
    losses = {name: mean(one["figures"][name]["loss"] for one in own) for name in own[0]["figures"]}
    rise = {name: value / losses[CLEAN] - 1 for name, value in losses.items()}
    return (
        f"The loss that a learner descends rises by {rise[_PROTECTION]:+.0%} under `trajectory-shift` and by"
        f" {rise['pixel-pgd']:+.0%} under `pixel-pgd` at the same distance, on noise that neither used; JPEG"
        f" {rise['jpeg']:+.0%}, blur {rise['blur']:+.0%}. A learner descends this loss from where the protection left"
        " it, on weights or words that the protection did not foresee: a higher start is not a wall."
    )


def _pictures(found: Found) -> str:
    lines = [
        "| pictures | pixels | PSNR, dB | judge's features | loss | still recognised |",
        "|---|---|---|---|---|---|",
    ]
    own = _with_figures(found)
    for name in own[0]["figures"] if own else ():
        values = {key: mean(one["figures"][name][key] for one in own) for key in own[0]["figures"][name]}
        rate = _rate(found, NOT_COPIED, name)
        shown = "-" if rate is None else _share(rate)
        psnr = "-" if name == CLEAN else f"{values['psnr']:.1f}"
        cells = (f"{values['pixels']:.3f}", psnr, f"{values['judge-features']:.3f}", f"{values['loss']:.3f}", shown)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _copies(found: Found) -> str:
    lines = ["| learner | pictures | steps | copies recognised | likeness | copies |", "|---|---|---|---|---|---|"]
    for learner, pictures in dict.fromkeys((row["learner"], row["pictures"]) for one in found for row in one["rows"]):
        rows, rate = _rows(found, learner, pictures), _rate(found, learner, pictures)
        if learner == NOT_COPIED or rate is None:
            continue
        likeness = mean(row["likeness"] for _, row in rows)
        lines.append(f"| {learner} | {pictures} | {rows[0][1]['steps']} | {_share(rate)} | {likeness:.3f} | {rate.n} |")
    return "\n".join([*lines, ""])


def _settings(settings: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for name, own in settings.items():
        told = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in own.items()
        )
        lines.append(f"- `{name}`: {told}")
    return "\n".join([*lines, ""])


def _with_figures(found: Found) -> Found:
    return [one for one in found if one["figures"]]


def _learners(found: Found) -> list[str]:
    rows = [row for one in found for row in one["rows"]]
    return list(dict.fromkeys(row["learner"] for row in rows if row["pictures"] == CLEAN))


def _rows(found: Found, learner: str, pictures: str) -> list[tuple[str, Mapping[str, Any]]]:
    own = [(one["emoji"], row) for one in found for row in one["rows"]]
    return [(emoji, row) for emoji, row in own if (row["learner"], row["pictures"]) == (learner, pictures)]


def _rate(found: Found, learner: str, pictures: str) -> Rate | None:
    """The share over all emoji; None if it was not measured."""
    hits: list[bool] = []
    clusters: list[str] = []
    for emoji, row in dict(_rows(found, learner, pictures)).items():
        count = row["recognised"]["n"]
        shown = round(row["recognised"]["value"] * count)
        hits += [True] * shown + [False] * (count - shown)
        clusters += [emoji] * count
    if not hits:
        return None
    return clustered_share(hits, clusters) if len(set(clusters)) > 1 else wilson(sum(hits), len(hits))


def _share(rate: Rate) -> str:
    return f"{rate.value:.0%} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
