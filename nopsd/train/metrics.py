"""Numbers of a step that every algorithm logs: phases' times, sums over tokens, what the responses look like.

loss, loss_tokens             the step's loss, as weighted; how many tokens it has
logprob_gap, logprob_gap_high, logprob_gap_max
                              |served − trained| log-prob of the sampled tokens: mean, 99.9 % quantile, largest
response_length_mean|max, truncated_share
repeated_4grams               mean share of a response's 4-grams of token ids that occur in it more than once
hedging_share                 words of doubt (HEDGES) over all words of the responses
distinct_4grams               different 4-grams of the step's responses over all of them
grad_norm, lr, skipped_fraction, policy_version, time/PHASE
staleness                     versions between the weights that sampled and those that train: 0, or with
                              train.ahead 1 (time/rollout is then what the step had to wait for them)
memory/peak_gib, speed/mfu, speed/queue_s    see `nopsd.train.usage`
guard/KEY                     steps (probes) in a row beyond the limit guard.KEY (`nopsd.train.guards`)
probe/…                       after every train.probe_every-th step
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from nopsd.data.majority import majority
from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question
from nopsd.engine.distributed import Ranks
from nopsd.rollout.logprob_gap import Gap, GapHistogram
from nopsd.rollout.repetition import repetition
from nopsd.rollout.types import Rollout
from nopsd.train.batches import MicroBatch

# Chosen; after arXiv 2603.24472, which finds such words suppressed by self-distillation.
HEDGES = frozenset("wait hmm maybe perhaps possibly probably might actually alternatively unsure guess seems".split())
_WORD = re.compile(r"[^\W\d_]+")


@dataclass
class Clock:
    """Wall seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


class BatchLoss(NamedTuple):
    """A micro-batch's loss with its graph, the sampled tokens' log-probs `[N]` (None: unknown), sums over its tokens,
    named by the algorithm, and what the trace keeps of each `[N]`, by names of `traces.schema.TOKEN_VALUES`."""

    loss: Tensor
    logprob_N: Tensor | None
    sums: Tensor
    by_token: Mapping[str, Tensor] = {}


class StepSums:
    """Running sums of a step over micro-batches, then over ranks. `names`: of an algorithm's own sums over tokens."""

    def __init__(self, names: Sequence[str], device: torch.device | str) -> None:
        # gap: Σ |served − trained| log-prob over the `known` tokens; uncertain: Σ 1−p of them
        self.names = ("loss", "gap", "known", "uncertain", *names)
        self.sums = torch.zeros(len(self.names), dtype=torch.float64, device=device)
        self.max_gap = torch.zeros(1, dtype=torch.float64, device=device)
        self.gaps = GapHistogram(device)
        self.losses: list[tuple[Tensor, tuple[str, ...]]] = []  # of this rank: a micro-batch's loss and its uids

    def add(self, batch: MicroBatch, found: BatchLoss) -> None:
        """One micro-batch's."""
        loss = found.loss.detach()
        self.losses.append((loss, batch.student.names))
        self.sums[0] += loss
        self.sums[4:] += found.sums
        if found.logprob_N is not None:
            known = (batch.weights_N > 0) & ~batch.served_N.isnan()
            gap = (found.logprob_N - batch.served_N).abs().double()[known]
            self.sums[1] += gap.sum()
            self.sums[2] += gap.numel()
            self.sums[3] += (1 - found.logprob_N.double().exp())[known].sum()
            self.gaps.add(gap)
            if gap.numel():
                self.max_gap = torch.maximum(self.max_gap, gap.max()[None])

    def add_up(self, ranks: Ranks) -> None:
        """Over all ranks, each of which has added its micro-batches."""
        self.sums, self.max_gap = ranks.all_sum(self.sums), ranks.all_max(self.max_gap)
        self.gaps.counts = ranks.all_sum(self.gaps.counts)

    def gap(self) -> Gap:
        """Served against trained log-probs; all 0 where none was known."""
        known = self.sums[2].clamp(min=1)
        return Gap(float(self.sums[1] / known), self.gaps.high(), float(self.sums[3] / known))

    def not_finite(self) -> list[str]:
        """The uids of this rank's micro-batches whose loss is not finite."""
        return [uid for loss, uids in self.losses if not math.isfinite(float(loss)) for uid in uids]

    def by_name(self) -> dict[str, float]:
        """The sums over all tokens."""
        return dict(zip(self.names, self.sums.tolist(), strict=True))


def response_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Lengths, truncation, repetition and variety of a step's responses."""
    responses = [r.response_ids for r in rollouts]
    words = [word for r in rollouts for word in _WORD.findall(r.text.lower())]
    lengths, (repeated, distinct) = [len(ids) for ids in responses], repetition(responses)
    parts = {}
    if any(r.earlier_versions is not None for r in rollouts):  # rollout.partial
        parts = {"cut_share": fmean(r.finish_reason == "cut" for r in rollouts)}
        parts["continued"] = sum(bool(r.earlier_versions) for r in rollouts)
    return {
        **parts,
        "response_length_mean": fmean(lengths),
        "response_length_max": max(lengths),
        "truncated_share": fmean(r.finish_reason == "length" for r in rollouts),
        "repeated_4grams": repeated,
        "distinct_4grams": distinct,
        "hedging_share": sum(word in HEDGES for word in words) / max(1, len(words)),
    }


def probe_metrics(
    questions: Sequence[Question], samples: Sequence[Sequence[Rollout]], reader: AnswerReader
) -> dict[str, float]:
    """A policy's health without labels: means over questions, each with several samples.

    A falling distinct-answer rate with a majority share near 1 is a sign of collapse to one answer, a rising unparsed
    share one of broken formatting.
    """
    distinct = share = unparsed = length = 0.0
    for question, rollouts in zip(questions, samples, strict=True):
        answers = reader.answers(rollouts, question)
        parsed = [a for a in answers if a is not None]
        n = len(rollouts)
        distinct += len(set(parsed)) / n
        share += majority(answers)[1] / n
        unparsed += (n - len(parsed)) / n
        length += sum(len(r.response_ids) for r in rollouts) / n
    count = len(questions)
    return {
        "probe/distinct_answer_rate": distinct / count,
        "probe/majority_share": share / count,
        "probe/unparsed_share": unparsed / count,
        "probe/response_length": length / count,
    }
