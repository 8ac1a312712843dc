"""README's figure: if this fails, it shows other numbers than the table it is made from."""

import importlib.util
import re
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "tools" / "results_figure.py"
PAGE = """## Quickstart

| | Avg@8 before → after | maj@8 |
|---|---|---|
| biology <in> | 64.5 → **85.0**, +20.5 [+17.0, +24.5] | 71.2 → 85.6 |
| · physics | 50.0 → 40.0, −10.0 [−13.0, −7.0] | |

## Another

| later | 1.0 → 2.0, +1.0 [+0.5, +1.5] | |
"""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("results_figure", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_the_quickstarts_alone(tool):
    assert tool.results(PAGE) == [("biology <in>", 64.5, 85.0, 17.0, 24.5), ("physics", 50.0, 40.0, -13.0, -7.0)]
    with pytest.raises(ValueError, match="no table of results below"):
        tool.results("## Quickstart\n\nnothing")


def test_lengths_and_intervals_are_to_scale(tool):
    drawn = tool.figure(tool.results(PAGE))
    widths = [float(w) / tool.SCALE for w in re.findall(r'<rect x="\d+" y="\d+" width="([\d.]+)"', drawn)]
    assert widths == pytest.approx([64.5, 85.0, 50.0, 40.0])
    ends = [
        (float(x) - tool.LEFT) / tool.SCALE for pair in re.findall(r'd="M([\d.]+) .*?H([\d.]+)', drawn) for x in pair
    ]
    assert ends == pytest.approx([81.5, 89.0, 37.0, 43.0])
    assert tool.GAIN in drawn.split("biology")[2] and "biology &lt;in&gt;" in drawn
