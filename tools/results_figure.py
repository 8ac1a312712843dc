"""Writes docs/results.svg, README's figure, from the quickstart's table in docs/results.md.

Usage: python tools/results_figure.py [--check]   (--check writes nothing, and exits with 1 if the figure is another)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURE = DOCS / "results.md", DOCS / "results.svg"
START = "## Quickstart"
NUMBER = r"([+−-]?[\d.]+)"
ROW = re.compile(rf"^\|(?: ·)? ([^|]+?) \| {NUMBER} → \**{NUMBER}\**, {NUMBER} \[{NUMBER}, {NUMBER}\] \|", re.M)
# Okabe and Ito's, as of a report's figures: distinct for the colour-blind and in grey.
BEFORE, GAIN, LOSS, INK = "#999999", "#0072B2", "#D55E00", "#222222"
WIDTH, LEFT, SCALE, TOP, STEP = 760, 236, 4.6, 66, 48  # pixels; SCALE: a point of accuracy


class Result(NamedTuple):
    """A row of the table, in points: Avg@8 before and after, and the interval of their difference."""

    name: str
    before: float
    after: float
    low: float
    high: float


def results(page: str) -> list[Result]:
    """The quickstart's rows; ValueError if the page has none of the known form."""
    rows = ROW.findall(page.split(START, 1)[-1].split("\n## ", 1)[0])
    if not rows:
        raise ValueError(f"{PAGE} has no table of results below {START!r}")
    found = []
    for name, *numbers in rows:
        before, after, _, low, high = (float(number.replace("−", "-")) for number in numbers)
        found.append(Result(name, before, after, low, high))
    return found


def figure(rows: list[Result]) -> str:
    """The SVG: two bars a row, and the interval of the change about the second."""
    height = TOP + STEP * len(rows) + 34
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'font-family="Helvetica, Arial, sans-serif" font-size="14" fill="{INK}" role="img">',
            "<title>Avg@8 before and after label-free training on biology</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            '<text x="16" y="26" font-size="16" font-weight="bold">Avg@8 (%) before and after label-free training on '
            "biology</text>",
            f'<text x="16" y="47" fill="#555555">grey: before; <tspan fill="{GAIN}">blue</tspan>, <tspan fill="{LOSS}">'
            "orange</tspan>: after, better or worse; lines: 95 % intervals of the change</text>",
            *axis(TOP + STEP * len(rows)),
            *(line for place, row in enumerate(rows) for line in bars(row, TOP + STEP * place)),
            "</svg>\n",
        ]
    )


def axis(bottom: int) -> Iterator[str]:
    """Grid lines every 25 points, and their numbers."""
    for points in range(0, 101, 25):
        x = LEFT + points * SCALE
        yield f'<line x1="{x:g}" y1="{TOP - 6}" x2="{x:g}" y2="{bottom}" stroke="#dddddd"/>'
        yield f'<text x="{x:g}" y="{bottom + 20}" text-anchor="middle" fill="#555555">{points}</text>'


def bars(row: Result, y: int) -> Iterator[str]:
    """One row, from y downwards."""
    colour = GAIN if row.after >= row.before else LOSS
    low, high, middle = LEFT + (row.before + row.low) * SCALE, LEFT + (row.before + row.high) * SCALE, y + 27
    yield f'<text x="{LEFT - 10}" y="{y + 24}" text-anchor="end">{escape(row.name)}</text>'
    yield f'<rect x="{LEFT}" y="{y + 2}" width="{row.before * SCALE:g}" height="14" fill="{BEFORE}"/>'
    yield f'<rect x="{LEFT}" y="{y + 18}" width="{row.after * SCALE:g}" height="18" fill="{colour}"/>'
    yield f'<path d="M{low:g} {middle - 4}v8m0-4H{high:g}m0-4v8" fill="none" stroke="{INK}" stroke-width="1.5"/>'
    yield f'<text x="{LEFT + 6}" y="{y + 14}" font-size="12" fill="#ffffff">{row.before:.1f}</text>'
    yield f'<text x="{LEFT + 6}" y="{y + 32}" font-size="13" font-weight="bold" fill="#ffffff">{row.after:.1f}</text>'


def main(arguments: list[str]) -> int:
    """Write the figure, or check it."""
    made = figure(results(PAGE.read_text()))
    if "--check" in arguments:
        return int(not FIGURE.is_file() or FIGURE.read_text() != made)
    FIGURE.write_text(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
