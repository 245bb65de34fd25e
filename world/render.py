"""Render the emoji artwork of eight teams into one compact file: `python -m world.render [--data FILE]`.

The SVG bodies come from npm packages (fetched with `npm pack`), labels and tags from emojibase; `NOTICE` names
authors and licences. Every trainer reads this one file, so a machine without npm can train the whole world.
"""

import argparse
import json
import re
import subprocess
import tarfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path

import resvg_py
from PIL import Image

from .artwork import DATA, SIZE, write

SETS = {  # our speaking name of each style: the npm package (pinned: the artwork is part of the model's definition)
    "noto": "@iconify-json/noto@1.2.9",
    "classic": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent": "@iconify-json/fluent-emoji@1.2.7",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "ink": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "emojione": "@iconify-json/emojione@1.2.3",
    "silhouette": "@iconify-json/emojione-monotone@1.2.1",
}
WORDS = "emojibase-data@17.0.0"
LEFT_OUT = re.compile("flag|skin-tone|oclock|-thirty|keycap")
MIN_SETS = 6


def fetch(package: str, folder: Path) -> Path:
    """Download an npm package into `folder` unless it is there; return its `package/` folder."""
    target = folder / package.removeprefix("@").replace("/", "-")
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", package]
        packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        archive = folder / packed.stdout.split()[-1]
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        archive.unlink()
    return target / "package"


def icons(folder: Path) -> dict[str, str]:
    """All drawings of one set as SVG documents, aliases included."""
    data = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    side = data.get("width", 16), data.get("height", 16)
    drawn = {}
    for name in [*data["icons"], *data.get("aliases", {})]:
        entry = data["icons"].get(name) or data["icons"].get(data["aliases"][name]["parent"])
        alias = data.get("aliases", {}).get(name, {})
        if entry is None or set(alias) - {"parent"}:  # An alias of an alias, or one that turns the drawing.
            continue
        width, height = entry.get("width", side[0]), entry.get("height", side[1])
        box = f"{entry.get('left', 0)} {entry.get('top', 0)} {width} {height}"
        drawn[name] = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" color="#000">{entry["body"]}</svg>'
    return drawn


def slug(label: str) -> str:
    """A label as the sets spell it in their names: "Dog face" is dog-face."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")


def words(folder: Path) -> dict[str, list[str]]:
    """Of each name: its label, then its tags, as people look for it."""
    rows = json.loads((folder / "en" / "data.json").read_text(encoding="utf-8"))
    return {slug(row["label"]): [row["label"], *row.get("tags", ())] for row in rows}


def draw(svg: str) -> bytes:
    """One SVG as lossless WebP, SIZE x SIZE, with its alpha."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    out = BytesIO()
    Image.open(BytesIO(png)).convert("RGBA").resize((SIZE, SIZE)).save(out, "WEBP", lossless=True, quality=100)
    return out.getvalue()


def main(argv: list[str] | None = None) -> None:
    """Write every drawing that at least MIN_SETS sets share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args(argv)
    folder = args.data.parent / "npm"
    drawn = {style: icons(fetch(package, folder)) for style, package in SETS.items()}
    counts = Counter(name for names in drawn.values() for name in names)
    frequent = [name for name, count in counts.items() if count >= MIN_SETS]
    shared = sorted(name for name in frequent if not LEFT_OUT.search(name))
    keys = [(name, style) for name in shared for style in SETS if name in drawn[style]]
    with ProcessPoolExecutor() as pool:
        pictures = list(pool.map(draw, [drawn[style][name] for name, style in keys], chunksize=64))
    known = words(fetch(WORDS, folder))
    texts = {name: known.get(name, [name.replace("-", " ")]) for name in shared}
    write(args.data, keys, pictures, texts)
    size = args.data.stat().st_size / 1e6
    print(f"{len(keys)} drawings of {len(shared)} names ({len(known.keys() & set(shared))} with tags), {size:.1f} MB")


if __name__ == "__main__":
    main()
