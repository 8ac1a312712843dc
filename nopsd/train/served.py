"""Proof that the server samples from the very weights we train (SPEC §6, failure mode F16).

Each rollout carries the server's log-probs; the training forward gives the trainer's own for the same
tokens, so every step compares all of them at no cost, before the weights move. What that can't cover (the
sync after the last step; a distillation temperature other than 1; responses sampled ahead, by other weights than those
that train) is probed with one short response.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nopsd.config import Config
from nopsd.engine.broadcast import broadcast_from_rank0
from nopsd.errors import StaleWeightsError
from nopsd.rollout.types import Rollout
from nopsd.train.export import probe_logits
from nopsd.train.state import TrainingRun

PROBE_TOKENS = 8


def due(config: Config, version: int) -> bool:
    """Whether the sync of this version is to be verified."""
    every = config.train.sync_check_every
    return every > 0 and (version % every == 0 or version == config.train.steps)


def covered(config: Config, version: int) -> bool:
    """Whether a step trains on responses that the weights of this version sampled, at a temperature of 1."""
    sampled_ahead = config.train.ahead > 0 and version > 0
    return config.distill.temperature == 1.0 and version < config.train.steps and not sampled_ahead


def check_gap(config: Config, gap: float, version: int) -> None:
    """StaleWeightsError if `gap`, the largest between served and trained log-probs of this step's responses, is above
    the tolerance."""
    if not covered(config, version) or not due(config, version) or gap <= config.train.sync_tolerance:
        return
    raise StaleWeightsError(
        f"step {version}: served and trained log-probs differ by up to {gap:.3g} (train.sync_tolerance="
        f"{config.train.sync_tolerance:g}): the server doesn't hold the trainer's weights, or has another dtype "
        "(server.dtype, model.dtype)"
    )


def check_held(d: TrainingRun, held: Sequence[Rollout], version: int) -> None:
    """After a resume with responses sampled ahead: compare on one of them, for no step's gap covers this sync."""
    if held:
        check_probe(d, held[0], version)


def check_probe(d: TrainingRun, rollout: Rollout, version: int) -> None:
    """Compare served and trained log-probs of one short response, where the next step's can't. Collective."""
    response = rollout.response_ids[:PROBE_TOKENS]
    if covered(d.config, version) or not due(d.config, version) or not response:
        return
    from nopsd.rollout.served_weights import verify_served

    logits_TV = probe_logits(d.student.module.lm, rollout.prompt_ids + response)
    rows_TV = logits_TV[len(rollout.prompt_ids) - 1 : -1].log_softmax(-1)
    own = rows_TV.gather(1, torch.tensor(response)[:, None])[:, 0].tolist()
    gap = broadcast_from_rank0(
        d.ranks,
        lambda: verify_served(d.client, [rollout.prompt_ids], [response], [own], d.config.train.sync_tolerance),
    )
    assert math.isfinite(gap)
