"""The ledger as one self-contained page: what is in force, what it costs, how the state drifted, who asked what and when."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from ..core.errors import LedgerError
from ..core.output_folder import writing
from ..models import ModelView
from .drift_history import Step, costs, history, how
from .entry_log import Body
from .ledger import Ledger

WIDTH, HEIGHT, EDGE = 900, 260, 50
MOST = 48  # states that are built for a page
LABELLED, LETTERS = 9, 12  # entries whose names have room below the curve, and letters of each


def write_page(ledger: Ledger, told: dict[str, Any], model: ModelView, out: Path, overwrite: bool) -> None:
    """`told` is what `status` says. Costs and drift where they are cheap; elsewhere a line says why they are not there."""
    entries = [(body, _named(ledger, body)) for body in ledger.chain.bodies]
    steps, spent, why, known = list[Step](), dict[str, tuple[str, float]](), "", ""
    try:
        known, steps, spent = how(ledger, MOST), history(ledger, model, MOST), costs(ledger, model, MOST)
    except LedgerError as error:
        why = str(error)
    about = {"costs": spent, "chart": curve(steps), "why": why, "how": known, "retained": any(step.mean_drift is not None for step in steps)}
    pages = Environment(loader=PackageLoader("unconcept.ledger"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True)
    text = pages.get_template("ledger.html").render(told=told, entries=entries, **about)
    with writing(out, overwrite) as part:
        part.write_text(text, encoding="utf-8")


def _named(ledger: Ledger, body: Body) -> str:
    """The concepts of the requests that an entry is about; of the whole state, none."""
    ids = body["requests"] if body["op"] == "audit" else [body["id"]] if "id" in body else []
    return ", ".join(concept for id_ in ids for concept in ledger.standings.known[id_].asked.concepts)


def curve(steps: Sequence[Step]) -> str:
    """Mean and worst drift of retained texts by entry as one drawing, or of the weights where no text tells it."""
    lines = {"mean": [step.mean_drift for step in steps], "worst": [step.worst_drift for step in steps]}
    if all(value is None for value in lines["mean"]):
        lines = {"mean": [step.weights for step in steps]}
    values = [value for line in lines.values() for value in line if value is not None]
    if not values:
        return ""
    top = max(*values, 1e-6)
    drawn = []
    for name, dash in (("mean", ""), ("worst", ' stroke-dasharray="6 4"')):
        points = " ".join(f"{_x(i, len(steps)):.1f},{_y((value or 0.0) / top):.1f}" for i, value in enumerate(lines[name]))
        drawn.append(f'<polyline points="{points}" fill="none" stroke="#2457c5" stroke-width="2"{dash}/>')
    for share in (0.0, 0.5, 1.0):
        drawn.append(f'<line x1="{EDGE}" x2="{WIDTH - 10}" y1="{_y(share)}" y2="{_y(share)}" stroke="#d9dde2"/>')
        drawn.append(f'<text x="{EDGE - 6}" y="{_y(share) + 4}" text-anchor="end" font-size="12" fill="#5d636b">{share * top:.1%}</text>')
    if len(steps) <= LABELLED:
        names = [f"{'-' if step.op == 'revoke' else '+'} {step.concepts[0][:LETTERS]}" for step in steps]
        drawn += [_label(_x(i, len(steps)), name, "start" if i == 0 else "end" if i == len(steps) - 1 else "middle") for i, name in enumerate(names)]
    said = "; ".join(f"{step.op} {', '.join(step.concepts)}: {value or 0:.2%}" for step, value in list(zip(steps, lines["mean"], strict=True))[-20:])
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(said, quote=True)}" '
        f'font-family="system-ui, sans-serif">{"".join(drawn)}</svg>'
    )


def _label(x: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - 4}" text-anchor="{anchor}" font-size="12" fill="#5d636b">{escape(text)}</text>'


def _x(step: int, count: int) -> float:
    return EDGE + (WIDTH - EDGE - 10) * (step / max(1, count - 1))


def _y(share: float) -> float:
    return HEIGHT - 20 - share * (HEIGHT - 40)
