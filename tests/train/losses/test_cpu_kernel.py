"""The compiled CPU kernel of the usual objectives against plain autograd in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.train.losses import cpu_kernel
from tests.train.losses.fused import fused_loss
from tests.train.losses.reference import divergence

KINDS = ("reverse_kl", "forward_kl")
H = 6


def inputs(n: int, size: int, seed: int = 0) -> list[torch.Tensor]:
    """Hidden states and weights of both sides, token weights, sampled ids; float32."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(*shape, generator=generator) for shape in ((n, H), (size, H), (n, H), (size, H))]
    return [*drawn, torch.rand(n, generator=generator) + 0.1, torch.randint(size, (n,), generator=generator)]


def run(keys: dict[str, Any], given: list[torch.Tensor], kernel: str = "numba", **more: Any) -> dict[str, Any]:
    leaves = given[0].clone().requires_grad_(), given[1].clone().requires_grad_()
    config = DistillConfig(kernel=kernel, **({"logit_chunk": 5} | keys))
    result = fused_loss(*leaves, *given[2:5], config, target_N=given[5], with_statistics=True, **more)
    result.loss.backward()
    return {"loss": result.loss.detach(), "hidden": leaves[0].grad, "weight": leaves[1].grad, "sums": result.sums}


def wide(hidden: torch.Tensor, weight: torch.Tensor) -> float:
    """The largest sum of the absolute products in a logit."""
    return float((hidden.abs() @ weight.abs().t()).max())


def rounding(size: int, products: float) -> float:
    """What float32 may change, relatively, on any machine: u = 2**-24 for each operation, in whatever order.

    A sum of n rounded terms is off by at most 5 u sqrt(n) of the sum of their absolute values, but for one case in
    100,000 (Higham and Mary, 2019). A logit of H products is off by that much absolutely, and each of the two sides'
    probabilities relatively; a gradient or the loss is then one more sum, over the vocabulary.
    """
    return 5 * 2**-24 * (size**0.5 + 2 * H**0.5 * products)


def far(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


def log_probs(hidden: torch.Tensor, weight: torch.Tensor, temperature: float) -> torch.Tensor:
    return (hidden @ weight.t() / temperature).log_softmax(-1)


# A block's terms are added in float32, over at least four partial sums (SSE): BLOCK / 4 roundings in each, of at
# most u = 2^-24 of the sum, which add up as a random walk, u·sqrt(BLOCK / 4) = 1.3e-6. Two of these (P's sum and d's
# mean enter the gradient), and exp's own 3e-7. A CPU with wider vectors is nearer.
BOUND = 2 * 2**-24 * (cpu_kernel.BLOCK / 4) ** 0.5 + 3e-7


def errors(kind: str, size: int, temperature: float, given: tuple[Tensor, ...], of: float | None = None) -> list[float]:
    """Relative errors of the gradients, computed at the temperature `of`, against float64 autograd at `temperature`."""
    found = run({"divergence": kind, "temperature": of or temperature}, given, vocab_size=size)
    hidden, weight, teacher, teacher_weight, token_weight = (t.double() for t in given[:5])
    bound = rounding(size, max(wide(given[0], given[1]), wide(given[2], given[3])) / temperature)

    def expect(ids: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        leaves = hidden.requires_grad_(), weight.requires_grad_()
        sides = log_probs(hidden, weight[:ids], temperature), log_probs(teacher, teacher_weight[:ids], temperature)
        loss = (token_weight * divergence(kind, *sides)).sum()
        return loss.detach(), torch.autograd.grad(loss, leaves)

    loss, gradients = expect(size)
    torch.testing.assert_close(found["loss"].double(), loss, rtol=bound, atol=0)
    for name, wanted, wrong in zip(("hidden", "weight"), gradients, expect(size + 1)[1]):
        assert far(found[name], wanted) < bound
        assert far(wrong, wanted) > 2 * bound, "one id too many must be seen"
    assert not found["weight"][size:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_clips_and_statistics_equal_the_torch_path(kind: str):
    """The log's numbers and the clips' share of the gradient must not depend on which kernel a call's size takes."""
    keys, given = {"divergence": kind, "token_clip": 3.0, "mask_high_entropy": 5.4, "is_clip": 1.5}, inputs(9, 700)
    served = -8 * torch.rand(9, generator=torch.Generator().manual_seed(1))
    found, wanted = (run(keys, given, kernel, served_N=served) for kernel in ("numba", "torch"))
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=1e-5)
    named = dict(zip(("clip_frac", "neg_frac", "mask_frac"), found["sums"][-4:-1].tolist()))
    assert 0 < named["clip_frac"] < 9 and 0 < named["mask_frac"] < 9  # the case has both


@pytest.mark.parametrize("kind", KINDS)
def test_equal_distributions_give_no_loss_and_no_gradient(kind: str):
    given = inputs(4, 3000)
    found = run({"divergence": kind}, [given[0], given[1], given[0], given[1], *given[4:]])
    assert abs(found["loss"]) < 1e-7 and found["hidden"].abs().max() < 1e-7 and found["weight"].abs().max() < 1e-7


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 2])
def test_a_broken_models_logits_give_a_loss_that_is_not_finite(bad: float, side: int):
    """Else the step that would ruin the weights is taken, not skipped."""
    given = inputs(3, 500)
    given[side][1, 2] = bad
    assert not run({}, given)["loss"].isfinite()


def test_no_tokens():
    found = run({}, inputs(0, 50))
    assert found["loss"] == 0 and not found["weight"].any() and found["hidden"].shape == (0, H)


def test_threads_change_nothing():
    """Rows are shared out; more threads than rows, and shares of unequal size."""
    given, before = inputs(7, 900), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            logits = given[0] @ given[1].t(), given[2] @ given[3].t()
            tops = logits[0].amax(-1), logits[1].amax(-1)
            sums = cpu_kernel.sums(*logits, tops, 1.0)
            cpu_kernel.reverse_gradient(*logits, tops, sums[:, 0], sums[:, 1], 1.0)
            results.append((sums, logits[0]))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-4)


def test_exp_is_within_a_few_roundings():
    """Over all that (z − max z)/τ can be, far below what float32 holds included."""
    x = -torch.cat([torch.linspace(0, 1, 5001), torch.linspace(1, 86, 50001), torch.tensor([200.0, 1e30])])
    logits = x[:, None].clone()
    found = cpu_kernel.sums(logits, logits, (torch.zeros(len(x)), torch.zeros(len(x))), 1.0)[:, 0]
    exact = x.double().exp()
    assert ((found - exact).abs() <= 4e-7 * exact + 2e-38).all()
    assert found[0] == 1
