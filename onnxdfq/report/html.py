"""The few shapes a page is made of: text that is safe, tables, bars. No script, no file beside it, no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c1e21; --soft: #5c6470; --line: #d9dde3; --box: #f5f6f8;
  --bar: #3a6ea5; --bad: #b3362b; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e6e8eb; --soft: #9aa3ae; --line: #343a42;
  --box: #1e2126; --bar: #6ea3d8; --bad: #ef8279; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.35rem; margin: .5rem 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.verdict { font-size: 1.1rem; border-left: 4px solid var(--bar); padding: .5rem .8rem; background: var(--box); }
.verdict.bad { border-color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; overflow-wrap: normal; }
td.n, th.n { text-align: right; white-space: nowrap; }
dl { display: grid; grid-template-columns: minmax(7rem, 12rem) 1fr; gap: .2rem .8rem; margin: 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
.bar { background: var(--bar); height: .7rem; border-radius: 2px; min-width: 1px; }
td.track { width: 45%; min-width: 6rem; } td:first-child { min-width: 5rem; }
code, pre { background: var(--box); font: .85rem ui-monospace, monospace; } pre { padding: .6rem; overflow-x: auto; }
img { max-width: 100%; height: auto; border: 1px solid var(--line); }
summary { cursor: pointer; color: var(--soft); } footer { color: var(--soft); font-size: .8rem; margin-top: 2rem; }
"""
NUMBERS = ' class="n"'
Cell = str | float | int | None


def document(title: str, body: Iterable[str]) -> str:
    """A whole page; ``body`` is HTML already, the title is not."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{"".join(body)}\n</body></html>\n'


def section(title: str, *parts: str) -> str:
    """A heading and what belongs under it; nothing where all of it is empty."""
    inner = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{inner}</section>\n" if inner else ""


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def facts(pairs: Mapping[str, object]) -> str:
    """Names and what they are; empty ones are left out."""
    shown = [f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs.items() if value]
    return f"<dl>{''.join(shown)}</dl>" if shown else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, figures: bool = False) -> str:
    """Numbers stand to the right, and so do their headings; None is a dash. figures: all but the first column does."""
    rows = list(rows)
    if not rows:
        return ""
    right = [
        (figures and place > 0) or any(not isinstance(row[place], str) for row in rows)
        for place in range(len(headings))
    ]
    made = [f"<tr>{''.join(map(_cell, row, right))}</tr>" for row in rows]
    heads = zip(headings, right, strict=True)
    head = "".join(f"<th{NUMBERS if each else ''}>{escape(heading)}</th>" for heading, each in heads)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(made)}</tbody></table></div>'


def bars(rows: Iterable[tuple[str, float, str]]) -> str:
    """Rows of (name, length, label); the longest bar fills its track, what is below 0 has none."""
    rows = list(rows)
    longest = max((length for _, length, _ in rows), default=0.0)
    made = []
    for name, length, label in rows:
        share = 100 * max(length, 0.0) / longest if longest > 0 else 0.0
        bar = f'<div class="bar" style="width:{share:.1f}%"></div>'
        made.append(f'<tr><td>{escape(name)}</td><td class="track">{bar}</td><td class="n">{escape(label)}</td></tr>')
    return f'<div class="wide"><table><tbody>{"".join(made)}</tbody></table></div>' if made else ""


def listed(lines: Iterable[str]) -> str:
    made = [f"<li>{escape(line)}</li>" for line in lines]
    return f"<ul>{''.join(made)}</ul>" if made else ""


def folded(summary: str, inner: str) -> str:
    """Shown on demand; nothing where there is nothing."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>" if inner else ""


def command(line: str) -> str:
    return f"<pre>{escape(line)}</pre>"


def _cell(value: Cell, right: bool) -> str:
    if value is None:
        return '<td class="n">-</td>'
    if isinstance(value, str):
        return f'<td class="n">{escape(value)}</td>' if right else f"<td>{escape(value)}</td>"
    return f'<td class="n">{value if isinstance(value, int) else f"{value:.4g}"}</td>'
