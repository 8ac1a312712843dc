"""The soak's judgement on made-up samples (the soak itself runs for 20 minutes: tools/soak.py)."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from soak import judged


def samples(role: str, growth_per_step: float, start: float = 500.0) -> list[tuple[int, str, float]]:
    noise = random.Random(0)
    warming = [min(40.0, step) for step in range(1000)]  # the first steps settle
    return [
        (step, role, start + warming[step] + growth_per_step * step + noise.gauss(0, 2)) for step in range(1, 1000, 5)
    ]


def test_a_slow_leak_is_found_and_noise_is_not():
    """Else an overnight run could die of memory after a soak that called it flat: 60 KiB a step against none."""
    table = judged(samples("rank 0", 0.06) + samples("server engine", 0.0))
    assert not table["rank 0"]["flat"] and table["server engine"]["flat"]
    assert table["rank 0"]["mib_per_1000_steps"] == pytest.approx(60, abs=2)


def test_too_few_samples_are_no_verdict():
    with pytest.raises(RuntimeError, match="too few"):
        judged(samples("rank 0", 0.0)[:5])
