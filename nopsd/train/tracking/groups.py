"""What a metric is called where people look at it: groups in the order of the questions that they answer. Pure.

In: a row of the training log. Out: its numbers by `group/name`, without those that say nothing: the version that equals
the step, internals, and what is 0 because the configuration has it off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ORDER = ("progress", "loss", "teacher_student", "length", "health", "speed", "eval")
NAMES = {
    "loss": ("loss", "rl_loss", "kl"),
    "teacher_student": (
        *("reverse_kl", "forward_kl", "student_entropy", "teacher_entropy", "entropy_gap", "top16_overlap"),
        *("top16_student_mass", "top16_teacher_mass", "style_token_share", "demos_kept_mean", "demos_offered_mean"),
        *("teacher_prompt_length", "ema_distance", "base_kl", "reward_mean", "reward_std", "majority_share"),
        *("unparsed_share", "ratio", "zero_advantage_share"),
    ),
    "length": (
        *("response_length_mean", "response_length_max", "truncated_share", "target_length_mean", "target_length_max"),
        *("loss_tokens",),
    ),
    "health": (
        *("grad_norm", "repeated_4grams", "distinct_4grams", "hedging_share", "high_entropy_share"),
        *("logprob_gap", "logprob_gap_high", "logprob_gap_max"),
        *("staleness", "skipped_fraction", "nonfinite", "clip_frac", "neg_frac", "mask_frac", "is_ratio"),
    ),
    "progress": ("lr",),
}
GROUP = {name: group for group, names in NAMES.items() for name in names}
PREFIXES = {"time/": "speed/", "memory/": "speed/", "speed/": "speed/", "probe/": "eval/probe_", "eval/": "eval/"}
UNTOLD = ("policy_version", "context/")
# 0 where the configuration has it off, or nothing went wrong: shown from the first other value on.
SILENT_AT_ZERO = frozenset(
    [
        *("base_kl", "clip_frac", "ema_distance", "is_ratio", "mask_frac", "neg_frac", "nonfinite", "skipped_fraction"),
        *("staleness", "style_token_share", "truncated_share"),
    ]
)
SILENT_ENDINGS = (
    "/unparsed",
    "/truncated",
    "/unread",
    "/unfinished",
    "/unparsed_share",
)  # of evaluations and the probe
DEMOS = ("demos_kept_mean", "demos_offered_mean")  # say something where they differ


def shown_as(name: str) -> str | None:
    """The metric's tag; None for what isn't shown."""
    if name.startswith(UNTOLD):
        return None
    for prefix, shown in PREFIXES.items():
        if name.startswith(prefix):
            return shown + name.removeprefix(prefix)
    if name.startswith("guard/"):
        return f"health/guard_{name.removeprefix('guard/')}"
    return f"{GROUP.get(name, 'health')}/{name}"


class Shown:
    """Tags of rows, one after the other; what is silent at 0 appears with its first other value."""

    def __init__(self) -> None:
        self.awake: set[str] = set()

    def __call__(self, row: Mapping[str, float | None]) -> dict[str, float]:
        """The row's numbers by tag."""
        found = {}
        for name, value in row.items():
            tag = shown_as(name)
            if name == "step" or value is None or tag is None:
                continue
            silent = name in SILENT_AT_ZERO or name.startswith("guard/") or name.endswith(SILENT_ENDINGS)
            if name in DEMOS and name not in self.awake and row.get(DEMOS[0]) == row.get(DEMOS[1]):
                continue
            if value or not silent or name in self.awake:
                found[tag] = float(value)
                self.awake.add(name)
        return found | speed(row)


def speed(row: Mapping[str, float | None]) -> dict[str, float]:
    """Response tokens trained on a second of the step, and the share of it spent waiting for rollouts."""
    seconds = {name: value for name, value in row.items() if name.startswith("time/") and value is not None}
    total, tokens = sum(seconds.values()), row.get("loss_tokens")
    if not total or tokens is None:
        return {}
    return {"speed/tokens_per_second": tokens / total, "speed/rollout_share": seconds.get("time/rollout", 0.0) / total}


def layout() -> dict[str, dict[str, list[Any]]]:
    """TensorBoard's custom scalars: what is looked at first, curves that belong together in one chart."""
    both = "Multiline"
    return {
        "progress": {"loss": [both, ["loss/loss"]], "rate": [both, ["progress/lr"]]},
        "teacher_student": {
            "divergences": [both, ["teacher_student/reverse_kl", "teacher_student/forward_kl"]],
            "entropies": [both, ["teacher_student/student_entropy", "teacher_student/teacher_entropy"]],
        },
        "length": {"responses": [both, ["length/response_length_mean", "length/response_length_max"]]},
        "health": {
            "gradient": [both, ["health/grad_norm"]],
            "served against trained": [both, ["health/logprob_gap", "health/logprob_gap_high"]],
            "repetition": [both, ["health/repeated_4grams", "health/distinct_4grams"]],
        },
        "speed": {
            "seconds by phase": [both, ["speed/rollout", "speed/teacher", "speed/student", "speed/sync"]],
            "GiB at most": [both, ["speed/peak_gib"]],
        },
        "eval": {
            "without labels": [
                both,
                ["eval/held_out/vote_share", "eval/held_out/base_vote", "eval/probe_majority_share"],
            ],
            "judged": [both, ["eval/.*/avg"]],
        },
    }
