"""The model's own word against an independent judge: `diffusion-classifier` beside moji-judge on the same pictures:
`python -m benchmarks.own_word`.

Agreement on unedited and on edited pictures, wrong findings of a target, seconds a picture. Settings were chosen by
`python -m benchmarks.own_word_tuning`. What was drawn and judged is kept, so the same command goes on.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report_concepts import report_concepts
from benchmarks.sections import write_sections
from unconcept.cli.console import exit_codes, progress, quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor

    from unconcept.evaluation.judging.judge import Judge
    from unconcept.prompts.checks import Check

OUT = Path("out/own-word")
PICTURES = 25  # edited pictures of a concept, 200 in all, and half as many unedited ones
SHARES = {"synonym": 0.16, "near": 0.16, "far": 0.16, "style": 0.16}  # of a concept's pictures; the rest is direct
TABLES = {"agreement": "Agreement", "settings": "Settings"}
HEAD = """# The model's own word

`diffusion-classifier` judges by the unedited model's own denoiser (Li et al., ICCV 2023, arXiv:2303.16203): a picture \
shows the candidate
under whose text noise is removed best, if it beats a general text and the empty one; else it shows nothing. \
Candidates are what the prompt
asks for, the erased concept and the nearest other labels, each in the concept's place in the prompt. Beside it stands \
moji-judge, which never
saw a drawn picture. Agreement: of the same picture, both say that it shows what its prompt asks for, or both that it \
does not. "Target found
elsewhere": by the classifier, in pictures of the unedited model drawn for something else. One UCE edit a concept; \
exact 95 % intervals.
This is `moji` 2: on no other model was it measured.

`diffusion-probe=FOLDER` judges by the unedited model's own features (DDAE, arXiv:2303.09769): a linear \
probe, fitted on the pictures in a folder for
each label, a quarter of which it does not see. It answers one of the labels, never "nothing", and is refused \
where it is right of fewer than
80 % of the pictures that were held out. No figures of it on `moji` are kept.

"""
AGREEMENT = """{count} `report` concepts ({names}), drawn by hash; seeds from 1,000,000 on. Seconds are the CPU's, \
of one core, in the
median. Made by `python -m benchmarks.own_word`.

"""


@dataclass(frozen=True)
class JudgedPicture:
    """A picture with its check and the independent judge's answer."""

    target: str
    side: str
    check: "Check"
    picture: "Tensor"
    theirs: str

    @property
    def is_other(self) -> bool:
        """Whether it was drawn by the unedited model for something else than the target."""
        return self.side == "before" and self.check.group not in ("direct", "synonym")


@dataclass(frozen=True)
class Answer:
    """Whether both judges agree about one picture."""

    side: str
    group: str
    agree: bool
    is_other: bool
    """Whether the picture was drawn by the unedited model for something else than the target."""
    is_target: bool
    """Whether the classifier finds the target."""
    seconds: float = 0.0


def answer_of(one: JudgedPicture, own: str, seconds: float = 0.0) -> Answer:
    """Compare both judges: each says whether the picture shows what its prompt asks for."""
    agree = (one.theirs in one.check.labels) == (own in one.check.labels)
    return Answer(one.side, one.check.group, agree, one.is_other, own == one.target, seconds)


