"""Writes the ledger as one self-contained HTML page: requests in force, their cost, drift, audits and time line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import LedgerError
from ..core.output_folder import output_file
from ..models import ModelView
from ..report.data import TrialData
from ..report.images import pair_cell
from ..report.ladder_svg import ladder_svg
from ..report.page_templates import html_templates
from ..report.svg import drift_curve_svg
from .audit_history import AuditView, audit_history
from .drift_history import HistoryStep, drift_history, retain_costs, state_source
from .ledger import Ledger
from .storage.sealed_entries import EntryBody

MOST_STATES = 48  # most states that are rebuilt for a page
_MOST_SHEETS = 40  # newest audits whose pictures are in the page
_MOST_LABELS, _LABEL_LENGTH = 9, 12  # most entries that are labelled below the curve, and characters of a label


def write_ledger_page(
    ledger: Ledger,
    ledger_data: dict[str, Any],
    model: ModelView,
    out: Path,
    overwrite: bool,
    ladders: Sequence[TrialData] = (),
) -> None:
    """Write the page; `ledger_data` comes from `ledger_status`, ladders from a report on the ledger's edit.

    Costs and drift are included where they are cheap to compute; else the page says why they are missing.
    """
    entries = [(body, _named(ledger, body)) for body in ledger.entry_log.bodies]
    steps, spent, why, known = list[HistoryStep](), dict[str, tuple[str, float]](), "", ""
    try:
        known, steps, spent = (
            state_source(ledger, MOST_STATES),
            drift_history(ledger, model, MOST_STATES),
            retain_costs(ledger, model, MOST_STATES),
        )
    except LedgerError as error:
        why = str(error)
    about = {
        "costs": spent,
        "chart": _drift_chart(steps),
        "why": why,
        "how": known,
        "retained": any(step.mean_drift is not None for step in steps),
        "ladders": [(one, ladder_svg(one.ladder)) for one in ladders if one.ladder is not None],
        "audits": [(one, _audit_cells(one)) for one in audit_history(ledger, _MOST_SHEETS)],
    }
    page = html_templates("unconcept.ledger").get_template("ledger.html")
    text = page.render(ledger_data=ledger_data, entries=entries, **about)
    with output_file(out, overwrite) as part:
        part.write_text(text, encoding="utf-8")


def _audit_cells(one: AuditView) -> list[dict[str, Any]]:
    """The pairs of an audit as figures, those of targets first."""
    cells = []
    for pair in one.pairs:
        told = "erased" if pair.is_target else "should stay"
        cells.append({**pair_cell(pair.pair), "told": f"{told}, seed {pair.seed}"})
    return cells


def _named(ledger: Ledger, body: EntryBody) -> str:
    """The concepts of the requests that an entry is about; empty for an entry about the whole state."""
    ids = body.get("requests", ()) if body["op"] == "audit" else [body["id"]] if "id" in body else []
    found = [one for one in map(ledger.request_states.get, ids) if one is not None]
    return ", ".join(concept for one in found for concept in one.content.concepts)


def _drift_chart(steps: Sequence[HistoryStep]) -> str:
    """Draw mean and worst drift of retained texts by entry, or drift of the weights if no text is retained."""
    lines = {"mean": [step.mean_drift for step in steps], "worst": [step.worst_drift for step in steps]}
    if all(value is None for value in lines["mean"]):
        lines = {"mean": [step.weights for step in steps], "worst": []}
    names = [f"{'-' if step.op == 'revoke' else '+'} {step.concepts[0][:_LABEL_LENGTH]}" for step in steps]
    description = "; ".join(
        f"{step.op} {', '.join(step.concepts)}: {value or 0:.2%}"
        for step, value in list(zip(steps, lines["mean"], strict=True))[-20:]
    )
    return drift_curve_svg(lines["mean"], lines["worst"], names if len(steps) <= _MOST_LABELS else [], description)
