"""What the training log tells of a step (SPEC §9.5): sums over tokens, added over micro-batches and ranks.

loss                          the step's L, as aggregated (nats)
kl_reverse, kl_forward        per-token means, both directions, student and target (nats)
kl_base                       KL to the frozen base (distill.kl_base_coef); 0 where it isn't computed
clip_frac, neg_frac, mask_frac    shares of the tokens: capped, of a negative loss (F7), masked for entropy
is_ratio                      mean importance ratio as capped (distill.is_clip); 0 where it isn't computed
entropy_student, entropy_teacher, entropy_gap    next-token entropies on the student's y; teacher − student
top16_overlap, top16_student_mass, top16_teacher_mass    share of common top-16 ids, and their mass
logprob_gap, logprob_gap_max  |served − trained| log-prob of the sampled tokens (mean, max)
style_token_share             of the reverse KL, how much sits on style tokens (train.style_words; F1)
response_length_mean|max, truncated_share, loss_tokens
repeated_4grams               mean share of a response's 4-grams of token ids that occur in it more than once (F8)
distinct_4grams               different 4-grams of the step's responses over all of them (F3)
demos_kept_mean, demos_offered_mean, teacher_prompt_length
grad_norm, lr, skipped_fraction, ema_distance (‖θ − θ̄‖), policy_version, time/rollout|teacher|student|sync
staleness                     versions between the weights that sampled and those that train: 0, or with
                              train.ahead 1 (time/rollout is then what the step had to wait for them)
context/fills|hits|mib        the teacher's prompts: computed, found computed already, MiB held by the fullest rank;
                              of this start alone, so not the same after a resume
guard/KEY                     steps (probes) in a row beyond the limit guard.KEY (`nopsd.train.guards`)
probe/…                       after every train.probe_every-th step (`nopsd.train.probe`)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nopsd.engine.distributed import Ranks
from nopsd.engine.student import lr_at
from nopsd.rollout.types import Rollout
from nopsd.train.algorithms.distill_state import Distillation
from nopsd.train.batches import MicroBatch
from nopsd.train.context_states import context_metrics
from nopsd.train.losses.fused_linear import FusedResult, mean_statistics
from nopsd.train.losses.tile import STATISTICS
from nopsd.train.metrics import Clock, mean, response_metrics

NAMES = {  # ours, of the fused loss's statistics
    "kl_reverse": "reverse_kl",
    "kl_forward": "forward_kl",
    "entropy_student": "student_entropy",
    "entropy_teacher": "teacher_entropy",
    "entropy_gap": "entropy_gap",
    "top16_overlap": "top16_overlap",
    "top16_student_mass": "top16_student_mass",
    "top16_teacher_mass": "top16_teacher_mass",
    "kl_base": "base_kl",
    "clip_frac": "clip_frac",
    "neg_frac": "neg_frac",
    "mask_frac": "mask_frac",
    "is_ratio": "is_ratio",
}


class StepSums:
    """Running sums of a step: loss, token statistics, and the gap between served and trained log-probs."""

    def __init__(self, device: torch.device | str, style_ids: Sequence[int] = ()) -> None:
        # loss, Σ|gap|, tokens with a known gap, Σ reverse KL on style tokens, then the fused loss's statistics
        self.sums = torch.zeros(4 + len(STATISTICS), dtype=torch.float64, device=device)
        self.style_ids = torch.tensor(style_ids, dtype=torch.long, device=device)
        self.max = torch.zeros(1, dtype=torch.float64, device=device)
        self.losses: list[tuple[torch.Tensor, tuple[str, ...]]] = []  # of this rank: a micro-batch's loss and its uids

    def add(self, batch: MicroBatch, result: FusedResult) -> None:
        assert result.sums is not None and result.student_logprob_N is not None and result.reverse_kl_N is not None
        self.sums[0] += result.loss.detach()
        self.losses.append((result.loss.detach(), batch.student.names))
        self.sums[4:] += result.sums
        known = (batch.weights_N > 0) & ~batch.served_N.isnan()
        gap = (result.student_logprob_N - batch.served_N).abs().double()[known]
        self.sums[1] += gap.sum()
        self.sums[2] += gap.numel()
        style = (batch.weights_N > 0) & torch.isin(batch.targets_N, self.style_ids)
        self.sums[3] += result.reverse_kl_N[style].double().sum()
        if gap.numel():
            self.max = torch.maximum(self.max, gap.max()[None])

    def over_ranks(self, ranks: Ranks) -> StepSums:
        whole = StepSums(self.sums.device, self.style_ids.tolist())
        whole.sums, whole.max = ranks.all_sum(self.sums), ranks.all_max(self.max)
        whole.losses = self.losses
        return whole

    @property
    def loss(self) -> float:
        return float(self.sums[0])

    def not_finite(self) -> list[str]:
        """The uids of this rank's micro-batches whose loss is not finite."""
        return [uid for loss, uids in self.losses if not math.isfinite(float(loss)) for uid in uids]

    @property
    def gap_max(self) -> float:
        return float(self.max)

    def values(self) -> dict[str, float]:
        loss, gap, known, style = self.sums[:4].tolist()
        means = mean_statistics(self.sums[4:])
        named = {ours: means[theirs] for ours, theirs in NAMES.items()}
        gaps = {"logprob_gap": gap / known, "logprob_gap_max": self.gap_max} if known else {}
        whole_kl = means["reverse_kl"] * means["tokens"]
        styles = {"style_token_share": style / whole_kl} if self.style_ids.numel() and whole_kl > 0 else {}
        return {"loss": loss, "loss_tokens": means["tokens"], **named, **gaps, **styles}


def step_metrics(
    d: Distillation,
    step: int,
    skipped: int,
    taken: bool,
    sums: StepSums,
    rollouts: Sequence[Rollout],
    uids: Sequence[str],
    clock: Clock,
) -> dict[str, float]:
    """The row of a step, equal on all ranks but for the times. Collective."""
    prompts = [d.teacher_prompts[uid] for uid in uids]
    distance = d.teaching.squared_distance(d.ranks.rank)
    total = d.ranks.all_sum(torch.tensor([distance], dtype=torch.float64))
    return {
        **sums.values(),
        **response_metrics(rollouts),
        "demos_kept_mean": mean([p.kept for p in prompts]),
        "demos_offered_mean": mean([p.offered for p in prompts]),
        "teacher_prompt_length": mean([len(p.ids) for p in prompts]),
        "grad_norm": float(d.student.get_global_grad_norm()) if taken else math.nan,
        "lr": lr_at(step, d.config.train),
        "skipped_fraction": skipped / (step + 1),
        "ema_distance": math.sqrt(float(total)),
        "policy_version": step,
        "staleness": step - rollouts[0].policy_version,
        **context_metrics(d.teaching.readers, d.ranks),
        **clock.values(),
    }
