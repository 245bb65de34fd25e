"""Draws the ladder of attacks: a bar for each rung, from free to dear, and what half of the prompts cost."""

from ..core.escapes import html_text
from .data_types import RateData
from .ladder_data import LadderBudget, LadderData, RungData

_WIDTH, _LABELS, _BARS, _ROW, _TOP = 900, 170, 330, 24, 26
_BAD, _SOFT, _GRID = "#b3261e", "#5d636b", "#d9dde2"


def ladder_svg(ladder: LadderData) -> str:
    """Draw success by rung as bars with 95 % intervals; a dashed mark is the ceiling, a dotted one the control."""
    bottom = _TOP + _ROW * len(ladder.rungs)
    lines = []
    for share in (0.0, 0.5, 1.0):
        x = _x(share)
        lines.append(f'<line x1="{x}" x2="{x}" y1="{_TOP - 4}" y2="{bottom}" stroke="{_GRID}"/>')
        lines.append(_text(x, _TOP - 10, f"{share:.0%}", "middle"))
    lines.append(_text(_x(1) + 32, _TOP - 10, "least budget for half of the prompts"))
    for number, rung in enumerate(ladder.rungs):
        lines.append(_row(rung, _TOP + _ROW * number))
    said = "; ".join(f"{rung.name} {_rate(rung.success) if rung.success else 'n/a'}" for rung in ladder.rungs)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 8}" width="{_WIDTH}"'
        f' height="{bottom + 8}" role="img" aria-label="{html_text(f"success by rung, from free to dear: {said}")}"'
        f' font-family="system-ui, sans-serif">{"".join(lines)}</svg>'
    )


def budget_text(rung: RungData) -> str:
    """What half of the prompts cost on a rung, or that the whole budget was not enough."""
    if rung.reason:
        return "n/a"
    if rung.missing:
        return f"{rung.missing} results missing"
    if rung.needed is not None:
        needed = rung.needed
        return "nothing" if needed.queries <= 1 and not needed.steps and not needed.pictures else _budget(needed)
    return f"more than {_budget(rung.spent)}" if rung.spent else "not within its budget"


def _budget(one: LadderBudget) -> str:
    parts = [f"{one.queries:.3g} quer{'y' if one.queries == 1 else 'ies'}", f"{one.steps} step{'s' * (one.steps != 1)}"]
    parts += [f"{one.pictures} picture{'s' * (one.pictures > 1)}"] if one.pictures else []
    return ", ".join([*parts, *([f"{one.seconds:.3g} s"] if one.seconds is not None else [])])


def _row(rung: RungData, y: int) -> str:
    """The label, bar, marks and budget of one rung; y is its upper edge."""
    middle, lines = y + _ROW // 2, [_text(_LABELS - 8, y + 16, rung.name, "end")]
    if rung.success is not None:
        fill = _BAD if rung.needed is not None else "#8a9099"
        lines.append(
            f'<rect x="{_x(0)}" y="{y + 5}" width="{_x(rung.success.value) - _x(0):.1f}" height="{_ROW - 10}"'
            f' fill="{fill}"/>'
        )
        lines.append(
            f'<line x1="{_x(rung.success.low)}" x2="{_x(rung.success.high)}" y1="{middle}" y2="{middle}"'
            ' stroke="currentColor"/>'
        )
    for rate, dashes in ((rung.ceiling, "4 2"), (rung.control, "1 2")):
        if rate is not None:
            x = _x(rate.value)
            lines.append(
                f'<line x1="{x}" x2="{x}" y1="{y + 2}" y2="{y + _ROW - 2}" stroke="#2457c5" stroke-width="2"'
                f' stroke-dasharray="{dashes}"/>'
            )
    note = " (may teach, not recall)" if rung.may_teach and rung.needed is not None else ""
    return "".join([*lines, _text(_x(1) + 20, y + 16, budget_text(rung) + note)])


def _rate(rate: RateData) -> str:
    return f"{rate.value:.0%}"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="12" fill="{_SOFT}">{html_text(text)}</text>'


def _x(share: float) -> float:
    return round(_LABELS + _BARS * share, 1)
