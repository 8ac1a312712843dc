"""nopsd.viewer.charts: a curve that is drawn wrongly, or hides a spike, misleads whoever decides by it."""

import math
import re

import pytest

from nopsd.viewer.charts import Line, line_chart, number, running_mean, thinned, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.013, 0.019), (-3, 40), (1e-6, 3e-6), (5, 90000)])
def test_ticks_are_round_and_within(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)
    step = found[1] - found[0]
    assert any(
        math.isclose(step / 10 ** math.floor(math.log10(step * 1.0001)), m, rel_tol=1e-6) for m in (1, 2, 2.5, 5, 10)
    )


def test_a_spike_survives_thinning():
    points = [(float(i), 0.0) for i in range(10_000)]
    points[6_543] = (6_543.0, 9.0)
    kept = thinned(points)
    assert len(kept) <= 250 and (6_543.0, 9.0) in kept and kept == sorted(kept)


def test_the_running_mean_is_of_the_last_values():
    points = [(float(i), float(i * i)) for i in range(9)]
    expected = [sum(v for _, v in points[max(0, i - 2) : i + 1]) / len(points[max(0, i - 2) : i + 1]) for i in range(9)]
    assert [v for _, v in running_mean(points, 3)] == pytest.approx(expected)


def test_a_chart_places_points_where_they_belong():
    """The lowest value is the lowest on the page, and x runs from the left edge to the right one."""
    chart = line_chart("c", [Line("a", [(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)], 0)], smooth=False)
    path = re.search(r'class="line s0" d="M([^"]+)"', chart)[1]
    xy = [tuple(map(float, pair.split())) for pair in path.split("L")]
    assert xy[0][0] < xy[1][0] < xy[2][0]
    assert xy[1][1] < xy[2][1] < xy[0][1]  # SVG counts downwards


def test_a_single_point_and_constants_can_be_drawn():
    assert "circle" in line_chart("c", [Line("a", [(3.0, 0.5)], 0)])
    assert "nan" not in line_chart("c", [Line("a", [(float(i), 0.0) for i in range(4)], 0)])


def test_names_are_escaped_and_steps_are_linked():
    lines = [Line("<script>", [(0.0, 1.0), (5.0, 2.0)], 0)]
    chart = line_chart('"><img>', lines, link=lambda step: f"/rollouts?step={step}")
    assert "<script>" not in chart and "<img>" not in chart
    assert 'href="/rollouts?step=5"' in chart


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.0, "0"), (0.123456, "0.1235"), (1234.5, "1,234"), (3e-6, "3e-6")]
)
def test_numbers_are_short(value, shown):
    assert number(value) == shown
