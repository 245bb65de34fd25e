"""What an accelerator computes, beside the CPU: `python -m benchmarks.accelerator`, at most 8 minutes, no downloads.

At toy size every family is edited by every method, attacked by every attack and drawn from under the data types auto,
float16 and bfloat16; the yardstick is the same on the CPU in float32. Then SD 1.4, SDXL, FLUX.1 and Z-Image in their
own shapes, with random weights made on the device: UCE, a short ESD and a drawing, beside the device's own float32
where that fits.

Prints a table and writes `accelerator.json`. Exit code 1 if something failed, or is refused under auto. Shapes are left
out on a CPU. `--only toys` or `--only shapes` takes one half, `--families`, `--methods` and `--attacks` fewer entries.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from diffusers.utils import logging
from torch import Tensor

from benchmarks.accelerator_shapes import SHAPE_NAMES, measure_shape
from tests import tiny
from tests.attacks.cases import QUICK as QUICK_ATTACKS
from tests.attacks.cases import case_of
from tests.methods.planted import planted_services
from tests.methods.quick import quick_settings
from unconcept.attacks import attacks
from unconcept.core import Request
from unconcept.core.errors import UnconceptError
from unconcept.core.settings import build_settings
from unconcept.core.versions import library_versions
from unconcept.edits import Edit
from unconcept.methods import methods
from unconcept.models.loading import find_device
from unconcept.models.precision import dtype_policy
from unconcept.models.views import PipelineView, view_of_pipeline

DTYPES = ("auto", "float16", "bfloat16")
ERASE, DEBIAS = Request(("dog face",), ("goat",), ("cat",)), Request(("dog face",), (), ("cat",))
STEPS, GUIDANCE = 4, 3.0
TOY_SHARE = 0.6  # of the time, where shapes follow


@dataclass(frozen=True)
class Row:
    """One thing that was tried."""

    family: str
    what: str
    dtype: str
    outcome: str
    """ok, refused, failed, does not fit or out of time."""
    difference: float | None = None
    """From float32: of an edit's effect and of a loss relative, of a picture the largest of all pixels, in [0, 1]."""
    seconds: float = 0.0
    peak_bytes: int = 0
    note: str = ""

    @property
    def is_fault(self) -> bool:
        return self.outcome == "failed" or (self.outcome == "refused" and self.dtype == "auto")


def tried(family: str, what: str, dtype: str, device: torch.device, run: Callable[[], float | None]) -> Row:
    """Run something and write down how it went. A fault is a row, because the others are worth having."""
    started = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        row = Row(family, what, dtype, "ok", run())
    except UnconceptError as error:
        row = Row(family, what, dtype, "refused", note=str(error))
    except torch.OutOfMemoryError as error:
        row = Row(family, what, dtype, "does not fit", note=str(error).splitlines()[0])
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        row = Row(family, what, dtype, "failed", note=f"{type(error).__name__} in {where}: {str(error)[:300]}")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        row = replace(row, peak_bytes=torch.cuda.max_memory_allocated(device))
    return replace(row, seconds=round(time.perf_counter() - started, 3))


def toy(family: str, device: torch.device, dtype: str, method: str = "uce") -> PipelineView:
    """A fresh toy that a method can change, on a device, in the types that a `--dtype` means there; on the CPU those
    that it means on CUDA.
    """
    more = tiny.GUIDED.get(family, {}) if methods[method].needs_guidance else {}
    policy = dtype_policy(dtype, torch.device("cuda") if device.type == "cpu" else device)
    view = view_of_pipeline(tiny.pipeline(family, **more).to(device, policy.computing), f"tiny-{family}")
    view.drawing_dtype = policy.drawing
    return view


def edit_of(view: PipelineView, name: str) -> Edit:
    """The method's edit under its quick settings; what it must see is planted."""
    torch.manual_seed(0)
    method = methods[name].settings(**quick_settings(name, view.family))
    return method.erase(view, ERASE if methods[name].does == "erase" else DEBIAS, planted_services(view))


@torch.no_grad()
def effect(view: PipelineView, edit: Edit) -> Tensor:
    """What the edit adds to a prediction of the denoiser, on the CPU."""
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0)).to(view.device, view.dtype)
    timestep = torch.tensor([500], device=view.device)
    before = view.denoise(noise, timestep, ["a dog face"])
    with edit.applied(view):
        after = view.denoise(noise, timestep, ["a dog face"])
    return (after - before).double().cpu()


def drawn(view: PipelineView) -> Tensor:
    """A picture, on the CPU."""
    noise = torch.randn(1, *view.latent_shape, generator=torch.Generator().manual_seed(0))
    return view.sample(["a dog face"], noise, STEPS, GUIDANCE)


def last_loss(view: PipelineView, name: str) -> float | None:
    """Run an attack on UCE's edit; the last loss that it reports."""
    torch.manual_seed(0)
    view.condition(["a"])
    found = None
    settings = build_settings(attacks[name].settings, QUICK_ATTACKS[name])
    for attempt in settings.search(case_of(view, edit_of(view, "uce"))):
        found = attempt.loss if attempt.loss is not None else found
    return None if found is None else float(found)


