"""Write what a state folder holds as float16: `python -m world.ship --state FOLDER --out FOLDER`.

Parts that are not trained yet are left out and named. `--install` puts a complete export into the package in place of
the weights that are there; their version is in each `world.toml`.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .artwork import CACHE

LIMIT = 95_000_000  # bytes of all weights that ship
FOLDERS = {  # Folder of the state: folder of the export.
    "vae": "vae",
    "text": "text",
    "model/unet": "model/unet",
    "model/scheduler": "model/scheduler",
    "flow/transformer": "flow/transformer",
    "flow/scheduler": "flow/scheduler",
}
ROUND = "round.json"  # what a round says of itself
JUDGES = ("first", "second", "third")
WORLDS = Path(__file__).parent.parent / "src" / "unconcept" / "worlds"
INSTALLED = {  # Part of the export: its place below the package's worlds. The second judge checks the first; it stays out.
    "vae": "moji/model/vae",
    "text/text_encoder": "moji/model/text_encoder",
    "text/tokenizer": "moji/model/tokenizer",
    "model/unet": "moji/model/unet",
    "model/scheduler": "moji/model/scheduler",
    "judge-first.safetensors": "moji/judge-first.safetensors",
    "judge-third.safetensors": "moji/judge-third.safetensors",
    "text/text_encoder_2": "moji-flow/model/text_encoder_2",
    "text/tokenizer_2": "moji-flow/model/tokenizer_2",
    "flow/transformer": "moji-flow/model/transformer",
    "flow/scheduler": "moji-flow/model/scheduler",
}


def halve(source: Path, target: Path) -> None:
    """Copy a safetensors file with its numbers as float16."""
    with safe_open(source, "pt") as file:
        weights, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    halved = {name: t.half() if t.dtype == torch.float32 else t for name, t in weights.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(halved, target, metadata=metadata)


def forget_origin(path: Path) -> None:
    """Diffusers writes into each config the folder it was loaded from: a path of the machine that trained it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export(state: Path, out: Path) -> list[str]:
    """Write every finished part; the names of those that are missing."""
    missing = []
    for source, target in FOLDERS.items():
        if not (state / source).is_dir():
            missing.append(source)
            continue
        for path in sorted((state / source).rglob("*")):
            copy = out / target / path.relative_to(state / source)
            if path.suffix == ".safetensors":
                halve(path, copy)
            elif path.is_file() and path.name != ROUND:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                if copy.suffix == ".json":
                    forget_origin(copy)
    for name in JUDGES:
        path = state / f"judge-{name}.safetensors"
        if path.exists():
            halve(path, out / path.name)
        else:
            missing.append(path.name)
    return missing


def shipped_bytes(export: Path) -> int:
    """Of the weights that go into the package."""
    parts = [export / part for part in INSTALLED]
    files = [file for part in parts for file in ([part] if part.is_file() else part.rglob("*.safetensors"))]
    return sum(file.stat().st_size for file in files)


def install(export: Path, worlds: Path = WORLDS) -> None:
    """Put a complete export into the package; nothing of what was in its places stays."""
    missing = [part for part in INSTALLED if not (export / part).exists()]
    if missing:
        raise SystemExit(f"{export} is incomplete: {', '.join(missing)}")
    for part, place in INSTALLED.items():
        source, target = export / part, worlds / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            shutil.copyfile(source, target)
        else:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns(ROUND))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--install", action="store_true", help="then put it into the package")
    args = parser.parse_args(argv)
    missing = export(args.state, args.out)
    size = shipped_bytes(args.out)
    print(f"{size:,} bytes of weights that ship -> {args.out}; not trained: {', '.join(missing) or 'nothing'}")
    if size > LIMIT:
        raise SystemExit(f"more than {LIMIT:,} bytes")
    if args.install:
        install(args.out)


if __name__ == "__main__":
    main()
