"""The reference divergences themselves."""

import math

import pytest
import torch

from nopsd.train.losses.tile import canonical
from tests.train.losses.reference import divergence, entropy, forward_kl, jsd, reverse_kl

KINDS = [("reverse_kl", 0.5), ("forward_kl", 0.5), ("jsd", 0.5), ("jsd", 0.1), ("jsd", 0.0), ("jsd", 1.0)]


def log_probs(seed: int, n: int = 6, v: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(n, v, generator=generator, dtype=torch.float64)).log_softmax(-1)


@pytest.mark.parametrize("kind, beta", KINDS)
def test_not_negative_and_zero_at_equality(kind, beta):
    p, q = log_probs(0), log_probs(1)
    assert (divergence(kind, p, q, beta) > 0).all()
    # Of 9 classes Σ p |log p| is at most log 9; up to four roundings of 2**-53 each, of the log and of terms up to 1.
    rounding = 4 * (1 + math.log(9)) * 2**-53
    assert divergence(kind, p, p, beta).abs().max() < rounding
    nearly = (p + torch.eye(9, dtype=p.dtype)[0] * 1e-5).log_softmax(-1)
    assert divergence(kind, p, nearly, beta).max() > rounding, "a class off by 1e-5 must be seen"


@pytest.mark.parametrize("kind, beta", KINDS)
def test_gradients_against_finite_differences(kind, beta):
    logits, q = log_probs(0).requires_grad_(), log_probs(1).requires_grad_()

    def of_logits(z, t):
        return divergence(kind, z.log_softmax(-1), t.log_softmax(-1), beta)

    assert torch.autograd.gradcheck(of_logits, (logits, q))


@pytest.mark.parametrize("kind, beta", KINDS)
def test_gradient_is_nil_at_equality(kind, beta):
    logits = log_probs(0).requires_grad_()
    divergence(kind, logits.log_softmax(-1), log_probs(0), beta).sum().backward()
    assert logits.grad.abs().max() < 1e-14


def test_values_against_torch_distributions():
    """Swapping p and q, the classic mistake (a paper's reverse KL coded as forward), fails here."""
    p, q = log_probs(0), log_probs(1)
    P, Q = torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(reverse_kl(p, q), kl(P, Q))
    torch.testing.assert_close(forward_kl(p, q), kl(Q, P))
    torch.testing.assert_close(entropy(p), P.entropy())
    M = torch.distributions.Categorical(probs=0.3 * q.exp() + 0.7 * p.exp())
    torch.testing.assert_close(jsd(p, q, 0.3), 0.3 * kl(Q, M) + 0.7 * kl(P, M))


def test_jsd_ends_are_the_two_kls():
    p, q = log_probs(0), log_probs(1)
    assert torch.equal(jsd(p, q, 1.0), reverse_kl(p, q))
    assert torch.equal(jsd(p, q, 0.0), forward_kl(p, q))


def test_unknown_kind_and_beta_are_refused():
    with pytest.raises(ValueError, match="reverse_kl, forward_kl or jsd"):
        canonical("kl", 0.5)
    with pytest.raises(ValueError, match="beta is 1.5"):
        canonical("jsd", 1.5)
