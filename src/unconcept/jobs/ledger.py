"""The commands of `unconcept ledger` that write: init, add, revoke, forget, repair, materialize."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from ..core.errors import LedgerChanged, RequestError, require
from ..core.hashing import hash_json
from ..core.progress import ProgressCallback, ignore_progress
from ..core.request import Request
from ..edits import load_edit
from ..erasing.make_edit import train_in_folder
from ..erasing.request_defaults import resolve_request
from ..ledger.entry import canonical_settings, ledger_method
from ..ledger.forget import TRAINING_FOLDER, ForgetOutcome, forget_ask
from ..ledger.ledger import EntryNote, Ledger, create_ledger, require_empty_folder
from ..ledger.materialize import materialize_ledger
from ..ledger.operations import AddOutcome, add_request, revoke_request
from ..ledger.policy import LedgerPolicy, resolve_policy
from ..ledger.repair import repair_ledger
from ..ledger.request_state import RequestState
from ..methods import methods
from ..models import ModelView, open_model
from ..models.loading import absolute_source
from ..models.text.text_identity import TokenTextKey
from ..training.options import changed_options
from ..training.regularisers import build_regularisers
from .command_options import EraseOptions
from .edit_base import remember_base
from .erase_job import Job
from .ledger_options import (
    AddOptions,
    AskOptions,
    ForgetOptions,
    InitOptions,
    LedgerOptions,
    MaterializeOptions,
    NoteOptions,
    RevokeOptions,
)
from .resolve import plan_job

LEDGER_DTYPE = "float32"  # as for --dtype


@dataclass(frozen=True)
class OpenInit:
    """A ledger to create: its base, method, settings and policy."""

    base: ModelView
    job: Job
    policy: LedgerPolicy


def open_init(options: InitOptions) -> OpenInit:
    """Open the base and resolve the policy. Bad input raises `UsageError`."""
    source = absolute_source(options.model)
    job = _plan(
        EraseOptions(
            model=source,
            method=options.method,
            recipe=options.recipe,
            settings=options.settings,
            regularisers=options.regularisers,
        )
    )
    regularisers = build_regularisers(job.regularisers, methods[job.method].mechanism, job.method)
    merge = {"how": options.merge, "scale": options.merge_scale, "topk": options.merge_topk}
    policy = replace(resolve_policy(options.rule, merge, options.teacher, options.amplify), regularisers=regularisers)
    base = _open_base(source, "cpu")
    require_empty_folder(options.folder)
    canonical_settings(ledger_method(job.method, base.family, policy.rule), job.settings or {})
    return OpenInit(base, job, policy)


def init(options: InitOptions) -> Ledger:
    """Create an empty ledger."""
    opened = open_init(options)
    settings = opened.job.settings or {}
    return create_ledger(options.folder, opened.base, opened.job.method, settings, opened.policy, entry_note(options))


@dataclass(frozen=True)
class OpenAddition:
    """A request to record, and the ledger and model that it is for."""

    ledger: Ledger
    model: ModelView
    request: Request
    method: str
    settings: Mapping[str, Any] | None
    """None for those that the ledger has for the method."""


def open_addition(options: AddOptions) -> OpenAddition:
    """Open ledger and model, and complete the request. Bad input raises `UsageError`."""
    message = (
        "a ledger's requests have no weights: leave --weight out, or erase beside the ledger with `unconcept erase`"
    )
    require(not options.weights, message, RequestError)
    ledger = Ledger.open(options.folder)
    method = options.method or ledger.first["method"]
    model = open_ledger_model(ledger, options.model, options.device)
    asks_anew = options.recipe or options.settings or method not in ledger.request_states.settings
    job = _plan(
        EraseOptions(
            concepts=options.names,
            anchors=options.anchors,
            retain=options.retained,
            kind=options.kind,
            model=model.name,
            method=method,
            recipe=options.recipe,
            settings=options.settings,
        )
    )
    ledger.require_regularisers(job.regularisers)
    folds_case = TokenTextKey.of(model).folds_case
    request = resolve_request(job.ask, model.name, folds_case=folds_case).request
    return OpenAddition(ledger, model, request, job.method, (job.settings or {}) if asks_anew else None)


def add(options: AddOptions, progress: ProgressCallback = ignore_progress) -> AddOutcome:
    """Put a request in force. When this returns, the request is on the disk."""
    new = open_addition(options)
    with ledger_training(new.ledger, [new.method, str(new.settings), str(new.request)], progress):
        note = entry_note(options)
        return add_request(new.ledger, new.model, options.names, new.request, new.method, new.settings, note)


def revoke(options: RevokeOptions) -> RequestState:
    """Take an ask back. Once nobody asks for a request, the state is the same as if it had never been added."""
    note = EntryNote("", options.because, options.recorded_by)
    return revoke_request(Ledger.open(options.folder), options.id, note, options.by, options.every)


def forget(options: ForgetOptions) -> ForgetOutcome:
    """Destroy the text of a withdrawn ask, who asked and why, and all that was made of it."""
    return forget_ask(Ledger.open(options.folder), options.entry, entry_note(options))


def repair(options: LedgerOptions) -> list[str]:
    """Repair what a killed process left behind. Returns one line for each repair."""
    return repair_ledger(options.folder)


def materialize(options: MaterializeOptions, progress: ProgressCallback = ignore_progress) -> dict[str, Any]:
    """Write the edit of all requests in force. Returns its card."""
    ledger = Ledger.open(options.folder)
    with ledger_training(ledger, [one.id for one in ledger.request_states.active], progress):
        model = open_ledger_model(ledger, options.model, options.device)
        card = materialize_ledger(
            ledger, model, options.out, options.checkpoint, options.overwrite, entry_note(options)
        )
    for path in options.out.glob("*.safetensors"):
        remember_base(load_edit(path), model.name)
    return card


def entry_note(options: NoteOptions | AskOptions) -> EntryNote:
    """The author and the reason of an entry."""
    return EntryNote(options.by, options.because, options.recorded_by if isinstance(options, AskOptions) else "")


def open_ledger_model(ledger: Ledger, model: str | None, device: str) -> ModelView:
    """Open the base model of a ledger, from `model` if it was moved."""
    return _open_base(absolute_source(model or ledger.first["model"]), device)


@contextmanager
def ledger_training(ledger: Ledger, about: list[str], progress: ProgressCallback) -> Iterator[None]:
    """Inside, trainings report their progress and resume where the same training was interrupted."""
    folder = ledger.folder / TRAINING_FOLDER / hash_json(about)[:12]
    with suppress(OSError):  # Whoever may only read the ledger saves no state.
        folder.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        with train_in_folder(folder, progress):
            yield
        shutil.rmtree(folder, ignore_errors=True)
    except LedgerChanged:  # Its state may hold a request that is forgotten by now.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        with suppress(OSError):  # Not empty: a training was interrupted.
            folder.parent.rmdir()


def _open_base(model: str, device: str) -> ModelView:
    """Open the base in one precision, always: text states must not depend on a command's options."""
    return open_model(model, device, LEDGER_DTYPE)


def _plan(options: EraseOptions) -> Job:
    """Resolve method, settings and request as `unconcept erase` does, with the settings that hold for any kind.

    `SettingsError` for a recipe with training options other than the defaults.
    """
    job = plan_job(options, for_any_kind=True).job
    other = ", ".join(changed_options(job.options))
    require(
        not other,
        f"recipe {options.recipe}: {other}: a ledger trains with default options, so that its bytes can be reproduced;"
        " remove it from [training]",
    )
    return job
