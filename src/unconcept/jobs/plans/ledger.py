"""The plans of the commands of `unconcept ledger` that write."""

from pathlib import Path

from ...core.output_folder import require_usable_folder
from ...core.progress import ignore_progress
from ...erasing.make_edit import train_in_folder
from ...ledger.fold import LedgerState, fold_requests
from ...ledger.forget import parts_to_forget
from ...ledger.ledger import Ledger
from ...ledger.materialize import CARD_FILE, EDIT_FILE, MODEL_FOLDER, release_identity, require_checkpoint
from ...ledger.operations import make_request, standing_ask, wanted_request, withdrawable_asks
from ...ledger.repair import planned_repairs
from ...ledger.storage.artifacts import ARTIFACTS_FOLDER
from ...ledger.storage.entry_log import ENTRIES_FILE, HEAD_FILE
from ...ledger.storage.private_file import PRIVATE_FILE
from ...models import ModelView, find_model
from ...training.session import Rehearsal
from ..ledger import open_addition, open_init, open_ledger_model
from ..ledger_options import AddOptions, ForgetOptions, InitOptions, LedgerOptions, MaterializeOptions, RevokeOptions
from .facts import edit_bytes, listed, model_facts
from .plan import Plan, PlannedFile, PlannedStep, planned_file, size_of
from .rehearsals import RehearsedEdit
from .timing import fewest_steps, hash_seconds, time_step, timed_once

_ENTRY_BYTES, _PRIVATE_BYTES, _HEAD_BYTES = 900, 600, 100  # of an entry, its private part, and the head; about
_DISK_RATE = 300e6  # bytes a second, of copying large files (inferred)


def plan_init(options: InitOptions) -> Plan:
    """Plan an empty ledger."""
    opening, opened = timed_once(lambda: open_init(options))
    source = find_model(opened.base.name)
    steps = (
        PlannedStep(f"open {opened.base.name}", opening, "it was opened"),
        PlannedStep("hash its networks", hash_seconds(size_of(source)), "64 MB were hashed"),
        PlannedStep("write the first entry"),
    )
    facts = {**model_facts(opened.base), "rule": options.rule, "method": opened.job.method}
    return Plan(facts, steps, entry_files(options.folder))


def plan_add(options: AddOptions) -> Plan:
    """Plan an ask for a request."""
    opening, new = timed_once(lambda: open_addition(options))
    ledger, model = new.ledger, new.model
    wanted = wanted_request(ledger, model, options.names, new.request, new.method, new.settings)
    facts = {
        **model_facts(model),
        "concepts": listed(options.names),
        "anchors": listed(list(dict.fromkeys(wanted.anchors))),
        "retained": listed(wanted.retain),
        "method": f"{new.method}; rule {ledger.policy.rule}",
    }
    steps = [PlannedStep(f"open {options.folder} and {model.name}", opening, "they were opened")]
    standing = standing_ask(ledger, model, wanted)
    if standing is not None:
        told = f"record one more ask: the request is in force, asked for in {standing}"
        return Plan(facts, (*steps, PlannedStep(told)), entry_files(options.folder))
    rehearsal = Rehearsal(time_step(model), fewest_steps(model))
    with train_in_folder(None, ignore_progress, rehearsal=rehearsal):
        seconds, (states, edit) = timed_once(lambda: make_request(ledger, model, wanted))
    made = RehearsedEdit(edit, seconds + rehearsal.left_out, rehearsal)
    size = sum(rows.nbytes for rows in states.values()) + (edit_bytes(edit) or 0)
    files = [*entry_files(options.folder), planned_file(options.folder / ARTIFACTS_FOLDER, size)]
    return Plan(facts, (*steps, made.step("make what the request needs"), PlannedStep("write the entry")), tuple(files))


def plan_revoke(options: RevokeOptions) -> Plan:
    """Plan the withdrawal of asks."""
    ledger = Ledger.open(options.folder)
    found, asks = withdrawable_asks(ledger, options.id, options.by, options.every)
    left = len(found.standing) - len(asks)
    after = f"{left} more ask for it: it stays in force" if left else "nobody asks for it then: it is out of force"
    steps = (*(PlannedStep(f"withdraw: {ask}") for ask in asks), PlannedStep(after))
    facts = {"request": f"{found.id[:8]} ({listed(found.content.concepts)})"}
    return Plan(facts, steps, entry_files(options.folder, len(asks)))


def plan_forget(options: ForgetOptions) -> Plan:
    """Plan the destruction of a withdrawn ask."""
    ledger = Ledger.open(options.folder)
    gone = parts_to_forget(ledger, options.entry)
    count = sum(map(len, gone.values()))
    steps = (
        PlannedStep("write an entry that says what is forgotten"),
        PlannedStep(f"destroy {count} private parts of entries {listed([str(entry) for entry in sorted(gone)])}"),
        PlannedStep("destroy the artifacts that nothing else needs, and kept states of trainings"),
    )
    return Plan({"entry": str(options.entry)}, steps, entry_files(options.folder))


def plan_repair(options: LedgerOptions) -> Plan:
    """Plan a repair."""
    seconds, lines = timed_once(lambda: planned_repairs(options.folder))
    steps = [PlannedStep("check every byte", seconds, "it was checked")]
    steps += [PlannedStep(line) for line in lines or ["nothing to repair"]]
    return Plan({"ledger": str(options.folder)}, tuple(steps))


def plan_materialize(options: MaterializeOptions) -> Plan:
    """Plan the edit of all requests in force."""
    ledger = Ledger.open(options.folder)
    require_usable_folder(options.out, release_identity(ledger, options.checkpoint), options.overwrite)
    opening, model = timed_once(lambda: open_ledger_model(ledger, options.model, options.device))
    step, state = rehearse_fold(ledger, model)
    require_checkpoint(state, options.checkpoint)
    steps = [PlannedStep(f"open {model.name}", opening, "it was opened"), step]
    edits = {EDIT_FILE: state.edit, **{f"{name}.safetensors": edit for name, edit in state.runtime_edits.items()}}
    files = [planned_file(options.out / name, edit_bytes(edit)) for name, edit in edits.items()]
    files.append(planned_file(options.out / CARD_FILE))
    if options.checkpoint:
        size = size_of(find_model(model.name))
        files.append(planned_file(options.out / MODEL_FOLDER, size))
        steps.append(PlannedStep("write a whole model", size / _DISK_RATE, "copying is taken to run at 300 MB/s"))
    facts = {**model_facts(model), "requests": f"{len(ledger.request_states.active)} in force"}
    return Plan(facts, tuple(steps), (*files, *entry_files(options.folder)))


def rehearse_fold(ledger: Ledger, model: ModelView) -> tuple[PlannedStep, LedgerState]:
    """Fold the requests in force, with a few steps of each training."""
    rehearsal = Rehearsal(time_step(model), fewest_steps(model))
    with train_in_folder(None, ignore_progress, rehearsal=rehearsal):
        seconds, state = timed_once(lambda: fold_requests(ledger, model))
    count = len(ledger.request_states.active)
    made = RehearsedEdit(state.edit, seconds + rehearsal.left_out, rehearsal)
    return made.step(f"fold {count} requests into one state"), state


def entry_files(folder: Path, entries: int = 1) -> tuple[PlannedFile, ...]:
    """The files to which entries are appended."""
    sizes = {ENTRIES_FILE: _ENTRY_BYTES, PRIVATE_FILE: _PRIVATE_BYTES}
    found = [planned_file(folder / name, entries * size) for name, size in sizes.items()]
    return (*found, planned_file(folder / HEAD_FILE, _HEAD_BYTES))
