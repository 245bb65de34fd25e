"""The commands of `unconcept ledger` that inspect it: status, drift, verify, audit, diff."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import RequestError, SettingsError, require
from ..core.output_folder import default_store, output_errors
from ..core.output_lock import output_lock
from ..core.progress import ProgressCallback, ignore_progress
from ..edits import ApplicableEdit
from ..evaluation.attacks.resurgence_audit import FineTuneResurgence
from ..evaluation.tasks.edited_model import EditedModel
from ..evaluation.tasks.picture_store import PictureStore
from ..ledger.audit import audit_requests, never_drawn
from ..ledger.diff import compare_ledgers, compare_releases, is_release
from ..ledger.drift import StateDrift, measure_drift
from ..ledger.drift_history import HistoryStep, drift_history
from ..ledger.forget import TRAINING_FOLDER
from ..ledger.ledger import EntryNote, Ledger
from ..ledger.page import write_ledger_page
from ..ledger.request_state import RequestState
from ..ledger.status import ledger_status
from ..ledger.storage.heads import read_card_head, read_heads
from ..ledger.verify import VerificationResult, verify_ledger
from ..models import ModelView
from ..models.loading import absolute_source
from ..report.contact_sheet import SheetPair
from ..report.data import TrialData, read_ladders
from .ledger import LEDGER_DTYPE, ledger_training, open_ledger_model
from .ledger_options import AuditOptions, DiffOptions, DriftOptions, StatusOptions, VerifyOptions
from .privacy import may_keep_pictures

_PASSING = "pictures"


def status(options: StatusOptions) -> dict[str, Any]:
    """Show which requests are in force, since when, and which contradict one another; with `html`, also as a page."""
    ledger = Ledger.open(options.folder, torn=True)
    found = ledger_status(ledger, ledger.refresh(torn=True))
    require(options.ladder is None or options.html is not None, "--ladder is for the page: give --html", SettingsError)
    if options.html is not None:
        ladders = _own_ladders(ledger, options.ladder)
        model = open_ledger_model(ledger, options.model, "auto")
        write_ledger_page(ledger, found, model, options.html, options.overwrite, ladders)
    return found


def _own_ladders(ledger: Ledger, report: Path | None) -> list[TrialData]:
    """The ladders of a report. `RequestError` for one about an edit of other concepts than those in force."""
    trials = [] if report is None else read_ladders(report)
    known = {concept for one in ledger.request_states.active for concept in one.content.concepts}
    for trial in trials:
        other = [target for target in trial.concepts if target not in known]
        message = f"{report}: its ladder is of {', '.join(other)}, which no request in force erases"
        require(not other, f"{message}: attack the edit that this ledger materialises", RequestError)
    return trials


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


@dataclass(frozen=True)
class AuditOutcome:
    """The result of `ledger audit`."""

    found: Mapping[str, Mapping[str, Any]]
    """Findings by id of the request."""
    never_drawn: tuple[str, ...]
    """Concepts of requests that were passed over, because no picture of them may be drawn."""


def audit(options: AuditOptions, progress: ProgressCallback = ignore_progress) -> AuditOutcome:
    """Fine-tune the edited model a little on other pictures, count whether erased concepts come back, and fold the
    ledger again on the result. Small pictures of each request are kept beside the chain.
    """
    ledger = Ledger.open(options.folder)
    states = ledger.request_states
    wanted = states.active if options.id is None else [states.find(options.id)]
    keeps = may_keep_pictures([one.content.kind for one in wanted], options.store_pictures)
    with _audit_store(ledger, keeps) as store, ledger_training(ledger, ["audit"], progress):
        probe = resurgence_probe(ledger, options, store)

        def sheet(
            model: ModelView, edit: ApplicableEdit, request: RequestState, erased: Sequence[str]
        ) -> Sequence[SheetPair]:
            keeps_own = may_keep_pictures([request.content.kind], options.store_pictures)
            return probe.contact_sheet(model, edit, request.content.concepts, erased) if keeps_own else ()

        model = open_ledger_model(ledger, options.model, options.device)
        found = audit_requests(ledger, model, probe, EntryNote(options.by, ""), options.id, sheet)
    return AuditOutcome(found, tuple(", ".join(one.content.concepts) for one in never_drawn(wanted)))


@contextmanager
def _audit_store(ledger: Ledger, keeps: bool) -> Iterator[PictureStore]:
    """The store for the pictures of an audit; if they may not stay, they are gone when it ends.

    One audit at a time has pictures that may not stay: what a killed one left is then known to be nobody's.
    """
    if keeps:
        yield PictureStore(default_store())
        return
    passing = ledger.folder / TRAINING_FOLDER / _PASSING
    with output_lock(passing):
        shutil.rmtree(passing, ignore_errors=True)
        with output_errors(passing):
            passing.mkdir(mode=0o700, parents=True)
        try:
            yield PictureStore(default_store(), passing)
        finally:
            shutil.rmtree(passing, ignore_errors=True)


def resurgence_probe(ledger: Ledger, options: AuditOptions, store: PictureStore) -> FineTuneResurgence:
    """What an audit fine-tunes, draws and judges with."""
    base = absolute_source(options.model or ledger.first["model"])
    unedited = EditedModel(base, device=options.device, dtype=LEDGER_DTYPE)
    return FineTuneResurgence(store, options.pictures, options.steps, seed=options.seed, unedited=unedited)


def diff(options: DiffOptions) -> dict[str, Any]:
    """Compare the requests in force and the policies of two ledgers, or the edits of two releases."""
    if is_release(options.folder) and is_release(options.other):
        return compare_releases(options.folder, options.other)
    return compare_ledgers(Ledger.open(options.folder), Ledger.open(options.other))
