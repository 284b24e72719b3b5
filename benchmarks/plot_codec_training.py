"""Draws benchmarks/results/codec_training.json as docs/codec_training.svg: held-out loss by tokens, a line a codec.

Only float32 versions down; means over the seeds that all lines have. Strategies other than the first are dashed. Prints
the table of docs/codecs.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from html import escape
from pathlib import Path
from typing import Any

from plesio.reporting.charts import short, ticks

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 380, 60, 340, 14, 40
COLOURS = ("#222222", "#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
FROM_TOKENS = 200_000  # before that all lines fall steeply
Line = tuple[str, str, list[tuple[float, float]]]


def lines(rows: list[dict[str, Any]]) -> list[Line]:
    """(codec, strategy, points), the lowest end last."""
    up_only = [row for row in rows if row["downlink"] == "none"]
    kinds = dict.fromkeys((row["codec"], row["strategy"]) for row in up_only)
    of = {one: {r["seed"]: r["losses"] for r in up_only if (r["codec"], r["strategy"]) == one} for one in kinds}
    seeds = set.intersection(*(set(found) for found in of.values()))
    drawn = []
    for (codec, strategy), found in of.items():
        looks = zip(*(found[seed] for seed in seeds), strict=True)
        points = [(at[0][0], statistics.mean(loss for _, loss in at)) for at in looks]
        drawn.append((codec, strategy, [point for point in points if point[0] >= FROM_TOKENS]))
    return sorted(drawn, key=lambda line: -line[2][-1][1])


def svg(drawn: list[Line], first: str) -> str:
    """The picture."""
    points = [point for _, _, line in drawn for point in line]
    xs = (0.0, max(x for x, _ in points))
    low, high = min(y for _, y in points), max(y for _, y in points)
    ys = (low - 0.04 * (high - low), high + 0.04 * (high - low))

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - xs[0]) / (xs[1] - xs[0]) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - ys[0]) / (ys[1] - ys[0]) * (HEIGHT - TOP - BOTTOM)

    body = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    for value in ticks(*ys):
        y = place(0, value)[1]
        body += f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        body += f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
    for value in ticks(*xs):
        body += (
            f'<text x="{place(value, 0)[0]:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(value)}</text>'
        )
    body += f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">committed tokens; nats per byte</text>'
    codecs = list(dict.fromkeys(codec for codec, _, _ in drawn))
    for number, (codec, strategy, line) in enumerate(drawn):
        colour, dash = (
            COLOURS[codecs.index(codec) % len(COLOURS)],
            "" if strategy == first else ' stroke-dasharray="5 4"',
        )
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        body += f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"{dash} points="{path}"/>'
        x, y = WIDTH - RIGHT + 10, TOP + 10 + 18 * number
        named = codec if strategy == first else f"{codec}, {strategy.removeprefix(first[:-1]).strip(', )')}"
        body += f'<line x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"{dash}/>'
        body += f'<text x="{x + 30}" y="{y + 4}">{escape(named)} {line[-1][1]:.3f}</text>'
    style = 'font-family="sans-serif" font-size="11" fill="#222"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {style}>{body}</svg>\n'


def table(rows: list[dict[str, Any]], compared: list[dict[str, Any]]) -> str:
    """Markdown: a line a codec and strategy."""
    lines = ["| codec | strategy | bytes a change | held-out loss, by seed | beside float32 of that seed |"]
    lines.append("|---|---|---|---|---|")
    for one in compared:
        own = [r["held_out"] for r in rows if all(r[key] == one[key] for key in ("codec", "downlink", "strategy"))]
        more = "" if one["codec"] == "none" else ", ".join(f"{each:+.2f} %" for each in one["more_percent_by_seed"])
        lines.append(
            f"| `{one['codec']}` | `{one['strategy']}` | {one['change_bytes']:,} "
            f"| {', '.join(f'{each:.4f}' for each in own)} | {more} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "codec_training.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "codec_training.svg")
    args = parser.parse_args()
    results = json.loads(args.results.read_text())
    rows = results["rows"]
    print(table(rows, results["compared"]))
    args.out.write_text(svg(lines(rows), rows[0]["strategy"]))


if __name__ == "__main__":
    main()
