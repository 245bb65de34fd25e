"""The contact sheet of a sequence: what one method draws of its concepts, request after request and by every remedy."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from unconcept.evaluation.sampling import DrawSpec
    from unconcept.evaluation.tasks.edited_model import EditedModel
    from unconcept.evaluation.tasks.picture_store import PictureStore
    from unconcept.prompts.checks import GroupSizes, Prompt

SIDE, GAP, COLOURS = 48, 2, 128  # pixels of a picture and between two; colours of the palette, which keeps files small
OTHERS = 4  # columns of what is to stay
NAME = "continual-{}-{}.png"


def columns(names: Sequence[str], sizes: "GroupSizes") -> "list[tuple[str, Prompt]]":
    """The first prompt of each concept of the sequence, and of some that are asked about beside them."""
    from unconcept.evaluation.suites.continual import fixed_sequence_checks

    found: dict[tuple[str, str], Prompt] = {}
    for check in fixed_sequence_checks(names, names, sizes):
        found.setdefault((check.group, check.concept), check.prompt)
    targets = [(name, found["direct", name]) for name in names]
    return targets + [(name, prompt) for (group, name), prompt in found.items() if group == "far"][:OTHERS]


def pictures_of(
    subject: "EditedModel", spec: "DrawSpec", prompts: "Sequence[Prompt]", store: "PictureStore"
) -> "list[Tensor]":
    """The pictures of the prompts. Those that were measured are in the store; others are drawn."""
    from unconcept.evaluation.tasks.draw import DrawTask, load_pictures

    missing = tuple(prompt for prompt in prompts if not store.has(subject.picture_key(spec, prompt)))
    if missing:
        DrawTask(subject, spec, missing).run(store)
    pictures = load_pictures(subject, spec, prompts, store)
    return [pictures[prompt] for prompt in prompts]


def grid_image(rows: "Sequence[Sequence[Tensor]]") -> "Image.Image":
    """A picture of all rows, each beside each."""
    from PIL import Image

    from unconcept.report.images import to_image

    step = SIDE + GAP
    sheet = Image.new("RGB", (len(rows[0]) * step - GAP, len(rows) * step - GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(to_image(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x * step, y * step))
    return sheet.quantize(COLOURS)


def save_sheet(
    path: Path,
    names: Sequence[str],
    states: "Sequence[tuple[str, Callable[[], EditedModel]]]",
    sizes: "GroupSizes",
    spec: "DrawSpec",
    store: "PictureStore",
) -> str:
    """Write the sheet, a row a state, and return what its rows and columns are, as Markdown."""
    shown = columns(names, sizes)
    prompts = [prompt for _, prompt in shown]
    grid_image([pictures_of(subject(), spec, prompts, store) for _, subject in states]).save(path, optimize=True)
    rows = "; ".join(label for label, _ in states)
    beside = ", ".join(name for name, _ in shown[len(names) :])
    return (
        f"![One picture of each concept, a row a state]({path.name})\n\nColumns: {', '.join(names)}; beside them,"
        f" to be kept: {beside}. Rows, from above: {rows}. Each column is one prompt and one noise."
    )