@cache
def reference(kind: str, family: str, name: str) -> Tensor | float | None:
    """The same on the CPU in float32, once."""
    if kind == "method":
        view = toy(family, torch.device("cpu"), "float32", name)
        return effect(view, edit_of(view, name))
    view = toy(family, torch.device("cpu"), "float32")
    return drawn(view) if kind == "draw" else last_loss(view, name)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))


def try_method(name: str, family: str, device: torch.device, dtype: str) -> float:
    view, wanted = toy(family, device, dtype, name), reference("method", family, name)
    assert isinstance(wanted, Tensor)
    return relative(effect(view, edit_of(view, name)), wanted)


def try_attack(name: str, family: str, device: torch.device, dtype: str) -> float | None:
    found, wanted = last_loss(toy(family, device, dtype), name), reference("attack", family, name)
    if found is None or not isinstance(wanted, float):
        return None
    return abs(found - wanted) / max(abs(wanted), 1e-12)


def try_drawing(family: str, device: torch.device, dtype: str) -> float:
    wanted = reference("draw", family, "")
    assert isinstance(wanted, Tensor)
    return float((drawn(toy(family, device, dtype)) - wanted).abs().max())


def toys(
    device: torch.device, families: Sequence[str], chosen_methods: Sequence[str], chosen_attacks: Sequence[str]
) -> Iterator[tuple[str, str, str, Callable[[], float | None]]]:
    """Everything that is tried at toy size: family, what, data type, and how. auto comes first."""
    for dtype in DTYPES:
        for family in families:
            yield family, "draw", dtype, partial(try_drawing, family, device, dtype)
            for name in chosen_methods:
                if family in methods[name].families:
                    yield family, name, dtype, partial(try_method, name, family, device, dtype)
            for name in chosen_attacks:
                if family in attacks[name].families and "uce" in chosen_methods:
                    yield family, f"attack {name}", dtype, partial(try_attack, name, family, device, dtype)


def summary(rows: Sequence[Row]) -> str:
    """One line for each family and data type, then every fault."""
    lines = [
        f"{'family':12}{'dtype':10}{'ok':>5}{'refused':>9}{'other':>7}"
        f"{'worst difference':>18}{'seconds':>9}{'peak GB':>9}"
    ]
    for family, dtype in dict.fromkeys((row.family, row.dtype) for row in rows):
        own = [row for row in rows if (row.family, row.dtype) == (family, dtype)]
        counts = [sum(row.outcome == outcome for row in own) for outcome in ("ok", "refused")]
        known = [row for row in own if row.difference is not None]
        worst = max(known, key=lambda row: row.difference or 0.0, default=None)
        told = f"{worst.difference:.1e}" if worst else "-"
        peak = max(row.peak_bytes for row in own) / 1e9
        lines.append(
            f"{family:12}{dtype:10}{counts[0]:5}{counts[1]:9}{len(own) - sum(counts):7}{told:>18}"
            f"{sum(row.seconds for row in own):9.1f}{peak:9.2f}"
        )
    for row in rows:
        if row.outcome not in ("ok", "refused") or row.is_fault:
            lines.append(f"  {row.family} {row.what} {row.dtype}: {row.outcome}: {row.note}")
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> list[Row]:
    device = find_device(options.device)
    has_shapes = options.only != "toys" and (device.type != "cpu" or options.only == "shapes")
    started, whole = time.monotonic(), 60 * options.minutes
    rows = []
    if options.only != "shapes":
        end = started + whole * (TOY_SHARE if has_shapes else 1)
        for family, what, dtype, run in toys(device, options.families, options.methods, options.attacks):
            late = time.monotonic() > end
            rows.append(Row(family, what, dtype, "out of time") if late else tried(family, what, dtype, device, run))
    for name in SHAPE_NAMES if has_shapes else ():
        for what, dtype, run in measure_shape(name, device):
            late = time.monotonic() > started + whole
            rows.append(Row(name, what, dtype, "out of time") if late else tried(name, what, dtype, device, run))
    return rows


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", choices=("toys", "shapes"))
    parser.add_argument("--families", nargs="*", default=list(tiny.PIPELINES))
    parser.add_argument("--methods", nargs="*", default=list(methods))
    parser.add_argument("--attacks", nargs="*", default=list(attacks))
    parser.add_argument("--out", type=Path, default=Path("out/accelerator"))
    options = parser.parse_args(words)
    logging.set_verbosity_error()
    rows = measure(options)
    device = find_device(options.device)
    shown = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    options.out.mkdir(parents=True, exist_ok=True)
    data = {"device": shown, "libraries": library_versions(), "rows": [asdict(row) for row in rows]}
    (options.out / "accelerator.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    print(summary(rows))
    if device.type == "cpu":
        print("device cpu: no accelerator was seen; auto is what it would be on CUDA, and shapes are left out")
    return int(any(row.is_fault for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
