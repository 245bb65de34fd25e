"""Draws small charts as SVG text: efficacy against specificity, success against budget, growth of a cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Protocol

from ..core.escapes import html_text

_WIDTH, _HEIGHT, _MARGIN, _LINE_HEIGHT = 460, 320, 48, 16
_DRIFT_WIDTH, _DRIFT_HEIGHT, _DRIFT_EDGE = 900, 260, 50


class CurvePoint(Protocol):
    """One point of an attack's curve: its success within a budget."""

    @property
    def steps(self) -> int:
        """Steps spent up to this point."""

    @property
    def seconds(self) -> float | None:
        """Seconds of search per prompt; None if they were not recorded."""

    @property
    def success(self) -> float:
        """Share in [0, 1]."""


@dataclass(frozen=True)
class ScatterPoint:
    """One method: `across` and `up` in [0, 1] with their 95 % intervals."""

    label: str
    across: tuple[float, float, float]  # value, low, high
    up: tuple[float, float, float]


def scatter_svg(dots: Sequence[ScatterPoint], across: str, up: str) -> str:
    """Draw labelled dots with crosses for their intervals; both axes run from 0 to 100 %."""
    lines = [_frame(across, up)]
    for number, dot in enumerate(dots):
        hue = 205 + 137 * number % 360
        x, y = _x(dot.across[0]), _y(dot.up[0])
        for ends in ((_x(dot.across[1]), y, _x(dot.across[2]), y), (x, _y(dot.up[1]), x, _y(dot.up[2]))):
            lines.append(
                f'<line x1="{ends[0]:.1f}" y1="{ends[1]:.1f}" x2="{ends[2]:.1f}" y2="{ends[3]:.1f}" stroke="hsl({hue}'
                ' 55% 45%)"/>'
            )
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="hsl({hue} 55% 45%)"/>')
        anchor, shift = ("end", -9) if dot.across[0] > 0.6 else ("start", 9)
        lines.append(
            f'<text x="{x + shift:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}"'
            f' font-size="13">{html_text(dot.label)}</text>'
        )
    return _svg(
        lines, f"{up} against {across}: " + "; ".join(f"{d.label} {d.across[0]:.0%}, {d.up[0]:.0%}" for d in dots)
    )


def success_curve_svg(points: Sequence[CurvePoint], ceiling: float | None) -> str:
    """Draw success against steps as a small step curve, with the ceiling dashed."""
    last = max((p.steps for p in points), default=0) or 1
    places = [(4 + 112 * p.steps / last, 36 - 32 * p.success) for p in points]
    corners = [places[0]] if places else []
    for before, after in pairwise(places):
        corners += [(after[0], before[1]), after]  # success stays until the next budget is spent
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*corners, (116.0, places[-1][1] if places else 36.0)])
    top = (
        ""
        if ceiling is None
        else (
            f'<line x1="4" x2="116" y1="{36 - 32 * ceiling:.1f}" y2="{36 - 32 * ceiling:.1f}" stroke="#777"'
            ' stroke-dasharray="3 3"/>'
        )
    )
    said = "success by steps: " + ", ".join(f"{p.steps}{_spent(p)}: {p.success:.0%}" for p in points)
    return (
        f'<svg viewBox="0 0 120 40" width="120" height="40" role="img" aria-label="{said}"><title>{said}</title><rect'
        f' width="120" height="40" fill="#f6f7f9"/>{top}<polyline points="{line}" fill="none" stroke="#b3261e"'
        ' stroke-width="2"/></svg>'
    )


def _spent(point: CurvePoint) -> str:
    return "" if point.seconds is None else f" ({point.seconds:.1f} s a prompt)"


