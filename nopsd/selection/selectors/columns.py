"""Selectors whose score is a column: of the neurons artefact, of the responses, or of the signals stage."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.seeded import hash_uniform
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="low")
def neuron_count(pool: Pool, config: SelectConfig) -> np.ndarray:
    """How many neurons took part in the answer; the fewest kept: the paper's "neuron consensus" (Algorithm 1)."""
    return pool.counts.astype(np.float64)


@selector(keep="high")
def neuron_count_top(pool: Pool, config: SelectConfig) -> np.ndarray:
    """The paper's ablation: the most neurons kept."""
    return pool.counts.astype(np.float64)


@selector(keep="low", length_control=False, neurons=False)
def length(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Scored tokens of the answer, shortest kept: what the neuron count must beat if it is to be more than length."""
    return pool.lengths.astype(np.float64)


@selector(name="random", keep="low", length_control=False, neurons=False)
def random_draw(pool: Pool, config: SelectConfig) -> np.ndarray:
    """The control: in [0, 1), from seed and uid alone, so that a question's draw does not depend on the others."""
    return np.array([hash_uniform(config.seed, "select", uid) for uid in pool.uids])


@selector(name="all", keep="all", length_control=False, neurons=False)
def everything(pool: Pool, config: SelectConfig) -> np.ndarray:
    """No selection: every question that has a scored position."""
    return np.zeros(len(pool.uids))


@selector(keep="high", needs=("majority_conf",), neurons=False)
def majority_conf(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Share of the answers that agree with the majority answer."""
    return pool.column("majority_conf")


@selector(keep="low", needs=("token_entropy",), neurons=False)
def token_entropy(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Mean over the answer's tokens of −Σ_v p log p, nats."""
    return pool.column("token_entropy")


@selector(keep="high", needs=("self_certainty",), neurons=False)
def self_certainty(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Mean over the answer's tokens of KL(U‖p), nats."""
    return pool.column("self_certainty")


@selector(keep="low", needs=("seq_nll",), neurons=False)
def seq_nll(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Mean −log p of the answer's tokens, nats."""
    return pool.column("seq_nll")


@selector(keep="high", needs=("agreement",))
def nad_agreement(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Mean pairwise Jaccard similarity of the neuron sets of a question's answers (NAD, arXiv 2510.26277).

    NaN, and refused, for a question with one answer: it needs zero_shot.n of 2 or more.
    """
    return pool.column("agreement")


@selector(keep="high", needs=("nait",), neurons=False)
def nait(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Alignment of the activations with a target ability's direction (NAIT, arXiv 2603.13201), see signal.reference."""
    return pool.column("nait")


@selector(keep="high", needs=("belief_shift",), neurons=False)
def belief_shift(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Jensen–Shannon divergence between the answers without and with demonstrations (INFLOW)."""
    return pool.column("belief_shift")
