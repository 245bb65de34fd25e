"""Distil `moji` into a model of one to four steps: `python -m world.turbo --out FOLDER [--objective pg-sb] [--rank 8]`.

No data: the student draws from captions, and teacher and fake score judge what it draws. The same command goes on from
the state in `--out`, whatever stopped it. `--out` also holds the newest model, in `model`: a folder that opens by its
record alone; `world.few_steps` measures it.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from unconcept.cli.console import exit_codes
from unconcept.core.errors import OutputError, require
from unconcept.core.output_folder import atomic_file
from unconcept.training import TrainingOptions, TrainingProgress, TrainingSession
from unconcept.training.distillation.objectives import objectives
from unconcept.training.session import Rehearsal

from .turbo_training import TurboPlan, TurboTraining

SAVE_SECONDS = 240.0  # between two states
REPORTED = 20  # steps between two lines


class OutOfTime(BaseException):
    """Raised right after a state was saved, when the minutes of this call are over."""


@dataclass
class Clock:
    """Reports progress, writes the newest model after each saved state, and stops when the minutes are over."""

    training: TurboTraining
    out: Path
    minutes: float | None
    begun: float = field(default_factory=time.monotonic)
    saved: float = 0.0  # when the state that is known was written

    def __post_init__(self) -> None:
        self.state = self.out / "turbo.safetensors"
        self.saved = self._written()

    def _written(self) -> float:
        return self.state.stat().st_mtime if self.state.exists() else 0.0

    def __call__(self, progress: TrainingProgress) -> None:
        spent = (time.monotonic() - self.begun) / 60
        if progress.done % REPORTED == 0:
            left = f"{progress.seconds_left / 3600:.2f} hours left"
            print(
                f"step {progress.done} of {progress.of}, loss {progress.loss:.4f}, {spent:.1f} min, {left}", flush=True
            )
        if self._written() == self.saved:
            return
        self.saved = self._written()
        self.training.write(self.out / "model")
        if self.minutes is not None and spent >= self.minutes:
            raise OutOfTime


def estimated_hours(plan: TurboPlan, device: str, options: TrainingOptions) -> float:
    """Hours of a whole training, from a few steps of another one."""
    rehearsal, begun = Rehearsal(), time.perf_counter()
    training = TurboTraining(plan, device)
    built = time.perf_counter() - begun
    training.run(TrainingSession(rehearsal=rehearsal, options=options))
    return (built + rehearsal.left_out) / 3600


def distil_moji(
    plan: TurboPlan, device: str, precision: Literal["no", "bf16"], out: Path, minutes: float | None = None
) -> bool:
    """Train, or go on; whether the plan is complete. `UsageError` for settings that there are not, and for a folder of
    another plan, which stays as it is.
    """
    plan.build_objective()
    record, text = out / "plan.json", json.dumps(asdict(plan), indent=2) + "\n"
    is_same = not record.exists() or record.read_text(encoding="utf-8") == text
    require(is_same, f"{out} holds the training of another plan, see {record}: choose another --out", OutputError)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(record) as part:
        part.write_text(text, encoding="utf-8")
    options = TrainingOptions(mixed_precision=precision)
    print(
        f"about {estimated_hours(plan, device, options):.1f} hours in all, as busy as this machine is now", flush=True
    )
    training = TurboTraining(plan, device)
    session = TrainingSession(Clock(training, out, minutes), out, SAVE_SECONDS, options=options)
    try:
        training.run(session)
    except OutOfTime:
        print(f"stopped; the same command goes on from {out}", flush=True)
        return False
    training.write(out / "model")
    print(f"{plan.objective}, {plan.steps} steps -> {out / 'model'}", flush=True)
    return True


def settings_of(words: Sequence[str]) -> dict[str, float | str | bool]:
    """Settings of an objective from NAME=VALUE."""
    found: dict[str, float | str | bool] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", choices=[*objectives], default=TurboPlan.objective)
    parser.add_argument("--set", nargs="+", default=(), metavar="NAME=VALUE", help="settings of the objective")
    numbers: dict[str, Callable[[str], float]] = {
        name: type(getattr(TurboPlan, name)) for name in TurboPlan.__dataclass_fields__ if name not in _NAMED
    }
    for name, kind in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(TurboPlan, name))
    parser.add_argument("--teacher", default=TurboPlan.teacher, help="an embedded model's name, or a folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true", help="mixed precision")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
    parser.add_argument("--out", type=Path, required=True, help="folder of the state and the model")
    args = parser.parse_args(argv)
    own = {name: getattr(args, name) for name in numbers}
    plan = TurboPlan(args.objective, settings_of(args.set), teacher=args.teacher, **own)
    with exit_codes():
        distil_moji(plan, args.device, "bf16" if args.bfloat16 else "no", args.out, args.minutes)


_NAMED = ("objective", "settings", "teacher")  # options with a form of their own


if __name__ == "__main__":
    main()
