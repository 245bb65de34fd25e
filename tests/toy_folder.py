"""A model of random weights at toy size as a diffusers folder: `python -m tests.toy_folder zimage out/toy`.

`--moved 0.02` moves each weight of the denoiser by that share of their spread: a derivative of the same folder.
"""

import argparse
from pathlib import Path

import torch

from tests import tiny


def write(family: str, out: Path, moved: float = 0.0) -> None:
    pipe = tiny.pipeline(family)
    random = torch.Generator().manual_seed(0)
    denoiser = pipe.components.get("transformer") or pipe.unet
    with torch.no_grad():
        for weight in denoiser.parameters() if moved else ():
            spread = weight.std() if weight.numel() > 1 else 0.0
            weight += moved * spread * torch.randn(weight.shape, generator=random)
    pipe.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("family", choices=tiny.PIPELINES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--moved", type=float, default=0.0, help="share of the weights' spread")
    words = parser.parse_args()
    write(words.family, words.out, words.moved)
    print(words.out)
