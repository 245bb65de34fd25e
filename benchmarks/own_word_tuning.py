"""Settings of `diffusion-classifier`, on tune concepts, given words and seeds of their own: `python -m
benchmarks.own_word_tuning`.

The errors of every candidate are recorded once on the finest grid; each setting is then replayed on them. The rule: of
the settings that agree with moji-judge on 95 % of unedited and 90 % of edited pictures and find the target in at most
5 % of others, the one with the fewest denoiser calls, then the one that agrees most, then the middle threshold.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.own_word import HEAD, OUT, TABLES, Answer, JudgedPicture, answer_of, judged_pictures, row
from benchmarks.report_concepts import require_tune
from benchmarks.sections import write_sections
from unconcept.cli.console import exit_codes, progress, quiet_libraries

if TYPE_CHECKING:
    from unconcept.scorers.diffusion_classifier import ClassifierSettings

CONCEPTS = ("guitar", "horse face", "twemoji", "classic", "crossed swords", "eagle", "camera", "ghost")
PICTURES = 25  # of a concept, before and after
DRAWS, EARLIEST, LATEST = 15, 0.05, 0.85  # of the recorded grid
SPANS = ((0, 15), (3, 9), (0, 9), (6, 9))  # first place and number of places that a setting uses
THRESHOLDS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
MIDDLE = 2.0  # threshold that is taken where several do as well
GOALS = (0.95, 0.9, 0.05)  # agreement unedited and edited, targets found elsewhere at most


@dataclass(frozen=True)
class Arm:
    """A setting, and where its grid begins in the recorded one."""

    settings: "ClassifierSettings"
    first: int


def arms() -> list[Arm]:
    """Spans of the grid, numbers of stages and of kept labels, thresholds."""
    from unconcept.scorers.diffusion_classifier import ClassifierSettings

    width, found = (LATEST - EARLIEST) / DRAWS, []
    for (first, count), keep, threshold in product(SPANS, (1, 2), THRESHOLDS):
        span = {"earliest": EARLIEST + first * width, "latest": EARLIEST + (first + count) * width}
        span = {name: round(share, 2) for name, share in span.items()}
        for draws in ((count,), (3, count), (1, count)):
            found.append(Arm(ClassifierSettings(draws=draws, keep=keep, threshold=threshold, **span), first))
    return found


def recorded(target: str, count: int) -> list[dict[str, Any]]:
    """The errors of all candidates for each picture of a concept, from the file of an earlier run if there is one."""
    path = OUT / f"tuning-{target}-{count}.json"
    if not path.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        judge, pictures = judged_pictures(target, count, tuning=True)
        path.write_text(json.dumps([errors_of(judge, one) for one in pictures]), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def errors_of(judge: Any, one: JudgedPicture) -> dict[str, Any]:
    """The errors of one picture on the recorded grid, with what both judges are asked."""
    import torch

    from unconcept.models.diffusion.vae import encode_images
    from unconcept.scorers.diffusion_classifier import ClassifierSettings, DiffusionClassifier, picture_noises

    finest = ClassifierSettings(draws=(DRAWS,), earliest=EARLIEST, latest=LATEST)
    own = DiffusionClassifier(judge.model.base(), "", judge.labels, judge.styles, judge.targets, finest)
    question = judge.question(one.check)
    asked, texts = own.candidates(question)
    said = {**{("label", name): text for name, text in texts.items()}, **own.general_texts(question)}
    with torch.no_grad():
        clean = encode_images(own.model, one.picture[None])
        rows = own.errors(clean, picture_noises(one.picture, DRAWS, clean), own.steps, list(said.values()))
    answer = answer_of(one, "")
    return {
        "asked": asked,
        "errors": [[*name, line] for name, line in zip(said, rows, strict=True)],
        "wanted": one.check.labels,
        "theirs": one.theirs,
        "target": one.target,
        "answer": vars(answer),
    }


def replayed(kept: dict[str, Any], arm: Arm) -> Answer:
    """The answer about a recorded picture under a setting."""
    from unconcept.scorers.diffusion_classifier import classify_in_stages

    errors = {(kind, name): line for kind, name, line in kept["errors"]}
    labels = [name for kind, name in errors if kind == "label"]
    raw = classify_in_stages(
        arm.settings,
        kept["asked"],
        labels,
        lambda candidates, places: [[errors[one][arm.first + place] for place in places] for one in candidates],
    )
    own = raw["best"] if raw["z"] > arm.settings.threshold else "nothing"
    agree = (kept["theirs"] in kept["wanted"]) == (own in kept["wanted"])
    return Answer(**{**kept["answer"], "agree": agree, "is_target": own == kept["target"]})


def shares(found: Sequence[Answer]) -> tuple[float, float, float]:
    """Agreement before and after, and targets found elsewhere."""
    parts = [[one.agree for one in found if one.side == side] for side in ("before", "after")]
    parts.append([one.is_target for one in found if one.is_other])
    before, after, wrong = (sum(part) / len(part) for part in parts)
    return before, after, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--pictures", type=int, default=PICTURES, help="of a concept, before and after")
    args = parser.parse_args()
    quiet_libraries()
    require_tune(CONCEPTS)
    kept: list[dict[str, Any]] = []
    with exit_codes(), progress(quiet=False) as tell:
        for i, name in enumerate(CONCEPTS):
            tell("record", i, len(CONCEPTS))
            kept += recorded(name, args.pictures)
    tried = [(arm, [replayed(one, arm) for one in kept]) for arm in arms()]
    tried.sort(key=lambda pair: rank(*pair))
    text = settings_table(tried, len(kept))
    print(write_sections(args.docs / "judge.md", HEAD, TABLES, {"settings": text}))


def settings_table(tried: Sequence[tuple[Arm, Sequence[Answer]]], pictures: int) -> str:
    """The best setting of each number of draws, best first, and how many others there are."""
    from unconcept.report.markdown import markdown_table

    head = ["draws", "timesteps", "kept", "threshold", "agreement, unedited", "agreement, edited"]
    lines = [[*head, "target found elsewhere", "calls, at most"], ["---"] * 8]
    shown: set[tuple[int, ...]] = set()
    for arm, found in tried:
        own = arm.settings
        if own.draws not in shown:
            shown.add(own.draws)
            span, calls = f"{own.earliest} to {own.latest}", str(own.calls(3 + own.neighbours))
            draws = ", ".join(map(str, own.draws))
            lines.append([draws, span, str(own.keep), str(own.threshold), *row(found), calls])
    reach = sum(not rank(arm, found)[0] for arm, found in tried)
    before, after, wrong = GOALS
    return (
        f"{pictures} pictures of the tune concepts {', '.join(CONCEPTS)}, given words and tuning seeds. Of {len(tried)}"
        f" settings {reach} agree on {before:.0%} of unedited and {after:.0%} of edited pictures and find the target"
        f" elsewhere in at most {wrong:.0%}; the rule takes the one with the fewest calls, then the one that agrees"
        f" most, then the middle threshold. The best of each number of draws, best first. Made by"
        " `python -m benchmarks.own_word_tuning`.\n\n"
    ) + markdown_table(lines)


def rank(arm: Arm, found: Sequence[Answer]) -> tuple[bool, float, float, float]:
    """What the rule sorts by, best first."""
    before, after, wrong = shares(found)
    reaches = before >= GOALS[0] and after >= GOALS[1] and wrong <= GOALS[2]
    calls = arm.settings.calls(3 + arm.settings.neighbours)
    agreement = wrong - before - after
    off = abs(arm.settings.threshold - MIDDLE)
    return (False, calls, agreement, off) if reaches else (True, agreement, calls, off)


if __name__ == "__main__":
    main()
