"""Growth of memory by tools/soak.py, on made-up samples (a real soak takes 20 minutes)."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from soak import growth


def samples(role: str, growth_per_step: float, start: float = 500.0) -> pd.DataFrame:
    noise = random.Random(0)
    warming = [min(40.0, step) for step in range(1000)]  # the first steps settle
    rows = [
        (step, role, start + warming[step] + growth_per_step * step + noise.gauss(0, 2)) for step in range(1, 1000, 5)
    ]
    return pd.DataFrame(rows, columns=["step", "role", "mib"])


def test_a_slow_leak_is_found_and_noise_is_not():
    """Else an overnight run could die of memory after a soak that called it flat: 60 KiB a step against none."""
    table = growth(pd.concat([samples("rank 0", 0.06), samples("server engine", 0.0)]))
    assert not table["rank 0"]["flat"] and table["server engine"]["flat"]
    assert table["rank 0"]["mib_per_1000_steps"] == pytest.approx(60, abs=2)


def test_too_few_samples_are_refused():
    with pytest.raises(RuntimeError, match="too few"):
        growth(samples("rank 0", 0.0)[:5])
