"""The plans of the commands of `unconcept ledger` that inspect it: only `audit` and a page write anything."""

import tempfile
from pathlib import Path

from ...core.output_folder import require_free_output
from ...core.settings import settings_data
from ...evaluation.tasks.picture_store import PictureStore
from ...ledger.audit import requests_to_audit
from ...ledger.diff import is_release
from ...ledger.fold import merged_request
from ...ledger.ledger import Ledger
from ...ledger.page import MOST_STATES
from ...ledger.storage.heads import read_card_head, read_heads
from ...models import ModelView
from ..ledger import open_ledger_model
from ..ledger_options import AuditOptions, DiffOptions, DriftOptions, StatusOptions, VerifyOptions
from ..ledger_views import resurgence_probe
from ..privacy import may_keep_pictures
from .facts import listed, model_facts
from .ledger import entry_files, rehearse_fold
from .plan import Plan, PlannedStep, planned_file, size_of
from .rehearsals import rehearse_search
from .timing import grey_picture, grey_pictures, hash_seconds, judge_seconds, time_drawing, timed_once

_COUNTS = 4  # of pictures: unedited, edited, fine-tuned, folded again


def plan_status(options: StatusOptions) -> Plan:
    """Plan the list of requests, or the page."""
    seconds, ledger = timed_once(lambda: Ledger.open(options.folder, torn=True))
    facts = {"ledger": str(options.folder), "requests": f"{len(ledger.request_states.active)} in force"}
    steps = [PlannedStep("read the entries", seconds, "they were read")]
    if options.html is None:
        return Plan(facts, (*steps, PlannedStep("print the requests")))
    require_free_output(options.html, options.overwrite)
    steps += _history_steps(ledger, open_ledger_model(ledger, options.model, "auto"))
    return Plan(facts, tuple(steps), (planned_file(options.html),))


def plan_drift(options: DriftOptions) -> Plan:
    """Plan the drift of the state, or of every state."""
    ledger = Ledger.open(options.folder)
    opening, model = timed_once(lambda: open_ledger_model(ledger, options.model, options.device))
    opened = PlannedStep(f"open {model.name}", opening, "it was opened")
    steps = _history_steps(ledger, model) if options.history else [rehearse_fold(ledger, model)[0]]
    return Plan(model_facts(model), (opened, *steps, PlannedStep("compare weights and outputs with the base")))


def plan_verify(options: VerifyOptions) -> Plan:
    """Plan a verification."""
    if options.head:
        list(read_heads(options.head))
    if options.card:
        read_card_head(options.card)
    ledger = Ledger.open(options.folder, torn=True)
    size = size_of(options.folder)
    steps = [PlannedStep(f"hash {size / 1e6:.3g} MB of files", hash_seconds(size), "64 MB were hashed")]
    if not options.bytes_only:
        model = open_ledger_model(ledger, options.model, "auto")
        steps.append(rehearse_fold(ledger, model)[0])
    return Plan({"ledger": str(options.folder)}, tuple(steps))


def plan_diff(options: DiffOptions) -> Plan:
    """Plan the comparison of two ledgers or releases."""
    both = [options.folder, options.other]
    if all(map(is_release, both)):
        size = sum(map(size_of, both))
        return Plan({"releases": listed(list(map(str, both)))}, (PlannedStep("compare them", hash_seconds(size)),))
    seconds, _ = timed_once(lambda: [Ledger.open(folder) for folder in both])
    return Plan({"ledgers": listed(list(map(str, both)))}, (PlannedStep("compare them", seconds, "they were read"),))


def plan_audit(options: AuditOptions) -> Plan:
    """Plan an audit: a fine-tune for each concept, and pictures before and after."""
    ledger = Ledger.open(options.folder)
    wanted = requests_to_audit(ledger, options.id)
    concepts = [concept for one in wanted for concept in one.content.concepts]
    opening, model = timed_once(lambda: open_ledger_model(ledger, options.model, options.device))
    folding, state = rehearse_fold(ledger, model)
    erased = merged_request(ledger.request_states.active, ledger.text_key(model)).targets
    with tempfile.TemporaryDirectory(prefix="unconcept-") as place:
        probe = resurgence_probe(ledger, options, PictureStore(Path(place)))
        judge, checks = probe.judge(model), probe.checks(model, concepts[0])
        case = probe.case(model, state.edit, concepts[0], erased, grey_pictures(model))
        kept = [one for one in wanted if may_keep_pictures([one.content.kind], options.store_pictures)]
        sheets = [probe.sheet_checks(model, one.content.concepts, erased) for one in kept]
        others = sum(check.group != "direct" for sheet in sheets for check in sheet)
    draws = time_drawing(model, probe.spec, options.pictures, state.edit)
    search = rehearse_search("resurgence", settings_data(probe.attack), case, draws.of_one_step)
    count = len(concepts) * (_COUNTS * len(checks) + (len(case.unrelated[0]) if case.unrelated else 0)) + 2 * others
    cost = draws.seconds(1, probe.spec.steps) + judge_seconds(judge, checks[0], grey_picture(model))
    again = (folding.seconds or 0.0) * len(concepts)
    steps = (
        PlannedStep(f"open {model.name}", opening, "it was opened"),
        folding,
        PlannedStep(
            f"fine-tune for {len(concepts)} concepts, {options.steps} steps each",
            len(concepts) * search.seconds,
            "a few steps were taken",
        ),
        PlannedStep("fold again on the fine-tuned weights", again, "as long as folding once for each concept"),
        PlannedStep(f"draw and judge {count} pictures", count * cost, "a few steps were timed"),
    )
    facts = {**model_facts(model), "concepts": listed(concepts), "judge": judge.open().name}
    return Plan(facts, steps, entry_files(options.folder, len(wanted)))


def _history_steps(ledger: Ledger, model: ModelView) -> list[PlannedStep]:
    """The state after every change, each folded anew at most."""
    folding, _ = rehearse_fold(ledger, model)
    count = min(MOST_STATES, len(ledger.request_states.changes))
    told = f"rebuild {count} states"
    return [PlannedStep(told, count * (folding.seconds or 0.0), "at most as long as folding the present one each time")]
