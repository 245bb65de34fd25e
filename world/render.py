"""Render the emoji artwork of eight teams once, into one cached file: `python -m world.render`.

The SVG bodies come from npm packages (fetched with `npm pack`); `NOTICE` names their authors and licences.
"""

import json
import subprocess
import tarfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import resvg_py
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

CACHE = Path(__file__).parent / "cache"
SIZE = 64
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
LEFT_OUT = ("flag", "skin-tone", "oclock", "-thirty", "keycap")
MIN_SETS = 6


def fetch(package: str, folder: Path) -> Path:
    """Download an npm package into `folder` unless it is there; return its `package/` folder."""
    target = folder / package.removeprefix("@").replace("/", "-")
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
        )
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


def draw(svg: str) -> bytes:
    """One SVG on white: SIZE x SIZE x 3 bytes."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, background="#ffffff"))
    return Image.open(BytesIO(png)).convert("RGB").resize((SIZE, SIZE)).tobytes()


def render(path: Path) -> None:
    """Write every drawing that at least MIN_SETS sets share to one safetensors file."""
    drawn = {style: icons(fetch(package, CACHE / "npm")) for style, package in SETS.items()}
    counts = Counter(name for names in drawn.values() for name in names)
    shared = sorted(n for n, k in counts.items() if k >= MIN_SETS and not any(word in n for word in LEFT_OUT))
    keys = [(name, style) for name in shared for style in SETS if name in drawn[style]]
    with ProcessPoolExecutor() as pool:
        pixels = pool.map(draw, [drawn[style][name] for name, style in keys], chunksize=64)
        pictures = np.frombuffer(b"".join(pixels), dtype=np.uint8).reshape(-1, SIZE, SIZE, 3)
    index = json.dumps([f"{name}/{style}" for name, style in keys])
    save_file({"pictures": torch.from_numpy(pictures.copy())}, path, metadata={"index": index})
    print(f"{len(keys)} drawings of {len(shared)} names -> {path}")


def artwork() -> tuple[torch.Tensor, dict[tuple[str, str], int]]:
    """Pictures (n, 64, 64, 3) uint8 and where each (icon, style) stands in them; rendered on first use."""
    path = CACHE / "artwork.safetensors"
    if not path.exists():
        render(path)
    with safe_open(path, "pt") as file:
        names = [tuple(key.split("/")) for key in json.loads(file.metadata()["index"])]
        return file.get_tensor("pictures"), {(icon, style): i for i, (icon, style) in enumerate(names)}


if __name__ == "__main__":
    artwork()
