"""Weights of a response's tokens by where they stand, times what `distill.aggregation` gives them.

    rising   w_t = 2 t/(T + 1), t = 1 … T: mean 1 over a response (arXiv 2605.21606 has weights that rise, since
             privileged teachers are the more reliable the later; this line is chosen)
    drift    w_t = exp(−max(0, D_t)/c), D_t = Σ_{s<t} log p(y_s) − log q(y_s): the teacher, who would not have come this
             far, counts less (arXiv 2606.22600 has weights that fall with the accumulated discrepancy; this form and
             c = distill.drift_scale are chosen). Not normalised: a response that drifts counts less than others

t and the sums run over the tokens that carry loss. p is the sampling server's, of temperature 1; q the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.errors import ServerError
from nopsd.signals.statistics import NAMES
from nopsd.train.batches import Example, MicroBatch
from nopsd.train.losses.token_head import statistics_of

NLL = NAMES.index("seq_nll")
LEAST = 1e-20  # no token's weight is 0, for those of weight 0 are padding


def rising(examples: Sequence[Example], batches: Sequence[MicroBatch], config: DistillConfig) -> list[Tensor]:
    """[N] of each micro-batch.

    Args:
        examples: The step's.
        batches: This rank's micro-batches.
        config: Which tokens carry loss.
    """
    first = config.skip_first_tokens
    spans = [len(range(len(e.response))[first : config.max_loss_tokens]) for e in examples]
    tokens_S = torch.tensor(spans, dtype=torch.float32)
    return [
        2 * (batch.position_N - first + 1) / (tokens_S.to(batch.weights_N.device)[batch.example_N] + 1)
        for batch in batches
    ]


def drifts(
    batches: Sequence[MicroBatch],
    hidden: Sequence[Tensor],
    head: Callable[[], AbstractContextManager[Tensor]],
    chunk: int | None,
) -> list[Tensor]:
    """log p(y) − log q(y), [1, N] of each micro-batch. Collective.

    Args:
        batches: This rank's micro-batches.
        hidden: The teacher's states [N, H] at their loss rows.
        head: The teacher's whole output weight while the block lasts.
        chunk: Rows whose logits are in memory at once.

    Raises:
        ServerError: The server gave no log-probs.
    """
    found = []
    with head() as weight_VH:
        for batch, hidden_NH in zip(batches, hidden, strict=True):
            if bool((batch.served_N.isnan() & (batch.weights_N > 0)).any()):
                raise ServerError(
                    "distill.position_weight=drift needs the log-probs of the sampled tokens, and the responses have "
                    "none: set distill.position_weight=null"
                )
            nll_N = statistics_of(hidden_NH, batch.targets_N, weight_VH.detach(), chunk)[NLL]
            found.append((batch.served_N + nll_N)[None])
    return found


def falling(drift_ST: Tensor, scale: float) -> Tensor:
    """exp(−max(0, Σ of the tokens before)/scale); NaN, of tokens without loss, adds nothing.

    Args:
        drift_ST: log p(y) − log q(y) in nats.
        scale: Nats at which a weight is 1/e.
    """
    step_ST = drift_ST.nan_to_num(0.0)
    before_ST = step_ST.cumsum(-1) - step_ST
    return (-before_ST.clamp(min=0) / scale).exp().clamp(min=LEAST)
