"""Evaluate finished edits, or bench methods by concepts: one folder with report, data and tables."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..attacks import attacks
from ..core.errors import RequestError, require
from ..models.open import MOJI
from ..moji.table import table
from .bench import Arm, Finding, bench, edit_trial, examine
from .circumstances import circumstances
from .folder import PARTIAL, building
from .generate import spec_for
from .page import write_page, write_tables
from .report import Report, write_data, write_run
from .store import Store, default_store
from .subject import Subject
from .suites import Suite, suites
from .trials import Bench, both_sides
from .work import Progress, Record, Tally


@dataclass(frozen=True)
class Run:
    """What an evaluation may be told; None means the default. With `edits` they are examined, with `arms` edits are made."""

    concepts: tuple[str, ...]
    out: Path
    edits: tuple[Path, ...] = ()
    arms: tuple[Arm, ...] = ()
    suite: str = "quick"
    attacks: tuple[str, ...] | None = None  # None: the suite's own
    model: str = MOJI
    strength: float = 1.0
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 24
    limit: int | None = None
    max_minutes: float | None = None
    workers: int | None = None
    seed: int = 0
    overwrite: bool = False
    store: Path | None = None


def evaluate(run: Run, progress: Progress = lambda what, done, of: None) -> Report:
    """Do it all, or go on with it; what is missing makes the report PARTIAL, and the same command goes on from there."""
    begun = time.perf_counter()
    suite = _suite(run)
    require(bool(run.concepts), "no concept: name at least one", RequestError)
    require(run.model == MOJI, f"model {run.model}: only {MOJI} has a judge of its own; draw other models with `unconcept erase` or `sample`", RequestError)
    for name in run.concepts:
        table()[name]
    unedited = Subject(run.model, device=run.device, dtype=run.dtype)
    asked = [run.concepts[: i + 1] if suite.stepwise else run.concepts for i in range(len(run.edits))]
    trials = [edit_trial(path, unedited, names, run.strength) for path, names in zip(run.edits, asked, strict=True)]
    identity = {k: str(v) for k, v in vars(run).items() if k not in ("out", "overwrite", "max_minutes", "workers", "store")}
    identity["edits"] = str([trial.subject.key for trial in trials])
    with building(run.out, identity, run.overwrite) as folder:
        deadline = None if run.max_minutes is None else time.monotonic() + 60 * run.max_minutes
        spec, record = spec_for(run.model, batch_size=run.batch_size), Record(folder / "record.sqlite")
        where = Bench(Store(run.store or default_store()), record, spec, run.workers, deadline, progress)
        if run.arms:
            found, tally = bench(run.arms, run.concepts, suite, unedited, folder, where)
        else:
            found, tally = examine(trials, suite, where)
        seconds = {**where.record.seconds(), "total": time.perf_counter() - begun}
        report = Report(found, suite, where.spec, circumstances(unedited.view(), seconds), tally.failed, _missing(run, found, tally))
        write_run(report, folder)
        write_data(report, folder)
        if run.arms and found:
            write_tables(found, folder)
        if found:
            write_page(report, [both_sides(f.answered.trial, f.answered.checks, where) for f in found], folder)
        (folder / PARTIAL).unlink(missing_ok=True)
        if report.status == "ok":
            (folder / "record.sqlite").unlink()
        else:
            (folder / PARTIAL).write_text("the same command goes on from here\n", encoding="utf-8")
    return report


def _suite(run: Run) -> Suite:
    """The suite at its size, with the attacks that were asked for."""
    suite = suites[run.suite].sized(run.limit, run.seed)
    if run.attacks is None:
        return suite
    named = tuple(attacks[name].name for name in run.attacks if name != "*")
    return replace(suite, attacks=named or ("*",))


def _missing(run: Run, found: Sequence[Finding], tally: Tally) -> int:
    """Results that were planned and are not there."""
    wanted = len(run.arms) * len(run.concepts) if run.arms else len(run.edits)
    return wanted - len(found) + tally.left + sum(f.answered.missing + sum(row.missing for row in f.attacked) for f in found)