def chosen_checks(target: str, count: int, tuning: bool) -> list["Check"]:
    """`count` checks of a concept: `SHARES` of them of other groups, spread over these, and the rest direct."""
    from unconcept.prompts.checks import GroupSizes, moji_checks
    from unconcept.worlds.table import concept_table

    every = moji_checks(concept_table(), (target,), GroupSizes(count, 12, tuning=tuning))
    found: list[Check] = []
    for group, share in SHARES.items():
        members, wanted = [check for check in every if check.group == group], round(share * count)
        found += members[:: max(1, len(members) // max(1, wanted))][:wanted]
    return [*[check for check in every if check.group == "direct"][: count - len(found)], *found]


def judged_pictures(target: str, count: int, tuning: bool) -> tuple["Judge", list[JudgedPicture]]:
    """The classifier of a concept's edit, and the pictures before and after, with moji-judge's answers."""
    from unconcept.core.output_folder import default_store
    from unconcept.edits import load_edit, origin_of
    from unconcept.evaluation.judging.judge import Judge
    from unconcept.evaluation.tasks.draw import load_pictures, plan_draws
    from unconcept.evaluation.tasks.edit_task import EditTask, variant_of_method
    from unconcept.evaluation.tasks.edited_model import EditedModel
    from unconcept.evaluation.tasks.picture_store import PictureStore
    from unconcept.evaluation.tasks.runner import TaskRecord
    from unconcept.evaluation.worlds import world_of

    unedited = EditedModel("moji")
    store, spec = PictureStore(default_store()), world_of("moji").draw_spec(None)
    task = EditTask(unedited, variant_of_method("uce"), (target,), OUT / "edits")
    if not task.is_done(store):
        task.run(store)
    checks, theirs, found = chosen_checks(target, count, tuning), Judge("moji-judge"), list[JudgedPicture]()
    for side, subject in (("before", unedited), ("after", EditedModel.of(unedited, task.path))):
        asked = checks if side == "after" else checks[::2]
        prompts = [check.prompt for check in asked]
        for draw in plan_draws(subject, spec, prompts, store, TaskRecord(OUT / "record.sqlite")):
            draw.run(store)
        pictures = load_pictures(subject, spec, prompts, store)
        for check in asked:
            (raw,) = theirs.open().score(pictures[check.prompt][None], [theirs.question(check)])
            found.append(JudgedPicture(target, side, check, pictures[check.prompt], theirs.label_of(raw, check)))
    anchors = origin_of(load_edit(task.path)).anchors
    return Judge("diffusion-classifier").with_labels(anchors, checks, (target,)).for_model(unedited), found


def answers(target: str, count: int) -> Iterator[Answer]:
    """Both judges about the pictures of a concept."""
    judge, pictures = judged_pictures(target, count, tuning=False)
    opened = judge.open()
    for one in pictures:
        begun = time.process_time()
        (raw,) = opened.score(one.picture[None], [judge.question(one.check)])
        seconds = time.process_time() - begun
        yield answer_of(one, judge.label_of(raw, one.check), seconds)


def row(found: Sequence[Answer]) -> list[str]:
    """Agreement before and after, and targets found elsewhere."""
    from unconcept.metrics.intervals import clopper_pearson

    parts = [[one.agree for one in found if one.side == side] for side in ("before", "after")]
    parts.append([one.is_target for one in found if one.is_other])
    return [f"{clopper_pearson(sum(part), len(part))}, n {len(part)}" for part in parts]


def by_group(found: Sequence[Answer]) -> str:
    """Agreement by group of prompts, before and after."""
    from unconcept.prompts.sets import GROUP_NAMES
    from unconcept.report.markdown import markdown_table

    lines = [["prompts", "unedited", "edited"], ["---"] * 3]
    for group in dict.fromkeys(one.group for one in found):
        parts = [[one.agree for one in found if (one.group, one.side) == (group, side)] for side in ("before", "after")]
        lines.append([GROUP_NAMES[group], *(f"{sum(part)} of {len(part)}" for part in parts)])
    return markdown_table(lines)


def agreement(found: Sequence[Answer], names: Sequence[str]) -> str:
    """What was compared, agreement in all and by group."""
    from unconcept.report.markdown import markdown_table
    from unconcept.scorers.diffusion_classifier import ClassifierSettings

    settings = ClassifierSettings()
    seconds = sorted(one.seconds for one in found)[len(found) // 2]
    lines = [
        ["agreement, unedited", "agreement, edited", "target found elsewhere", "denoiser calls, at most", "seconds"],
        ["---"] * 5,
        [*row(found), str(settings.calls(3 + settings.neighbours)), f"{seconds:.2g}"],
    ]
    head = AGREEMENT.format(count=len(names), names=", ".join(names))
    return f"{head}{markdown_table(lines)}\n{by_group(found)}"


def kept_answers(target: str, count: int) -> list[Answer]:
    """The answers about a concept, from the file of an earlier run under the same settings if there is one."""
    from unconcept.scorers.diffusion_classifier import ClassifierSettings

    key = hashlib.sha256(json.dumps([target, count, str(ClassifierSettings())]).encode()).hexdigest()[:16]
    path = OUT / f"{key}.json"
    if not path.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([vars(one) for one in answers(target, count)]), encoding="utf-8")
    return [Answer(**one) for one in json.loads(path.read_text(encoding="utf-8"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument(
        "--pictures", type=int, default=PICTURES, help="edited pictures of a concept; half as many are unedited"
    )
    parser.add_argument("--limit", type=int, help="concepts at most; the page names them")
    args = parser.parse_args()
    quiet_libraries()
    names, found = report_concepts()[: args.limit], list[Answer]()
    with exit_codes(), progress(quiet=False) as tell:
        for i, name in enumerate(names):
            tell("judge", i, len(names))
            found += kept_answers(name, args.pictures)
    print(write_sections(args.docs / "judge.md", HEAD, TABLES, {"agreement": agreement(found, names)}))


if __name__ == "__main__":
    main()
