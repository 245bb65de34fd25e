"""The files of a student of few steps: its own weights, and a complete diffusers folder with its record.

`python -m world.student --model FOLDER` puts a low-rank student of `moji` into the package as `moji-turbo`; its
`world.toml` says whether it is public.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from unconcept.core.hashing import hash_tensors
from unconcept.models.diffusion.few_step import FEW_STEP_FILE, FewStepRecord
from unconcept.models.loading import find_model
from unconcept.worlds.low_rank import BASE, add_pairs

from .ship import LIMIT, WORLDS

WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"
LOW_RANK = "low_rank.safetensors"


def merged(base: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UNet's weights with a student's: pairs NAME.up and NAME.down beside the base's, or whole ones."""
    whole = {name: t for name, t in own.items() if not name.endswith((".up", ".down"))}
    return add_pairs(base, own) | whole


def write_student(out: Path, teacher: str, own: Mapping[str, Tensor], record: FewStepRecord) -> None:
    """Write the folder `out`, and beside it the weights of a low-rank student alone, all as float16."""
    base, own = find_model(teacher), {name.removeprefix("unet."): t for name, t in own.items()}
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(base, part, ignore=shutil.ignore_patterns(WEIGHTS.name, "README.md"), dirs_exist_ok=True)
    if (base / "vae" / WEIGHTS.name).exists():  # The autoencoder's file has the same name.
        shutil.copyfile(base / "vae" / WEIGHTS.name, part / "vae" / WEIGHTS.name)
    (part / WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
    plain = load_file(base / WEIGHTS)
    weights = {name: t.half().contiguous() for name, t in merged(plain, own).items()}
    save_file(weights, part / WEIGHTS, metadata={"format": "pt"})
    if any(name.endswith(".up") for name in own):
        pairs = {name: t.half().contiguous() for name, t in own.items()}
        save_file(pairs, part / "unet" / LOW_RANK, metadata={BASE: hash_tensors(plain)})
    told = {**asdict(record), "timesteps": {str(n): list(t) for n, t in record.timesteps.items()}}
    (part / FEW_STEP_FILE).write_text(json.dumps(told) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def install(model: Path, worlds: Path = WORLDS) -> int:
    """Put a low-rank student into the package and return the bytes of all weights there; too many are refused."""
    own, place = model / "unet" / LOW_RANK, worlds / "moji-turbo" / "model"
    if not own.is_file():
        raise SystemExit(f"{model} has no {own.name}: train a student with --rank")
    shipped = sum(file.stat().st_size for file in worlds.rglob("*.safetensors") if file != place / "unet" / LOW_RANK)
    size = shipped + own.stat().st_size
    if size > LIMIT:
        raise SystemExit(f"{size:,} bytes of weights with {own}: at most {LIMIT:,} ship, so train one of smaller rank")
    (place / "unet").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(own, place / "unet" / LOW_RANK)
    shutil.copyfile(model / FEW_STEP_FILE, place / FEW_STEP_FILE)
    return size


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a student, `model` in that of a training")
    print(f"{install(parser.parse_args(argv).model):,} bytes of weights ship")


if __name__ == "__main__":
    main()
