"""How sure a model is of each token, against plain float64 sums over the vocabulary."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nopsd.signals.statistics import NAMES, logit_form, token_statistics

T, V, H = 9, 37, 8


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, H, generator=generator) for n in (T, V))
    return hidden.to(dtype), torch.randint(V, (T,), generator=generator), weight.to(dtype), torch.randn(V)


def by_sums(hidden, targets, weight, bias, form):
    z = form(hidden.double().numpy() @ weight.double().numpy().T + bias.double().numpy())
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    certainty = (np.log(1 / V) - np.log(p)).mean(1)  # KL(U || p)
    return {
        "token_entropy": -(p * np.log(p)).sum(1),
        "self_certainty": certainty,
        "seq_nll": -np.log(p[np.arange(T), targets.numpy()]),
    }


FORMS = {
    "plain": ({}, lambda z: z),
    "cohere": ({"logit_scale": 0.25}, lambda z: z * 0.25),
    "granite": ({"logits_scaling": 8.0}, lambda z: z / 8),
    "gemma": ({"final_logit_softcapping": 2.0}, lambda z: 2 * np.tanh(z / 2)),
}


@pytest.mark.parametrize("form", FORMS)
def test_statistics_equal_sums_in_float64(form):
    """A swapped row, or a family's logits taken unscaled, would select by another signal.

    Logits stay below 16, whose float32 neighbours lie 2**-20 apart, and each is a sum of H + 1 terms: at most as many
    roundings, in the token's own and in the normaliser's.
    """
    hidden, targets, weight, bias = inputs()
    keys, plain = FORMS[form]
    found = token_statistics(hidden, targets, weight, bias, logit_form(SimpleNamespace(**keys)), chunk=4)
    for name, row in zip(NAMES, found.double().numpy(), strict=True):
        wanted = by_sums(hidden, targets, weight, bias, plain)[name]
        assert np.abs(row - wanted).max() < 2 * (H + 1) * 2**-20, name
        assert np.ptp(wanted) > 0.1  # it compares something


def test_the_chunk_changes_nothing_but_rounding():
    hidden, targets, weight, bias = inputs()
    whole, cut = (token_statistics(hidden, targets, weight, bias, logit_form(SimpleNamespace()), n) for n in (T, 2))
    assert (whole - cut).abs().max() < 2 * (H + 1) * 2**-20
