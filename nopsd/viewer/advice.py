"""What a run's reader should do something about: what was seen, why it matters, which key helps; most urgent first.

In: a run's status, its training log and evaluations. Out: a few sentences each. Guards are those of
`nopsd.train.guards`; nothing here stops a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nopsd.run.status import FAILED, INTERRUPTED, KILLED, RunStatus

URGENT, WARNING, NOTE = "urgent", "warning", "note"
RECENT = 20  # steps that a mean is over
Rows = Sequence[Mapping[str, Any]]

# A guard's key: why passing it matters, and what to change.
WHY = {
    "min_length_ratio": (
        "Responses shrink: the student stops reasoning.",
        "a smaller train.lr, or distill.aggregation=seq_mean_token_mean",
    ),
    "max_length_ratio": ("Responses run away.", "a smaller train.lr, or a smaller train.max_response"),
    "min_entropy": (
        "The student is certain of everything: it collapses.",
        "a smaller train.lr, fewer train.steps, or distill.kl_base_coef",
    ),
    "max_entropy_ratio": ("The student's distribution falls apart.", "a smaller train.lr, or distill.kl_base_coef"),
    "max_repeated": ("Responses loop.", "a smaller train.lr, or distill.token_clip"),
    "max_unparsed": ("Answers lose their form.", "look at the rollouts; prompt.*, or a smaller train.lr"),
    "max_kl_ratio": ("The student moves away from its teacher.", "a smaller train.lr, or teacher.kind=ema"),
    "max_kl_base": ("The student has left the base model.", "a larger distill.kl_base_coef, or fewer train.steps"),
}


@dataclass(frozen=True)
class Advice:
    """One point. `level`: urgent, warning or note."""

    level: str
    seen: str
    why: str
    remedy: str = ""


def advice(status: RunStatus, rows: Rows, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Advice]:
    """All points of a run, most urgent first. `before`, `after`: metrics by domain, empty without labels."""
    found = [*_state(status), *_guards(rows), *_health(rows), *_speed(rows), *_evaluation(before, after)]
    return sorted(found, key=lambda point: (URGENT, WARNING, NOTE).index(point.level))


def _state(status: RunStatus) -> Iterator[Advice]:
    if status.state in (FAILED, KILLED) and status.error:
        yield Advice(URGENT, f"Stage {status.error_stage}: {status.error}", "The run stands still.", _again(status))
    elif status.state == INTERRUPTED:
        yield Advice(WARNING, "The run was interrupted.", "What is done is kept.", _again(status))
    if status.note:
        yield Advice(URGENT, status.note, "A guard saw signs of collapse.", "guard.stop=false only warns")


def _again(status: RunStatus) -> str:
    return f"nopsd run --config {status.run_dir}/config.yaml"


def _guards(rows: Rows) -> Iterator[Advice]:
    for key, (why, remedy) in WHY.items():
        counts = [(row["step"], row[f"guard/{key}"]) for row in rows if row.get(f"guard/{key}") is not None]
        passed = [step for step, count in counts if count]
        if passed:
            now = counts[-1][1] > 0
            times = f"guard.{key} was passed in {len(passed)} steps, first at step {passed[0]}"
            yield Advice(URGENT if now else WARNING, f"{times}{', and is now' if now else ''}.", why, remedy)


def _health(rows: Rows) -> Iterator[Advice]:
    lost = [row["step"] for row in rows if "loss" in row and row["loss"] is None]
    if lost:
        yield Advice(
            URGENT,
            f"The loss was no finite number in {len(lost)} steps, last at step {lost[-1]}.",
            "These steps are skipped.",
            "a smaller train.lr; model.dtype=float32 to find out",
        )
    cut, gap = _mean(rows, "truncated_share"), _mean(rows[:RECENT], "entropy_gap")
    if cut is not None and cut > 0.2:
        yield Advice(
            WARNING,
            f"{cut:.0%} of the last steps' responses were cut at the limit.",
            "A cut response has no answer, and its end is not learnt.",
            "a larger train.max_response",
        )
    if gap is not None and gap >= 0:
        yield Advice(
            NOTE,
            f"With demonstrations the teacher was not more certain than the student (ΔH {gap:+.3g} nats).",
            "There was little to learn from the context.",
            "context.m, context.retriever, or a larger pool",
        )
    kept, offered = _mean(rows, "demos_kept_mean"), _mean(rows, "demos_offered_mean")
    if kept is not None and offered is not None and kept < offered - 0.5:
        yield Advice(
            NOTE,
            f"The teacher saw {kept:.1f} of {offered:.1f} demonstrations.",
            "The others did not fit into its prompt.",
            "a larger context.max_prompt",
        )
    unread = _last(rows, "probe/unparsed_share")
    if unread is not None and unread > 0.2:
        yield Advice(
            WARNING,
            f"{unread:.0%} of the last probe's answers can't be read.",
            "They count as wrong, and vote for nothing.",
            "look at the rollouts; eval.extract, prompt.*",
        )


def _speed(rows: Rows) -> Iterator[Advice]:
    parts = {name: _mean(rows, f"time/{name}") or 0.0 for name in ("rollout", "teacher", "student", "sync")}
    whole = sum(parts.values())
    if whole and parts["rollout"] > 0.6 * whole:
        yield Advice(
            NOTE,
            f"Training waits for rollouts {parts['rollout'] / whole:.0%} of the time.",
            "The ranks stand idle meanwhile.",
            "train.ahead=1 samples the next step meanwhile; more rollout servers",
        )
    if whole and parts["sync"] > 0.3 * whole:
        yield Advice(
            NOTE,
            f"Sending weights takes {parts['sync'] / whole:.0%} of a step.",
            "Nothing is trained meanwhile.",
            "train.lora.r, or a server on the same host",
        )


def _evaluation(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Advice]:
    for domain in after:
        if domain not in before:
            continue
        was, now = before[domain]["metrics"], after[domain]["metrics"]
        high = (after[domain]["intervals"].get("avg") or [None, None])[1]
        if high is not None and high < was["avg"]:
            yield Advice(
                WARNING,
                f"{domain}: accuracy fell from {was['avg']:.1%} to {now['avg']:.1%}.",
                "What was learnt is wrong there, or something was forgotten.",
                "fewer train.steps, or distill.kl_base_coef",
            )
        if now["ece"] > was["ece"] + 0.05:
            yield Advice(
                NOTE,
                f"{domain}: calibration got worse (ECE {was['ece']:.3f} to {now['ece']:.3f}).",
                "The model agrees with itself more than it is right.",
                "don't read vote shares as probabilities",
            )
        if now["unparsed"] > was["unparsed"] + 0.02:
            yield Advice(
                NOTE,
                f"{domain}: unreadable answers rose from {was['unparsed']:.1%} to {now['unparsed']:.1%}.",
                "Part of the change may be form, not knowledge.",
            )


def _mean(rows: Rows, name: str) -> float | None:
    values = [row[name] for row in rows[-RECENT:] if row.get(name) is not None]
    return fmean(values) if values else None


def _last(rows: Rows, name: str) -> float | None:
    value = next((row[name] for row in reversed(rows) if row.get(name) is not None), None)
    return None if value is None else float(value)
