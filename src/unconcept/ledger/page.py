"""Writes the ledger as one self-contained HTML page: requests in force, their cost, drift, audits and time line."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from ..core.errors import LedgerError
from ..core.output_folder import output_file
from ..models import ModelView
from .drift_history import HistoryStep, drift_history, retain_costs, state_source
from .entry_log import EntryBody
from .ledger import Ledger

_WIDTH, _HEIGHT, _MARGIN = 900, 260, 50
_MOST_STATES = 48  # most states that are rebuilt for a page
_MOST_LABELS, _LABEL_LENGTH = 9, 12  # most entries that are labelled below the curve, and characters of a label


def write_ledger_page(
    ledger: Ledger, ledger_data: dict[str, Any], model: ModelView, out: Path, overwrite: bool
) -> None:
    """Write the page; `ledger_data` comes from `ledger_status`.

    Costs and drift are included where they are cheap to compute; else the page says why they are missing.
    """
    entries = [(body, _named(ledger, body)) for body in ledger.entry_log.bodies]
    steps, spent, why, known = list[HistoryStep](), dict[str, tuple[str, float]](), "", ""
    try:
        known, steps, spent = (
            state_source(ledger, _MOST_STATES),
            drift_history(ledger, model, _MOST_STATES),
            retain_costs(ledger, model, _MOST_STATES),
        )
    except LedgerError as error:
        why = str(error)
    about = {
        "costs": spent,
        "chart": drift_curve_svg(steps),
        "why": why,
        "how": known,
        "retained": any(step.mean_drift is not None for step in steps),
    }
    pages = Environment(
        loader=PackageLoader("unconcept.ledger"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    text = pages.get_template("ledger.html").render(ledger_data=ledger_data, entries=entries, **about)
    with output_file(out, overwrite) as part:
        part.write_text(text, encoding="utf-8")


def _named(ledger: Ledger, body: EntryBody) -> str:
    """The concepts of the requests that an entry is about; empty for an entry about the whole state."""
    ids = body["requests"] if body["op"] == "audit" else [body["id"]] if "id" in body else []
    return ", ".join(concept for id_ in ids for concept in ledger.request_states.by_id[id_].content.concepts)


def drift_curve_svg(steps: Sequence[HistoryStep]) -> str:
    """Draw mean and worst drift of retained texts by entry, or drift of the weights if no text is retained."""
    lines = {"mean": [step.mean_drift for step in steps], "worst": [step.worst_drift for step in steps]}
    if all(value is None for value in lines["mean"]):
        lines = {"mean": [step.weights for step in steps]}
    values = [value for line in lines.values() for value in line if value is not None]
    if not values:
        return ""
    top = max(*values, 1e-6)
    drawn = []
    for name, dash in (("mean", ""), ("worst", ' stroke-dasharray="6 4"')):
        points = " ".join(
            f"{_x(i, len(steps)):.1f},{_y((value or 0.0) / top):.1f}" for i, value in enumerate(lines[name])
        )
        drawn.append(f'<polyline points="{points}" fill="none" stroke="#2457c5" stroke-width="2"{dash}/>')
    for share in (0.0, 0.5, 1.0):
        drawn.append(f'<line x1="{_MARGIN}" x2="{_WIDTH - 10}" y1="{_y(share)}" y2="{_y(share)}" stroke="#d9dde2"/>')
        drawn.append(
            f'<text x="{_MARGIN - 6}" y="{_y(share) + 4}" text-anchor="end" font-size="12"'
            f' fill="#5d636b">{share * top:.1%}</text>'
        )
    if len(steps) <= _MOST_LABELS:
        names = [f"{'-' if step.op == 'revoke' else '+'} {step.concepts[0][:_LABEL_LENGTH]}" for step in steps]
        drawn += [
            _label(_x(i, len(steps)), name, "start" if i == 0 else "end" if i == len(steps) - 1 else "middle")
            for i, name in enumerate(names)
        ]
    said = "; ".join(
        f"{step.op} {', '.join(step.concepts)}: {value or 0:.2%}"
        for step, value in list(zip(steps, lines["mean"], strict=True))[-20:]
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img"'
        f' aria-label="{escape(said, quote=True)}" font-family="system-ui, sans-serif">{"".join(drawn)}</svg>'
    )


def _label(x: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{_HEIGHT - 4}" text-anchor="{anchor}" font-size="12"'
        f' fill="#5d636b">{escape(text)}</text>'
    )


def _x(step: int, count: int) -> float:
    return _MARGIN + (_WIDTH - _MARGIN - 10) * (step / max(1, count - 1))


def _y(share: float) -> float:
    return _HEIGHT - 20 - share * (_HEIGHT - 40)
