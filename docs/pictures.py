"""The pictures of the tutorial, drawn by its own commands: `python docs/pictures.py`.

Each is a grid: a column for each prompt, a row for each state of the model, every column from one noise.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from typer.testing import CliRunner

from unconcept.cli import app

OUT = Path(__file__).parent / "tutorial"
STYLES = ("noto", "twemoji", "ink", "silhouette")
GAP = 4  # pixels between pictures
COLOURS = 128  # of a palette; keeps the files small


def unconcept(*words: object) -> str:
    """Run one command of the tutorial in this process; what it prints."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exit_code != 0:
        raise SystemExit(f"unconcept {words[0]}: {result.stderr}")
    return result.stdout


def drawn(work: Path, name: str, prompts: Sequence[str], *edits: Path) -> list[Image.Image]:
    """Pictures of some prompts, drawn with some edits on."""
    flags = [word for edit in edits for word in ("--edit", edit)]
    unconcept("sample", *prompts, *flags, "--seed", 1, "--out", work / name, "--quiet")
    return load(work / name)


def load(folder: Path) -> list[Image.Image]:
    """The pictures in a folder, in the order of their names."""
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


def save_grid(name: str, rows: Sequence[Sequence[Image.Image]]) -> None:
    """One PNG of all rows."""
    width, height = (side + GAP for side in rows[0][0].size)
    grid = Image.new("RGB", (max(map(len, rows)) * width - GAP, len(rows) * height - GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            grid.paste(picture, (x * width, y * height))
    OUT.mkdir(exist_ok=True)
    grid.quantize(COLOURS).save(OUT / f"{name}.png", optimize=True)


def draw_erased(work: Path) -> Path:
    """The target and its neighbours, before and after."""
    unconcept("erase", "dog face", "--no-report", "--out", work / "dog", "--quiet")
    edit = work / "dog" / "edit.safetensors"
    target = [f"a dog face in {style} style" for style in STYLES]
    others = [f"a {name} in {STYLES[0]} style" for name in ("cat face", "brown bear", "pizza", "guitar")]
    for name, prompts in (("target", target), ("others", others)):
        save_grid(name, [drawn(work, f"{name}-before", prompts), drawn(work, f"{name}-after", prompts, edit)])
    return edit


def draw_attacked(work: Path, edit: Path) -> None:
    """What a search over embeddings brings back."""
    name, out = "derived-embedding", work / "attacked"
    unconcept("attack", name, "dog face", "--edit", edit, "--limit", 4, "--out", out, "--quiet")
    (found,) = sorted((out / "found").iterdir())
    unconcept("sample", "--found", found, "--edit", edit, "--out", work / "found", "--quiet")
    save_grid("attacked", [load(work / "found")])


def draw_ledger(work: Path) -> None:
    """Two requests in force, then one of them revoked."""
    ledger, prompts = work / "legal", ["a dog face", "a pizza", "a guitar", "a cat face"]
    unconcept("ledger", "init", ledger, "--model", "moji", "--method", "uce")
    rows = [drawn(work, "base", prompts)]
    first = json.loads(unconcept("ledger", "add", ledger, "dog face", "--json", "--quiet"))["id"]
    rows.append(in_force(work, ledger, "one", prompts))
    unconcept("ledger", "add", ledger, "pizza", "--quiet")
    rows.append(in_force(work, ledger, "two", prompts))
    unconcept("ledger", "revoke", ledger, first)
    rows.append(in_force(work, ledger, "revoked", prompts))
    save_grid("ledger", rows)


def in_force(work: Path, ledger: Path, name: str, prompts: Sequence[str]) -> list[Image.Image]:
    """What is drawn under the requests in force."""
    unconcept("ledger", "materialize", ledger, "--out", work / name)
    return drawn(work, f"{name}-drawn", prompts, work / name / "edit.safetensors")


def main() -> None:
    """Draw all of them."""
    with TemporaryDirectory() as folder:
        work = Path(folder)
        draw_attacked(work, draw_erased(work))
        draw_ledger(work)


if __name__ == "__main__":
    main()
