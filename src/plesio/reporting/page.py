"""The frame of report.html: one file, no script, nothing loaded from anywhere. Its markup is well-formed XML too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --bg: #f7f8fa; --card: #fff; --ink: #1b1f27; --soft: #667085; --line: #e3e6ec;
  --bad: #d1435b; --c0: #3568d4; --c1: #d97706; --c2: #0f9d76; --c3: #b83a8d; --c4: #7c5cd6; --c5: #0b93b0;
  --c6: #a3650f; --c7: #5f6f86; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #12151b; --card: #1a1e26; --ink: #e8ebf1; --soft: #99a3b5; --line: #2b313c; --bad: #ff7a90;
  --c0: #7aa5ff; --c1: #f5ab4a; --c2: #4cd0a5; --c3: #ef86c6; --c4: #ad94ff; --c5: #56cbe6; --c6: #d7a35c;
  --c7: #a2afc2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 980px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 30px; letter-spacing: -.02em; margin: 0 0 6px; }
h2 { font-size: 17px; margin: 0 0 10px; }
h3 { font-size: 13px; color: var(--soft); font-weight: 600; margin: 14px 0 4px; }
.lead { font-size: 17px; margin: 0 0 4px; max-width: 70ch; }
.warn { color: var(--bad); font-weight: 600; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
  margin-top: 18px; overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 22px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 16px; }
.tile b { display: block; font-size: 22px; letter-spacing: -.01em; }
.tile span, .legend, .none, .note { color: var(--soft); font-size: 13px; }
.legend { margin: 4px 0 0; display: flex; flex-wrap: wrap; gap: 4px 16px; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 11px; }
svg .grid { stroke: var(--line); }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .mark { stroke: var(--bad); stroke-width: 1.2; stroke-dasharray: 3 3; }
svg .part { fill: var(--c0); }
svg .away { fill: var(--line); }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
"""


def page(title: str, body: str) -> str:
    """The whole document; `body` is markup."""
    head = (
        f'<meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><main>{body}</main></body></html>\n'


def section(title: str, *parts: str) -> str:
    """A card; the parts are markup."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>\n"


def heading(text: str) -> str:
    """A small heading within a card."""
    return f"<h3>{escape(text)}</h3>"


def note(text: str) -> str:
    """A remark below a drawing."""
    return f'<p class="note">{escape(text)}</p>'


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """(value, what it is), as large figures."""
    inner = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(what)}</span></div>' for v, what in facts)
    return f'<div class="tiles">{inner}</div>\n'


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of plain texts."""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
