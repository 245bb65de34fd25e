"""moji-judge against labels by eye: `python -m benchmarks.hand_labels --sheets` writes sheets of numbered pictures with
four choices each and "none"; the choices that somebody wrote down, one letter a picture, are compared by the same
command without the flag.

Whoever labels sees neither prompts nor the judge's answers; pictures and choices are in an order that hashes decide.
"""

import argparse
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.own_word import judged_pictures
from benchmarks.report_concepts import report_concepts
from benchmarks.sections import write_sections
from unconcept.cli.console import exit_codes, quiet_libraries

if TYPE_CHECKING:
    from benchmarks.own_word import JudgedPicture

OUT = Path("out/hand-labels")
LABELS = Path(__file__).with_name("hand_labels.txt")
A_CONCEPT = 26  # edited pictures drawn of a concept, and half as many unedited ones
OF_A_SIDE = 100
CHOICES, NONE = "abcd", "n"
ROWS, COLUMNS, PIXELS = 5, 5, 160
HEAD = """# moji-judge against labels by eye

Pictures of the unedited model and of one UCE edit for each of {count} `report` concepts ({names}); \
seeds from 1,000,000 on.
One reader chose for each picture one of four names or none of them, without prompt, edit or the judge's answer \
beside it; the name asked for and the
erased concept are among the four. Agreement: both say that the picture shows what its prompt asks for, or both that \
it does not; exact 95 % intervals.
Made by `python -m benchmarks.hand_labels`.

Styles of eight sets of emoji are hard to tell apart by eye at 64 pixels: their rows say as much of the reader as of the
judge. Of the edited objects on which both differ most are bread: an edit draws something like a bun in its place, which
the judge calls pancakes or a hamburger.

"""


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and the names among which a reader chooses."""

    shown: "JudgedPicture"
    choices: tuple[str, ...]

    def by_eye(self, letter: str) -> bool:
        """Whether the reader chose what the prompt asks for."""
        return letter != NONE and self.choices[CHOICES.index(letter)] in self.shown.check.labels

    @property
    def is_about_style(self) -> bool:
        return self.shown.check.by == "style"

    @property
    def by_judge(self) -> bool:
        return self.shown.theirs in self.shown.check.labels


def labelled_pictures() -> list[LabelledPicture]:
    """As many unedited as edited pictures, in an order that hashes decide."""
    every = [one for name in report_concepts() for one in judged_pictures(name, A_CONCEPT, tuning=False)[1]]
    found: list[LabelledPicture] = []
    for side in ("before", "after"):
        own = sorted((one for one in every if one.side == side), key=_place)
        found += [LabelledPicture(one, _choices(one)) for one in own[:OF_A_SIDE]]
    return sorted(found, key=lambda one: _place(one.shown))


def _place(one: "JudgedPicture") -> str:
    return hashlib.sha256(f"{one.side}\0{one.target}\0{one.check.prompt}".encode()).hexdigest()


def _choices(one: "JudgedPicture") -> tuple[str, ...]:
    """The name asked for, the erased concept if it is of that sort, and others of the sort, in a drawn order."""
    from unconcept.worlds.table import concept_table

    known, rng = concept_table(), random.Random(_place(one))
    styles = [entry.name for entry in known.entries if entry.kind == "style"]
    of_sort = styles if one.check.by == "style" else [entry.name for entry in known.entries if entry.name not in styles]
    first = dict.fromkeys((one.check.labels[0], *((one.target,) if one.target in of_sort else ())))
    others = [name for name in of_sort if name not in first and name not in one.check.labels]
    names = [*first, *rng.sample(others, len(CHOICES) - len(first))]
    return tuple(rng.sample(names, len(names)))


def write_sheets(pictures: Sequence[LabelledPicture]) -> Iterator[Path]:
    """Write sheets of numbered pictures with their choices."""
    from PIL import Image, ImageDraw

    from unconcept.report.images import to_image

    height = PIXELS + 64
    for start in range(0, len(pictures), ROWS * COLUMNS):
        sheet = Image.new("RGB", (COLUMNS * PIXELS, ROWS * height), "white")
        pen = ImageDraw.Draw(sheet)
        for place, one in enumerate(pictures[start : start + ROWS * COLUMNS]):
            left, top = place % COLUMNS * PIXELS, place // COLUMNS * height
            sheet.paste(to_image(one.shown.picture).resize((PIXELS - 8, PIXELS - 8)), (left + 4, top))
            lines = [f"{letter} {name}" for letter, name in zip(CHOICES, one.choices, strict=True)]
            pen.text((left + 4, top + PIXELS - 7), "\n".join([f"{start + place}", *lines]), fill="black")
        path = OUT / f"sheet-{start // (ROWS * COLUMNS)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
        yield path


def agreement(pictures: Sequence[LabelledPicture], letters: str) -> str:
    """Agreement of eye and judge, and how often each finds what the prompt asks for: by side and by what is asked."""
    from unconcept.metrics.intervals import clopper_pearson
    from unconcept.report.markdown import markdown_table

    lines = [["pictures", "asked", "agreement", "shown, by eye", "by moji-judge", "n"], ["---"] * 6]
    for side, title in (("before", "unedited"), ("after", "edited")):
        for asked in ("object", "style"):
            own = [
                (one.by_eye(letter), one.by_judge)
                for one, letter in zip(pictures, letters, strict=True)
                if one.shown.side == side and one.is_about_style == (asked == "style")
            ]
            agree, eye, judge = sum(a == b for a, b in own), sum(a for a, _ in own), sum(b for _, b in own)
            rate = str(clopper_pearson(agree, len(own)))
            lines.append([title, asked, rate, str(eye), str(judge), str(len(own))])
    return markdown_table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--sheets", action="store_true", help="write the sheets, and compare nothing")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    quiet_libraries()
    with exit_codes():
        pictures = labelled_pictures()
        if args.sheets:
            print("\n".join(map(str, write_sheets(pictures))))
            return
        letters = "".join(LABELS.read_text(encoding="utf-8").split())
        head = HEAD.format(count=len(report_concepts()), names=", ".join(report_concepts()))
        found = {"agreement": agreement(pictures, letters)}
        print(write_sections(args.docs / "hand-labels.md", head, {"agreement": "Agreement"}, found))


if __name__ == "__main__":
    main()
