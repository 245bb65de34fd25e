"""Write what a state folder holds as float16: `python -m world.ship --state FOLDER --out FOLDER`.

Parts that are not trained yet are left out and named. The package's own weights are replaced by hand, when all bars
are met.
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
JUDGES = ("first", "second", "third")


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
            elif path.is_file():
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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    missing = export(args.state, args.out)
    size = sum(path.stat().st_size for path in args.out.rglob("*.safetensors"))
    print(f"{size:,} bytes of weights -> {args.out}; not trained: {', '.join(missing) or 'nothing'}")
    if size > LIMIT:
        raise SystemExit(f"more than {LIMIT:,} bytes")


if __name__ == "__main__":
    main()
