"""Selectors whose score is a column: of the neurons artefact, of the responses, or of the signals stage."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.seeded import hash_uniform
from nopsd.selection.selectors.base import Pool, Selector, selector


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


def of_column(column: str, keep: str, name: str | None = None, neurons: bool = False) -> Selector:
    """A selector whose score is a column of the signals stage, or of the neurons stage."""
    made = selector(keep=keep, needs=(column,), name=name or column, neurons=neurons)
    return made(lambda pool, config: pool.column(column))


# Share of the answers that agree with the majority answer.
majority_conf = of_column("majority_conf", keep="high")
# Mean over the answer's tokens of −Σ_v p log p, nats.
token_entropy = of_column("token_entropy", keep="low")
# Mean over the answer's tokens of KL(U‖p), nats.
self_certainty = of_column("self_certainty", keep="high")
# Mean −log p of the answer's tokens, nats.
seq_nll = of_column("seq_nll", keep="low")
# Mean pairwise Jaccard similarity of the neuron sets of a question's answers (NAD, arXiv 2510.26277). NaN, and refused,
# for a question with one answer: it needs zero_shot.n of 2 or more.
nad_agreement = of_column("agreement", keep="high", name="nad_agreement", neurons=True)
# Alignment of the activations with a target ability's direction (NAIT, arXiv 2603.13201), see signal.reference.
nait = of_column("nait", keep="high")
# Jensen–Shannon divergence between the answers without and with demonstrations (INFLOW).
belief_shift = of_column("belief_shift", keep="high")
# Mean over the stored answer's tokens of KL(p‖q) to the model with demonstrations, nats.
teacher_shift = of_column("teacher_shift", keep="high")
# How far the hidden states go from an answer's first token to its last (SHIFT, arXiv 2605.28631).
representation_shift = of_column("representation_shift", keep="high")


@selector(keep="high", needs=("majority_conf",), neurons=False)
def learnability(pool: Pool, config: SelectConfig) -> np.ndarray:
    """p(1 − p) of the vote's share p: questions that the model answers neither always nor never alike.

    After arXiv 2408.15099, whose p is the success rate; the share of the majority stands in for it, without labels.
    """
    share = pool.column("majority_conf")
    result: np.ndarray = share * (1 - share)
    return result
