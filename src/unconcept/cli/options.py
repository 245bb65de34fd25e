"""Flags that several commands share: one spelling, one help text."""

from pathlib import Path
from typing import Annotated

import typer

ModelFlag = Annotated[str, typer.Option(help="moji, a diffusers folder, a .safetensors file or a cached Hub id.")]
OutFlag = Annotated[Path, typer.Option(help="Folder to write; it must not exist.")]
DeviceFlag = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
DtypeFlag = Annotated[
    str, typer.Option(help="auto, float64, float32, bfloat16 or float16: what the model computes in.")
]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if this program made it.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
SeedFlag = Annotated[int, typer.Option(help="Seed of the initial noise.")]
BatchSizeFlag = Annotated[int, typer.Option(min=1, max=1024, help="Pictures drawn at once.")]
EditFilesFlag = Annotated[
    list[Path] | None,
    typer.Option("--edit", help="edit.safetensors to draw with; repeatable, all at once.", show_default=False),
]
StrengthFlag = Annotated[float, typer.Option(help="Scale of the edit: 0 = identity, 1 = as made.")]
AssignmentsFlag = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting of the method; repeatable.")
]
RegularisersFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--regulariser",
        metavar="NAME=VALUE",
        help="For trained methods: l1sp, l2sp, selft_topk, projection (update or gradient); repeatable.",
    ),
]
AnchorsFlag = Annotated[
    list[str] | None, typer.Option("--anchor", help="What to read it as: one, or one a concept; '' is legal.")
]
RetainedFlag = Annotated[list[str] | None, typer.Option("--retain", help="Text that must not change; repeatable.")]
KindFlag = Annotated[str | None, typer.Option(help="object, style, person, character, harmful or explicit.")]
LimitFlag = Annotated[int | None, typer.Option(min=1, help="Prompts of a group at most.")]
StaticFlag = Annotated[
    bool,
    typer.Option("--static", help="Write an edit that weighs itself by the prompt at full weight for every prompt."),
]

MixedPrecisionFlag = Annotated[
    str | None,
    typer.Option(
        help="What a trained method's networks compute in: no, bf16 or fp16.  [default: no]", show_default=False
    ),
]
CheckpointingFlag = Annotated[
    bool | None, typer.Option("--checkpointing", help="Train in less memory and a third more time.", show_default=False)
]
RandomErasingFlag = Annotated[
    float | None,
    typer.Option(
        metavar="P", help="Train with a rectangle of each sample erased, with this probability.", show_default=False
    ),
]
DomFlag = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Leave out training steps whose loss fell below this share of its first.",
        show_default=False,
    ),
]
