"""Put trained weights into the package, halved to float16: `python -m world.ship [--model FOLDER]`."""

import argparse
import shutil
from importlib import resources
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file

from .render import CACHE
from .text import save_tokenizer

PACKAGE = Path(str(resources.files("unconcept.moji")))
LIMIT = 50_000_000  # bytes of all shipped weights


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=CACHE / "model")
    parser.add_argument("--judge", type=Path, default=CACHE / "judge-A.safetensors")
    args = parser.parse_args(argv)
    target = PACKAGE / "model"
    shutil.rmtree(target, ignore_errors=True)
    pipeline = StableDiffusionPipeline.from_pretrained(args.model, dtype=torch.float16)
    pipeline.save_pretrained(target)
    save_tokenizer(pipeline.tokenizer, target / "tokenizer")
    with safe_open(args.judge, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    halved = {n: t.half() if t.is_floating_point() else t for n, t in weights.items()}
    save_file(halved, PACKAGE / "judge.safetensors", metadata=metadata)
    size = sum(path.stat().st_size for path in PACKAGE.rglob("*.safetensors"))
    print(f"{size:,} bytes of weights -> {PACKAGE}")
    if size > LIMIT:
        raise SystemExit(f"more than {LIMIT:,} bytes")


if __name__ == "__main__":
    main()
