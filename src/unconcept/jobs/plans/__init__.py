"""The plans of all commands that write or take long: `--dry-run`."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...evaluation.judging.judge import Judge
from ...models import find_model
from ...models.checkpoint.hub import PendingDownload, is_hub_id, without_downloads
from ...models.loading import find_network
from .. import command_options as main
from .. import ledger_options as ledgers
from ..options import texts
from ..protection.options import ProtectOptions
from . import erase, evaluate, files, ledger, ledger_views, protect, recheck, worst_case
from .plan import Plan, PlannedDownload, PlannedStep

PLANNERS: dict[type, Callable[[Any], Plan]] = {
    main.EraseOptions: erase.plan_erase,
    main.ApplyOptions: files.plan_apply,
    main.ExportOptions: files.plan_export,
    main.ImportOptions: files.plan_import,
    main.SamplingOptions: files.plan_sample,
    main.InvertOptions: files.plan_invert,
    ProtectOptions: protect.plan_protect,
    main.EvaluateOptions: evaluate.plan_run,
    main.AttackOptions: evaluate.plan_run,
    main.BenchOptions: evaluate.plan_run,
    main.WorstCaseOptions: worst_case.plan_set_search,
    main.RecheckOptions: recheck.plan_recheck,
    ledgers.InitOptions: ledger.plan_init,
    ledgers.AddOptions: ledger.plan_add,
    ledgers.RevokeOptions: ledger.plan_revoke,
    ledgers.ForgetOptions: ledger.plan_forget,
    ledgers.LedgerOptions: ledger.plan_repair,
    ledgers.MaterializeOptions: ledger.plan_materialize,
    ledgers.StatusOptions: ledger_views.plan_status,
    ledgers.DriftOptions: ledger_views.plan_drift,
    ledgers.VerifyOptions: ledger_views.plan_verify,
    ledgers.AuditOptions: ledger_views.plan_audit,
    ledgers.DiffOptions: ledger_views.plan_diff,
}
"""The planner of each command, by the type of its options."""


def plan_command(options: object) -> Plan:
    """Plan the command with these options: nothing is written or fetched. Raises the errors that the command raises.

    If a model would have to be fetched first, that is all that is planned.
    """
    started = PlannedStep("start the program", time.process_time(), "as it took now")
    with without_downloads():
        pending = list(_pending(options))
        try:
            plan = _download_plan(pending) if pending else PLANNERS[type(options)](options)
        except PendingDownload as missing:  # The base of an edit or a ledger.
            plan = _download_plan([missing])
    return replace(plan, steps=(started, *plan.steps))


def _pending(options: object) -> Iterator[PendingDownload]:
    """What would be fetched for the models and judges that the options name."""
    model = getattr(options, "model", None)
    models = [model] if isinstance(model, str) else texts(getattr(options, "models", ()))
    sources: list[tuple[str, Callable[[str], Path]]] = [(each, find_model) for each in models]
    for name in ("judge", "method_judge"):
        given = getattr(options, name, None)
        path = Judge.parse(given).path if given else None
        sources += [(path, find_network)] if path else []
    for source, find in sources:
        if is_hub_id(source) and not Path(source).expanduser().exists():
            try:
                find(source)
            except PendingDownload as missing:
                yield missing


def _download_plan(pending: list[PendingDownload]) -> Plan:
    names = ", ".join(one.name for one in pending)
    told = "plan the rest when it is here: run this command again without --dry-run, or fetch it first"
    steps = (PlannedStep(f"fetch {names}", None, "by the connection"), PlannedStep(told, None))
    downloads = tuple(PlannedDownload(one.name, one.files, one.bytes) for one in pending)
    return Plan({"model": names}, steps, (), downloads)
