"""The float32 master of the moving average follows the closed form, and bfloat16 weights don't stall it."""

from __future__ import annotations

import pytest
import torch

from nopsd.engine import ema


@pytest.fixture(autouse=True)
def plain_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of ZeRO-3's shards."""
    monkeypatch.setattr(ema, "student_shards", lambda student: ((n, t.float()) for n, t in student.items()))
    monkeypatch.setattr(ema, "check_same_partition", lambda student, teacher: None)


def average(start: torch.Tensor, currents: list[torch.Tensor], rate: float) -> torch.Tensor:
    sharded = ema.ShardedEma({"w": start}, {}, rate)
    for current in currents:
        sharded.student["w"] = current
        sharded.update()
    return sharded.master["w"]


def trajectory(steps: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(64, generator=generator).to(dtype) for _ in range(steps + 1)]


def test_ema_after_n_steps_equals_the_closed_form():
    """θ̄_n = (1−ρ)^n θ_0 + Σ_k ρ(1−ρ)^(n−k) θ_k."""
    rate, theta = 0.1, trajectory(20)
    master = average(theta[0], theta[1:], rate)
    n = len(theta) - 1
    closed = (1 - rate) ** n * theta[0].double()
    closed += sum(rate * (1 - rate) ** (n - k) * theta[k].double() for k in range(1, n + 1))
    assert (master.double() - closed).abs().max() < 1e-6


def test_the_rate_is_the_fraction_of_new_weight():
    assert torch.allclose(average(torch.zeros(1), [torch.ones(1)], 0.01), torch.tensor([0.01]))


def test_a_bfloat16_student_moves_the_float32_master():
    """An in-place bfloat16 average would not move at all under updates this small; the master must."""
    naive = torch.ones(8, dtype=torch.bfloat16)
    current = torch.full((8,), 1.0 + 2**-7, dtype=torch.bfloat16)
    master = average(torch.ones(8), [current] * 50, 0.01)
    for _ in range(50):
        naive.lerp_(current, 0.01)
    expected = 1 + 2**-7 * (1 - 0.99**50)
    assert master.dtype == torch.float32
    assert torch.allclose(master, torch.full((8,), expected), atol=1e-6)
    assert torch.equal(naive, torch.ones(8, dtype=torch.bfloat16))