def growth_svg(series: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str) -> str:
    """Draw named lines through points (x, y) of positive numbers; both axes are logarithmic and span whole powers of
    ten.
    """
    every = list(chain.from_iterable(series.values()))
    xs, ys = _decades([x for x, _ in every]), _decades([y for _, y in every])
    lines = [
        _grid(
            [(10.0**d, _share(10.0**d, xs)) for d in range(xs[0], xs[1] + 1)],
            [(10.0**d, _share(10.0**d, ys)) for d in range(ys[0], ys[1] + 1)],
        )
    ]
    lines.append(_titles(across, up))
    for number, (name, points) in enumerate(series.items()):
        colour = f"hsl({205 + 137 * number % 360} 55% 45%)"
        places = [(_x(_share(x, xs)), _y(_share(y, ys))) for x, y in points]
        lines.append(
            f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" fill="none" stroke="{colour}"'
            ' stroke-width="2"/>'
        )
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        lines.append(
            f'<text x="{_x(0) + 10:.1f}" y="{_y(1) + 18 + 17 * number:.1f}" font-size="13"'
            f' fill="{colour}">{html_text(name)}</text>'
        )
    said = "; ".join(_describe_series(name, points, ".3g") for name, points in series.items())
    return _svg(lines, f"{up} by {across}: {said}")


