"""The ledger as one self-contained page: what is in force, what it costs, how the state drifted, who asked what and when."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from ..core.folder import writing
from ..models import ModelView
from .chain import Body
from .drift import Step, costs, history
from .ledger import Ledger

WIDTH, HEIGHT, EDGE = 900, 260, 50
LABELLED, LETTERS = 9, 12  # entries whose names have room below the curve, and letters of each


def write_page(ledger: Ledger, told: dict[str, Any], model: ModelView | None, out: Path, overwrite: bool) -> None:
    """`told` is what `status` says. Costs and drift are of UCE alone, and need its kept states, not the model's weights."""
    entries = [(body, _named(ledger, body)) for body in ledger.chain.bodies]
    known = model is not None and ledger.policy.rule != "sequential" and any(one.asked.method == "uce" for one in ledger.standings.known.values())
    steps, spent = (history(ledger, model), costs(ledger, model)) if known and model is not None else ([], {})
    pages = Environment(loader=PackageLoader("unconcept.continual"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True)
    text = pages.get_template("ledger.html").render(told=told, entries=entries, costs=spent, chart=curve(steps))
    with writing(out, overwrite) as part:
        part.write_text(text, encoding="utf-8")


def _named(ledger: Ledger, body: Body) -> str:
    """The concepts of the requests that an entry is about; of the whole state, none."""
    ids = body["requests"] if body["op"] == "audit" else [body["id"]] if "id" in body else []
    return ", ".join(concept for id_ in ids for concept in ledger.standings.known[id_].asked.concepts)


def curve(steps: Sequence[Step]) -> str:
    """Mean and worst drift by entry as one drawing; nothing where no text is retained."""
    lines = {"mean": [step.mean_drift for step in steps], "worst": [step.worst_drift for step in steps]}
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
    said = "; ".join(f"{step.op} {', '.join(step.concepts)}: mean {step.mean_drift or 0:.2%}" for step in steps[-20:])
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
