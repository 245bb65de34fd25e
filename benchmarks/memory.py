"""What erasing from a large checkpoint and writing the edited one take, at the shape of SDXL, FLUX.1, FLUX.2 or
Qwen-Image: `python -m benchmarks.memory sdxl`.

One concept, or as many as `--concepts` says, with UCE or another closed form (`--method`), on random weights, each
command a process of its own on one thread. Needs 2 x 7 GB of disk for SDXL and 2 x 35 GB for FLUX, less where files
can be linked; `--layers 1` leaves out transformer blocks, which the edit does not read. `flux2 --text-layers 10,5` or
`qwenimage --text-layers 7,3` measures two depths of the language model, and says what all 40 or 28 layers take on the
line through both.
"""

import argparse
import shutil
from pathlib import Path

from benchmarks.children import measured
from benchmarks.names import names
from benchmarks.speed import show
from unconcept.prompts.captions import load_captions

WHOLE = {"flux2": 40, "qwenimage": 28}  # layers of the language model
# Options of each method: of MACE its refinement, of TRCE its first stage.
METHODS = {"uce": [], "speed": [], "trce": [], "mace": ["--set", "max_train_steps=0"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=("sd14", "sdxl", "flux", "flux2", "qwenimage"))
    parser.add_argument("--layers", help="a transformer's blocks of each kind, instead of FLUX's 19 and 38")
    parser.add_argument("--text-layers", help="a language model's layers, two numbers")
    parser.add_argument("--method", choices=METHODS, default="uce")
    parser.add_argument("--concepts", type=int, default=1, help="made-up names that are erased together")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method")
    parser.add_argument("--captions", type=int, help="of the packaged set that are the prior of trce or mace")
    parser.add_argument(
        "--vocabulary", help="CLIP's bpe_simple_vocab_16e6.txt.gz, where open_clip_torch is not installed"
    )
    parser.add_argument("--place", type=Path, default=Path("out/memory"), help="made for this, and removed at the end")
    args = parser.parse_args()
    depths = [int(count) for count in (args.text_layers or "0").split(",")]
    show([("layers", "command", "CPU s", "peak, GiB"), ("---",) * 4])
    costs = [measure(args, depth) for depth in depths]
    if len(depths) == 2:
        for command in costs[0]:
            (seconds, gib), (less, lower) = (depth[command] for depth in costs)
            more = (WHOLE[args.shape] - depths[0]) / (depths[0] - depths[1])
            whole = seconds + more * (seconds - less), gib + more * (gib - lower)
            show([(f"{WHOLE[args.shape]}, extrapolated", command, f"{whole[0]:.1f}", f"{whole[1]:.2f}")])


def prior(args: argparse.Namespace) -> list[str]:
    """Options that name a file with the first of the packaged captions, which is written."""
    if not args.captions:
        return []
    file = args.place / "captions.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(load_captions("everyday")[: args.captions]), encoding="utf-8")
    return ["--set", f"prior={file}"]


def measure(args: argparse.Namespace, depth: int) -> dict[str, tuple[float, float]]:
    """CPU seconds and GiB of each command at a depth of the language model, 0 for all of it."""
    model, edit = args.place / args.shape, args.place / "edit"
    flags = {"--layers": args.layers, "--vocabulary": args.vocabulary, "--text-layers": str(depth) if depth else None}
    given = [word for flag, value in flags.items() if value for word in (flag, value)]
    program = ["benchmarks.fewer_layers", str(depth)] if depth and args.shape == "flux2" else ["unconcept"]
    common, found = ["--model", str(model), "--out"], dict[str, tuple[float, float]]()
    try:
        measured(["benchmarks.shapes", args.shape, str(model), *given])
        changed = [word for each in args.set for word in ("--set", each)]
        options = ["--method", args.method, *METHODS[args.method], *prior(args), *changed, "--anchor", "person"]
        for command in (
            ["erase", *names(args.concepts), *options, "--no-report", "--quiet", *common, str(edit)],
            ["apply", str(edit / "edit.safetensors"), *common, str(args.place / "edited")],
        ):
            cost = measured([*program, *command])
            found[command[0]] = cost.seconds, cost.gib
            show([(str(depth or "all"), f"unconcept {command[0]}", f"{cost.seconds:.1f}", f"{cost.gib:.2f}")])
    finally:
        shutil.rmtree(args.place, ignore_errors=True)
    return found


if __name__ == "__main__":
    main()
