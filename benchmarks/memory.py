"""What erasing from a large checkpoint and writing the edited one take, at the shape of SDXL or FLUX: `python -m
benchmarks.memory sdxl`.

One concept with UCE on random weights, each command a process of its own on one thread. Needs 2 x 7 GB of disk for SDXL
and 2 x 35 GB for FLUX, less where files can be linked; `--layers 1` leaves out transformer blocks, which the edit does
not read.
"""

import argparse
import shutil
from pathlib import Path

from benchmarks.children import measured
from benchmarks.names import names
from benchmarks.speed import show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=("sd14", "sdxl", "flux"))
    parser.add_argument("--layers", help="FLUX's blocks of each kind, instead of 19 and 38")
    parser.add_argument(
        "--vocabulary", help="CLIP's bpe_simple_vocab_16e6.txt.gz, where open_clip_torch is not installed"
    )
    parser.add_argument("--place", type=Path, default=Path("out/memory"), help="made for this, and removed at the end")
    args = parser.parse_args()
    model, edit, (name,) = args.place / args.shape, args.place / "edit", names(1)
    flags = {"--layers": args.layers, "--vocabulary": args.vocabulary}
    try:
        measured(
            [
                "benchmarks.shapes",
                args.shape,
                str(model),
                *(word for flag, value in flags.items() if value for word in (flag, value)),
            ]
        )
        show([("command", "CPU s", "peak, GiB"), ("---",) * 3])
        common = ["--model", str(model), "--out"]
        for command in (
            ["erase", name, "--method", "uce", "--anchor", "person", "--no-report", "--quiet", *common, str(edit)],
            ["apply", str(edit / "edit.safetensors"), *common, str(args.place / "edited")],
        ):
            cost = measured(["unconcept", *command])
            show([(f"unconcept {command[0]}", f"{cost.seconds:.1f}", f"{cost.gib:.2f}")])
    finally:
        shutil.rmtree(args.place, ignore_errors=True)


if __name__ == "__main__":
    main()
