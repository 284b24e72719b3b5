"""Small drawings as inline SVG. Colours are the page's CSS variables, so they follow light and dark. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
Share = tuple[int, int, int]  # (rounds taken part in, of so many, versions behind at most)

WIDTH, HEIGHT = 860, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 36
COLOURS = 8  # --c0 ... --c7 of the page
MAX_POINTS = 300
MAX_COLUMNS = 240


@dataclass(frozen=True)
class Series:
    """A named line."""

    name: str
    points: Sequence[Point]


def line_chart(
    series: Sequence[Series],
    x_unit: str,
    y_unit: str,
    marks: Sequence[tuple[float, str]] = (),
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines over one x axis. marks: (x, what happened), drawn as dashed verticals."""
    shown = [s for s in series if s.points]
    if not shown:
        return '<p class="none">Nothing was recorded.</p>'
    points = [p for s in shown for p in s.points]
    xs = _widened(min(x for x, _ in points), max(x for x, _ in points))
    ys = y_range or _widened(min(y for _, y in points), max(y for _, y in points))
    body = _axes(xs, ys, x_unit, y_unit)
    for x, what in marks:
        if xs[0] <= x <= xs[1]:
            at = f"{_x(x, xs):.1f}"
            title = f"<title>{escape(what)}</title>"
            body += f'<line class="mark" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">{title}</line>'
    for number, one in enumerate(shown):
        body += _line(one, number % COLOURS, xs, ys)
    legend = "".join(
        f'<span><i class="swatch" style="background:var(--c{number % COLOURS})"></i>{escape(one.name)}</span>'
        for number, one in enumerate(shown)
    )
    return f'{_svg(HEIGHT, body, f"{y_unit} by {x_unit}")}<p class="legend">{legend if len(shown) > 1 else ""}</p>'


def _line(one: Series, colour: int, xs: Point, ys: Point) -> str:
    points = thinned(one.points)
    place = [f"{_x(x, xs):.1f},{_y(y, ys):.1f}" for x, y in points]
    title = f"<title>{escape(one.name)}</title>"
    path = f'<polyline class="line" style="stroke:var(--c{colour})" points="{" ".join(place)}">{title}</polyline>'
    if len(points) > 40:
        return path
    dots = (p.split(",") for p in place)
    return path + "".join(f'<circle cx="{x}" cy="{y}" r="2.5" style="fill:var(--c{colour})"/>' for x, y in dots)


def strip(rows: Sequence[tuple[str, Sequence[Share]]]) -> str:
    """One row a learner, one cell a round or several that follow each other, darker is fresher. Rows have equal rounds."""
    columns = sum(rounds for _, rounds, _ in rows[0][1]) if rows else 0
    if not columns:
        return '<p class="none">No round was closed.</p>'
    shown = min(columns, MAX_COLUMNS)
    room, row_height = (WIDTH - 130) / shown, 22
    body = ""
    for at, (name, cells) in enumerate(rows):
        y = at * row_height
        body += f'<text class="row" x="120" y="{y + 15}" text-anchor="end">{escape(name[:18])}</text>'
        for column, part in enumerate(_dealt(cells, columns, shown)):
            body += _cell(part, 126 + column * room, y + 2, max(0.6, room - min(1.0, room / 5)), row_height - 4)
    return _svg(len(rows) * row_height + 4, body, "rounds and who took part")


def _dealt(cells: Sequence[Share], columns: int, shown: int) -> list[Share]:
    """The same in so many columns of about as many rounds each; one that got none is as the one before it."""
    out: list[Share] = [(0, 0, 0)] * shown
    before = 0
    for taken, rounds, behind in cells:
        at = before * shown // columns
        out[at] = (out[at][0] + taken, out[at][1] + rounds, max(out[at][2], behind))
        before += rounds
    for at in range(1, shown):
        out[at] = out[at] if out[at][1] else out[at - 1]
    return out


def _cell(part: Share, x: float, y: float, width: float, height: float) -> str:
    """A cell stands for one round, or for several: then it is as strong as the share of them taken part in."""
    taken, rounds, behind = part
    place = f'x="{x:.1f}" y="{y}" width="{width:.2f}" height="{height}"'
    if not taken:
        return f'<rect class="away" {place}/>'
    strength = taken / rounds / (1 + 0.5 * behind)
    title = f"<title>{taken} of {rounds} rounds; at most {behind} versions behind</title>"
    return f'<rect class="part" {place} fill-opacity="{max(0.15, strength):.2f}">{title if behind else ""}</rect>'


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS of them, as the means of equal shares; the ends stay."""
    if len(points) <= MAX_POINTS:
        return list(points)
    out = [points[0]]
    for share in range(MAX_POINTS - 2):
        part = points[share * len(points) // (MAX_POINTS - 2) : (share + 1) * len(points) // (MAX_POINTS - 2)]
        out.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return [*out, points[-1]]


def short(value: float) -> str:
    """A number as people write it: 1.2 M."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high]."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * s for s in (1, 2, 5, 10) if power * s >= raw)
    first = math.ceil(low / step)
    return [step * n for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(xs: Point, ys: Point, x_unit: str, y_unit: str) -> str:
    body = ""
    for value in ticks(*ys):
        y = f"{_y(value, ys):.1f}"
        body += f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        body += f'<text x="{LEFT - 8}" y="{y}" dy="4" text-anchor="end">{short(value)}</text>'
    for value in ticks(*xs, 8):
        body += f'<text x="{_x(value, xs):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(value)}</text>'
    body += f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_unit)}</text>'
    return body + f'<text x="{LEFT - 8}" y="{HEIGHT - 4}" text-anchor="end">{escape(y_unit)}</text>'


def _widened(low: float, high: float) -> Point:
    room = (high - low) * 0.04 or max(abs(high), 1.0) * 0.1
    return (low if low == 0 else low - room, high + room)


def _x(x: float, xs: Point) -> float:
    return LEFT + (x - xs[0]) / (xs[1] - xs[0]) * (WIDTH - LEFT - RIGHT)


def _y(y: float, ys: Point) -> float:
    return HEIGHT - BOTTOM - (y - ys[0]) / (ys[1] - ys[0]) * (HEIGHT - TOP - BOTTOM)


def _svg(height: float, body: str, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
