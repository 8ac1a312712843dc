"""Line charts as SVG, made on the server: they need no script, follow the page's colours, and are small in an export.

In: series of points. Out: markup. All text is escaped; colours are classes of the style sheet.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 26
MOST = 240  # points of a line: no screen shows more
COLOURS = 6
Point = tuple[float, float]
Link = Callable[[int], str]  # from a step to an address; empty: none


@dataclass(frozen=True)
class Line:
    """One line; `colour`: the number of its class; `run`: what a click opens a step of."""

    label: str
    points: Sequence[Point]
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """A range of values on `length` pixels from `start` on."""

    low: float
    high: float
    start: float
    length: float

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * self.length


def line_chart(name: str, lines: Sequence[Line], smooth: bool = True, link: Link | None = None) -> Markup:
    """A chart named `name` (for screen readers).

    Args:
        name: What is drawn.
        lines: At least one with a point.
        smooth: Draw running means over faint lines.
        link: What a click on a step opens.
    """
    points = [point for line in lines for point in line.points]
    x, y = _axes(points)
    parts = [_grid(x, y)]
    for line in lines:
        parts.append(_line(line, x, y, smooth))
    parts.append(_targets(lines, x, link))
    label = f"{name}: " + "; ".join(f"{line.label} {_last(line)}" for line in lines)
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" tabindex="0" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )


def number(value: float | None) -> str:
    """A value in few digits."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e+")
    return f"{value:,.4g}" if abs(value) < 1e3 else f"{value:,.0f}"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round values within a range."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Means over the last `window` values, fewer at the beginning."""
    total, found = 0.0, []
    for place, (x, value) in enumerate(points):
        total += value - (points[place - window][1] if place >= window else 0.0)
        found.append((x, total / min(place + 1, window)))
    return found


def thinned(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most about `most` points: of each stretch its lowest and its highest, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    size, found = math.ceil(len(points) / (most // 2)), []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        found += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return found


def _axes(points: Sequence[Point]) -> tuple[Axis, Axis]:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high = min(ys), max(ys)
    if low >= 0 and low < 0.4 * high:
        low = 0.0
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    low, high = (low if low == 0 and min(ys) >= 0 else low - margin), high + margin
    right = max(xs) if max(xs) > min(xs) else min(xs) + 1
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return Axis(min(xs), right, LEFT, across), Axis(high, low, TOP, down)


def _grid(x: Axis, y: Axis) -> Markup:
    parts = []
    for value in ticks(y.high, y.low):
        at = y.place(value)
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, at, WIDTH - RIGHT))
        parts.append(Markup('<text class="y" x="{}" y="{:.1f}">{}</text>').format(LEFT - 6, at + 4, number(value)))
    for value in ticks(x.low, x.high, 5):
        if value == int(value):
            place = Markup('<text class="x" x="{:.1f}" y="{}">{:,}</text>')
            parts.append(place.format(x.place(value), HEIGHT - 8, int(value)))
    return Markup("").join(parts)


def _line(line: Line, x: Axis, y: Axis, smooth: bool) -> Markup:
    window = max(1, len(line.points) // 20) if smooth else 1
    colour = f"s{line.colour % COLOURS}" + (" dashed" if line.dashed else "")
    drawn = Markup("")
    if window > 1:
        drawn += Markup('<path class="line faint {}" d="{}"/>').format(colour, _path(thinned(line.points), x, y))
    shown = thinned(running_mean(line.points, window))
    if len(shown) == 1:
        (px, py) = shown[0]
        return drawn + Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(
            colour, x.place(px), y.place(py)
        )
    return drawn + Markup('<path class="line {}" d="{}"/>').format(colour, _path(shown, x, y))


def _path(points: Sequence[Point], x: Axis, y: Axis) -> str:
    return "M" + "L".join(f"{x.place(px):.1f} {y.place(py):.1f}" for px, py in points)


def _targets(lines: Sequence[Line], x: Axis, link: Link | None) -> Markup:
    """What the pointer meets: a stripe for each step (or stretch of steps) with the values there, and its address."""
    steps = sorted({px for line in lines for px, _ in line.points})
    shown = steps[:: math.ceil(len(steps) / 120)]
    width, parts = x.length / max(len(shown), 1), []
    keys = [[p[0] for p in line.points] for line in lines]
    for step in shown:
        values = []
        for line, known in zip(lines, keys):
            place = bisect.bisect_left(known, step)
            if place < len(known) and known[place] == step:
                values.append(f"{line.label} {number(line.points[place][1])}")
        stripe = Markup(
            '<rect class="hit" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>'
        ).format(x.place(step) - width / 2, TOP, width, HEIGHT - TOP - BOTTOM, f"step {step:g}\n" + "\n".join(values))
        address = link(int(step)) if link else ""
        parts.append(Markup('<a href="{}" tabindex="-1">{}</a>').format(address, stripe) if address else stripe)
    return Markup("").join(parts)


def _last(line: Line) -> str:
    return number(line.points[-1][1]) if line.points else "–"


def bar(shares: Sequence[tuple[str, float, str]]) -> Markup:
    """Parts of a whole beside each other: (name, share, what is shown of it)."""
    at, parts = 0.0, []
    for place, (name, share, shown) in enumerate(shares):
        parts.append(
            Markup('<rect class="s{}" x="{:.2f}" y="0" width="{:.2f}" height="14"><title>{} {}</title></rect>').format(
                place % COLOURS, at * 400, max(share * 400 - 1, 0.5), name, shown
            )
        )
        at += share
    names = ", ".join(f"{name} {shown}" for name, _, shown in shares)
    return Markup(
        '<svg class="bar" viewBox="0 0 400 14" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(escape(names), Markup("").join(parts))
