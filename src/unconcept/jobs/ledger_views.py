"""The commands of `unconcept ledger` that inspect it: status, drift, verify, audit, diff."""

from typing import Any

from ..core.progress import ProgressCallback, ignore_progress
from ..evaluation.attacks.resurgence_audit import FineTuneResurgence
from ..evaluation.tasks.picture_store import PictureStore, default_store
from ..ledger.audit import audit_requests
from ..ledger.diff import compare_ledgers, compare_releases, is_release
from ..ledger.drift import StateDrift, measure_drift
from ..ledger.drift_history import HistoryStep, drift_history
from ..ledger.ledger import EntryNote, Ledger
from ..ledger.page import write_ledger_page
from ..ledger.status import ledger_status
from ..ledger.storage.heads import read_card_head, read_heads
from ..ledger.verify import VerificationResult, verify_ledger
from ..models.loading import absolute_source
from .ledger import ledger_training, open_ledger_model
from .ledger_options import AuditOptions, DiffOptions, DriftOptions, StatusOptions, VerifyOptions


def status(options: StatusOptions) -> dict[str, Any]:
    """Show which requests are in force, since when, and which contradict one another; with `html`, also as a page."""
    ledger = Ledger.open(options.folder, torn=True)
    found = ledger_status(ledger, ledger.refresh(torn=True))
    if options.html is not None:
        model = open_ledger_model(ledger, options.model, "auto")
        write_ledger_page(ledger, found, model, options.html, options.overwrite)
    return found


def drift(options: DriftOptions, progress: ProgressCallback = ignore_progress) -> StateDrift | list[HistoryStep]:
    """Measure how far the state is from the base; with `history`, after every entry."""
    ledger = Ledger.open(options.folder)
    model = open_ledger_model(ledger, options.model, options.device)
    if options.history:
        return drift_history(ledger, model)
    with ledger_training(ledger, ["drift"], progress):
        return measure_drift(ledger, model)


def verify(options: VerifyOptions, progress: ProgressCallback = ignore_progress) -> VerificationResult:
    """Hash all files again and rebuild the state; list every fault."""
    heads = list(read_heads(options.head)) if options.head else []
    heads += [read_card_head(options.card)] if options.card else []
    found = verify_ledger(options.folder, None, heads)
    if options.bytes_only or found.faults or found.torn:
        return found
    ledger = Ledger.open(options.folder)
    with ledger_training(ledger, ["verify"], progress):
        return verify_ledger(options.folder, open_ledger_model(ledger, options.model, "auto"), heads)


def audit(options: AuditOptions, progress: ProgressCallback = ignore_progress) -> dict[str, Any]:
    """Fine-tune the edited model a little on other pictures, count whether erased concepts come back, and fold the
    ledger again on the result.
    """
    ledger = Ledger.open(options.folder)
    base = absolute_source(options.model or ledger.first["model"])
    store = PictureStore(default_store())
    probe = FineTuneResurgence(store, options.pictures, options.steps, seed=options.seed, model=base)
    with ledger_training(ledger, ["audit"], progress):
        model = open_ledger_model(ledger, options.model, options.device)
        return audit_requests(ledger, model, probe, EntryNote(options.by, ""), options.id)


def diff(options: DiffOptions) -> dict[str, Any]:
    """Compare the requests in force and the policies of two ledgers, or the edits of two releases."""
    if is_release(options.folder) and is_release(options.other):
        return compare_releases(options.folder, options.other)
    return compare_ledgers(Ledger.open(options.folder), Ledger.open(options.other))
