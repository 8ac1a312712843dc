"""The fused token loss against autograd over whole logits in float64; the model around it, tied and untied."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nopsd.engine.packed_attention import Segments, use_packed_attention
from nopsd.train.algorithms.sft import NegativeLogLikelihood
from nopsd.train.losses.grpo import GrpoLoss
from nopsd.train.losses.token_head import TokenLossModel, statistics_of
from nopsd.train.losses.token_loss import fused_linear_token_loss
from tests.models import qwen3

N, H, V = 11, 8, 37


def inputs(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, H, generator=generator, dtype=torch.float64).to(dtype) for n in (N, V))
    return [hidden, weight, torch.randint(0, V, (N,), generator=generator), torch.rand(N, generator=generator).double()]


def losses() -> dict[str, tuple]:
    """Ours, and the same as a plain expression of the log-probs."""
    generator = torch.Generator().manual_seed(2)
    advantage, noise, reference = torch.randn(3, N, generator=generator, dtype=torch.float64).unbind()
    old, reference = -3 + noise, -3 + reference

    def grpo(logp: torch.Tensor) -> torch.Tensor:
        ratio, apart = (logp - old).exp(), reference - logp
        surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        return -surrogate + 0.1 * (apart.exp() - apart - 1)

    return {
        "nll": (NegativeLogLikelihood(), lambda logp: -logp),
        "grpo": (GrpoLoss(advantage, old, reference, 0.2, 0.1), grpo),
    }


@pytest.mark.parametrize("kind", ["nll", "grpo"])
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_loss_and_gradients_are_autograds(kind: str, chunk: int | None, monkeypatch: pytest.MonkeyPatch):
    """A wrong tile boundary or slope trains another objective."""
    monkeypatch.setattr("nopsd.train.losses.token_loss.BLOCK_ELEMENTS", 2 * V)  # two rows a block
    ours, plain = losses()[kind]
    hidden, weight, target, token_weight = inputs()
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    logp = (leaves[0] @ leaves[1].t()).log_softmax(-1)
    chosen = torch.stack([logp[n, target[n]] for n in range(N)])
    expected = sum(token_weight[n] * plain(chosen)[n] for n in range(N))
    wanted = torch.autograd.grad(3 * expected, leaves)
    result = fused_linear_token_loss(*leaves, target, token_weight, ours, chunk)
    found = torch.autograd.grad(3 * result.loss, leaves)
    torch.testing.assert_close(result.loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.logprob_N, chosen.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.entropy_N, -(logp.exp() * logp).sum(-1).detach(), rtol=1e-12, atol=1e-12)
    assert not result.logprob_N.requires_grad and not result.entropy_N.requires_grad


def test_bfloat16_is_computed_in_float32():
    """In bfloat16 a log-prob has three digits, and ratios near 1 none that count."""
    hidden, weight, target, token_weight = inputs(torch.bfloat16)
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    result = fused_linear_token_loss(*leaves, target, token_weight, NegativeLogLikelihood(), 4)
    logp = (hidden.double() @ weight.double().t()).log_softmax(-1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(result.logprob_N.double(), logp, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(result.loss, leaves)
    assert [g.dtype for g in gradients] == [torch.bfloat16] * 2 and all(g.abs().sum() > 0 for g in gradients)


def test_no_rows_give_a_connected_zero():
    """A rank without tokens must enter the backward like the others."""
    weight = torch.randn(V, H, requires_grad=True)
    hidden = torch.empty(0, H, requires_grad=True)
    nothing = torch.empty(0, dtype=torch.long)
    result = fused_linear_token_loss(hidden, weight, nothing, torch.empty(0), NegativeLogLikelihood())
    result.loss.backward()
    assert result.loss.item() == 0 and weight.grad is not None and not weight.grad.any()


def test_a_dummys_token_adds_nothing_whatever_its_value():
    """0 · inf is NaN: one dummy on an idle rank would make every step a skipped one."""
    hidden, weight, target, token_weight = inputs()
    token_weight[3] = 0
    wild = GrpoLoss(torch.ones(N), torch.full((N,), -3.0).index_fill(0, torch.tensor(3), -1e6), None, 0.2, 0.0)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    result = fused_linear_token_loss(*leaves, target, token_weight, wild)
    found = torch.autograd.grad(result.loss, leaves)
    assert result.loss.isfinite() and all(g.isfinite().all() for g in found) and not found[0][3].any()


def test_a_released_weight_is_refused_by_name():
    """Under ZeRO-3 an empty weight would give a loss of nothing."""
    with pytest.raises(ValueError, match="gathered"):
        fused_linear_token_loss(torch.randn(2, H), torch.empty(0), *torch.ones(2, 2), NegativeLogLikelihood())


def tiny(tied: bool) -> Any:
    return qwen3(tie_word_embeddings=tied).double()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_models_gradients_are_those_of_whole_logits(tied: bool, packed: bool):
    """Each sequence alone is the reference; a tied weight must get the head's gradient and the embedding's."""
    sequences = [([3, 4, 5], [10, 11, 12, 2]), ([20], [30, 31])]
    reference, lm = tiny(tied), tiny(tied)
    expected = torch.zeros((), dtype=torch.float64)
    for prompt, response in sequences:
        logits = reference(input_ids=torch.tensor([prompt + response])).logits[0]
        for t, token in enumerate(response):
            expected = expected - logits[len(prompt) - 1 + t].log_softmax(-1)[token] / 6
    wanted = torch.autograd.grad(expected, list(reference.parameters()))
    if packed:
        use_packed_attention(lm)
        ids, rows = torch.tensor([[i for p, y in sequences for i in p + y]]), torch.tensor([2, 3, 4, 5, 7, 8])
    else:
        ids = torch.tensor([[3, 4, 5, 10, 11, 12, 2], [20, 30, 31, 0, 0, 0, 0]])
        rows = torch.tensor([2, 3, 4, 5, 7, 8])
    model = TokenLossModel(lm, chunk=4)
    target, weights = torch.tensor([10, 11, 12, 2, 30, 31]), torch.full((6,), 1 / 6, dtype=torch.float64)
    segments = Segments((7, 3)) if packed else None
    result = model(ids, rows, target, weights, NegativeLogLikelihood(), segments)
    torch.testing.assert_close(result.loss, expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(result.loss, list(lm.parameters())), wanted, rtol=1e-7, atol=1e-10)
    with torch.no_grad():
        found = model(ids, rows, target, weights, segments=segments)
    torch.testing.assert_close(found[2], -result.logprob_N.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0], result.entropy_N.float(), rtol=1e-5, atol=1e-5)


def test_statistics_name_certainty_and_entropy_right():
    """self-certainty is KL(U ‖ p), the reward of Intuitor: the KL's other direction is bounded and another reward."""
    hidden, weight, target, _ = inputs(torch.float32)
    p = (hidden.double() @ weight.double().t()).softmax(-1)
    entropy, certainty, nll = statistics_of(hidden, target, weight, 4)
    wanted = torch.stack([sum((1 / V) * ((1 / V) / p[n, v]).log() for v in range(V)) for n in range(N)])
    torch.testing.assert_close(certainty.double(), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy.double(), -(p * p.log()).sum(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(nll.double(), -p.gather(1, target[:, None])[:, 0].log(), rtol=1e-4, atol=1e-5)