def share_curves_svg(series: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str) -> str:
    """Draw named lines through points (x, y in [0, 1]) on linear axes, with a legend in two columns below."""
    last = max((x for points in series.values() for x, _ in points), default=1.0)
    marks = sorted({x for points in series.values() for x, _ in points})
    ticks = [(share, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    lines = [
        _grid([(x, x / last) for x in marks], [(100 * value, at) for value, at in ticks]),
        _titles(across, f"{up}, %"),
    ]
    for number, (name, points) in enumerate(series.items()):
        colour = f"hsl({205 + 137 * number % 360} 55% {45 if number % 2 else 35}%)"
        places = " ".join(f"{_x(x / last):.1f},{_y(y):.1f}" for x, y in points)
        dashes = "5 3" if number % 3 == 2 else "none"
        lines.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>'
        )
        lines.append(
            f'<text x="{_x(number % 2 / 2):.1f}" y="{_HEIGHT + 14 + _LINE_HEIGHT * (number // 2)}" font-size="12"'
            f' fill="{colour}">{html_text(name)}</text>'
        )
    said = "; ".join(_describe_series(name, points, ".0%") for name, points in series.items())
    return _svg(lines, f"{up} by {across}: {said}", _HEIGHT + 8 + _LINE_HEIGHT * -(-len(series) // 2))


def _describe_series(name: str, points: Sequence[tuple[float, float]], form: str) -> str:
    return f"{name} " + ", ".join(f"{x:g}: {y:{form}}" for x, y in points)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _share(value: float, decades: tuple[int, int]) -> float:
    return (math.log10(value) - decades[0]) / (decades[1] - decades[0])


def _grid(across: Sequence[tuple[float, float]], up: Sequence[tuple[float, float]]) -> str:
    """Draw grid lines at values, each given with its share of the axis."""
    lines = []
    for value, at in across:
        lines.append(f'<line x1="{_x(at):.1f}" x2="{_x(at):.1f}" y1="{_y(0)}" y2="{_y(1)}" stroke="#d9dde2"/>')
        lines.append(
            f'<text x="{_x(at):.1f}" y="{_y(0) + 18}" text-anchor="middle" font-size="12"'
            f' fill="#5d636b">{value:,g}</text>'
        )
    for value, at in up:
        lines.append(f'<line x1="{_x(0)}" x2="{_x(1)}" y1="{_y(at):.1f}" y2="{_y(at):.1f}" stroke="#d9dde2"/>')
        lines.append(
            f'<text x="{_x(0) - 6}" y="{_y(at) + 4:.1f}" text-anchor="end" font-size="12"'
            f' fill="#5d636b">{value:,g}</text>'
        )
    return "".join(lines)


def _frame(across: str, up: str) -> str:
    lines = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        lines.append(f'<line x1="{_x(tick)}" x2="{_x(tick)}" y1="{_y(0)}" y2="{_y(1)}" stroke="#d9dde2"/>')
        lines.append(f'<line x1="{_x(0)}" x2="{_x(1)}" y1="{_y(tick)}" y2="{_y(tick)}" stroke="#d9dde2"/>')
        lines.append(
            f'<text x="{_x(tick)}" y="{_y(0) + 18}" text-anchor="middle" font-size="12"'
            f' fill="#5d636b">{tick:.0%}</text>'
        )
        lines.append(
            f'<text x="{_x(0) - 6}" y="{_y(tick) + 4}" text-anchor="end" font-size="12"'
            f' fill="#5d636b">{tick:.0%}</text>'
        )
    return "".join([*lines, _titles(across, up)])


def _titles(across: str, up: str) -> str:
    below = f'<text x="{_x(0.5)}" y="{_HEIGHT - 6}" text-anchor="middle" font-size="13">{html_text(across)}</text>'
    return (
        below + f'<text transform="translate(12 {_y(0.5)}) rotate(-90)" text-anchor="middle"'
        f' font-size="13">{html_text(up)}</text>'
    )


def _svg(lines: Sequence[str], said: str, height: int = _HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
        f' role="img" aria-label="{html_text(said)}" font-family="system-ui,'
        f' sans-serif">{"".join(lines)}</svg>'
    )


def _x(value: float) -> float:
    return _MARGIN + 8 + value * (_WIDTH - _MARGIN - 32)


def _y(value: float) -> float:
    return _HEIGHT - _MARGIN - value * (_HEIGHT - _MARGIN - 16)


def drift_curve_svg(
    mean: Sequence[float | None], worst: Sequence[float | None], names: Sequence[str], description: str
) -> str:
    """Draw mean (solid) and worst (dashed) drift by entry, from 0 to the largest; an empty text if nothing is known."""
    values = [value for value in (*mean, *worst) if value is not None]
    if not values:
        return ""
    top, count = max(*values, 1e-6), len(mean)
    drawn = [_drift_line(mean, top, "")]
    if worst:
        drawn.append(_drift_line(worst, top, ' stroke-dasharray="6 4"'))
    for share in (0.0, 0.5, 1.0):
        y = _drift_y(share)
        drawn.append(f'<line x1="{_DRIFT_EDGE}" x2="{_DRIFT_WIDTH - 10}" y1="{y}" y2="{y}" stroke="#d9dde2"/>')
        drawn.append(_drift_text(_DRIFT_EDGE - 6, y + 4, "end", f"{share * top:.1%}"))
    for i, name in enumerate(names):
        anchor = "start" if i == 0 else "end" if i == count - 1 else "middle"
        drawn.append(_drift_text(_drift_x(i, count), _DRIFT_HEIGHT - 4, anchor, name))
    return (
        f'<svg viewBox="0 0 {_DRIFT_WIDTH} {_DRIFT_HEIGHT}" width="{_DRIFT_WIDTH}" height="{_DRIFT_HEIGHT}" role="img"'
        f' aria-label="{html_text(description)}" font-family="system-ui, sans-serif">{"".join(drawn)}</svg>'
    )


def _drift_line(values: Sequence[float | None], top: float, dash: str) -> str:
    points = " ".join(
        f"{_drift_x(i, len(values)):.1f},{_drift_y((value or 0.0) / top):.1f}" for i, value in enumerate(values)
    )
    return f'<polyline points="{points}" fill="none" stroke="#2457c5" stroke-width="2"{dash}/>'


def _drift_text(x: float, y: float, anchor: str, text: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="#5d636b">{html_text(text)}</text>'
    )


def _drift_x(step: int, count: int) -> float:
    return _DRIFT_EDGE + (_DRIFT_WIDTH - _DRIFT_EDGE - 10) * (step / max(1, count - 1))


def _drift_y(share: float) -> float:
    return _DRIFT_HEIGHT - 20 - share * (_DRIFT_HEIGHT - 40)
