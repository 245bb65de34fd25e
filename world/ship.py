"""Put trained weights into the package, halved to float16: `python -m world.ship [--model FOLDER]`."""

import argparse
import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file

from .render import CACHE
from .text import save_tokenizer

PACKAGE = Path(str(resources.files("unconcept.worlds")))
LIMIT = 50_000_000  # bytes of all shipped weights


def card(scores: dict[str, Any]) -> str:
    """The model card, with the judged figures."""
    rows = [(name, row) for name, row in scores.items() if isinstance(row, dict) and "low" in row]
    lines = [
        f"| {name} | {r['value']:.1%} | {r['low']:.1%} - {r['high']:.1%} | {r['n']} | {r.get('nothing', 0):.1%} |"
        for name, r in rows
    ]
    spec = scores["spec"]
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
license: apache-2.0
tags:
- unconcept
---

# moji

A small latent text-to-image model that draws emoji in eight artists' styles; the embedded model of unconcept, for trying
and testing concept erasure on a laptop. Trained from openly licensed artwork (see NOTICE); what it can draw, and in
which words, stands in `concepts.toml`. Load it with stock `StableDiffusionPipeline.from_pretrained`.

Share of pictures that show what the prompt asks for, by moji-judge; {spec["steps"]} steps, guidance {spec["guidance_scale"]}, seeds from 1,000,000 on:

| prompts | right | 95 % interval | n | judge knows nothing |
|---|---|---|---|---|
{chr(10).join(lines)}

It draws nothing but the concepts of its table, in English, at 64x64 pixels.
"""


def _forget_origin(path: Path) -> None:
    """Diffusers writes into each config the folder it was loaded from: a path of the machine that trained it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=CACHE / "model")
    parser.add_argument("--judge", type=Path, default=CACHE / "judge-A.safetensors")
    parser.add_argument("--scores", type=Path, default=CACHE / "scores.json", help="what `world.score --json` wrote")
    args = parser.parse_args(argv)
    target = PACKAGE / "model"
    shutil.rmtree(target, ignore_errors=True)
    pipeline = StableDiffusionPipeline.from_pretrained(args.model, dtype=torch.float16)
    pipeline.save_pretrained(target)
    save_tokenizer(pipeline.tokenizer, target / "tokenizer")
    for path in target.rglob("*.json"):
        _forget_origin(path)
    with safe_open(args.judge, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    halved = {n: t.half() if t.is_floating_point() else t for n, t in weights.items()}
    save_file(halved, PACKAGE / "judge.safetensors", metadata=metadata)
    if args.scores.exists():
        (target / "README.md").write_text(card(json.loads(args.scores.read_text(encoding="utf-8"))), encoding="utf-8")
    size = sum(path.stat().st_size for path in PACKAGE.rglob("*.safetensors"))
    print(f"{size:,} bytes of weights -> {PACKAGE}")
    if size > LIMIT:
        raise SystemExit(f"more than {LIMIT:,} bytes")


if __name__ == "__main__":
    main()
