"""Names of what training leaves in its stage's folder, and what its record says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PLAN = "plan.json"  # how many questions and steps it was to be, before it began
EXPORT = "export"  # the trained model, a Hugging Face folder
EXPORTS = "exports"  # of the run: kept checkpoints of other steps (`nopsd export`), a folder each
RECORD = "nopsd_export.json"  # in EXPORT: which weights these are, and why training stopped
LABELS_SHOWN = "labels_shown"  # in RECORD, of `nopsd export`: whether judged figures were there when it was chosen
CARD = "README.md"  # in EXPORT: its model card, rewritten when there are results
GAIN = "gain.json"  # how far the teacher's demonstrations move the base model, before the first step
METRICS = "metrics.jsonl"  # the training log, a row a step
TENSORBOARD = "tb"


def stop_note(record: Mapping[str, Any], steps: int) -> str:
    """If a guard ended the training of so many steps: when, why, and which weights are the result. Else nothing.

    `record`: RECORD's content, empty if there is no export.
    """
    stopped = record.get("stopped")
    if not stopped:
        return ""
    return (
        f"Training was stopped after {stopped['step']} of {steps} steps: {stopped['reason']}. "
        f"The model is the checkpoint of step {record['steps']}, from before."
    )


def choice_note(record: Mapping[str, Any], labels_shown: bool) -> str:
    """That the exported step was chosen by hand while labels were shown, so perhaps by them. Else nothing.

    Args:
        record: RECORD's content.
        labels_shown: Whether the training log has judged figures (`eval.every`).
    """
    if not str(record.get("chosen", "")).isdecimal() or not record.get(LABELS_SHOWN, labels_shown):
        return ""
    return (
        f"Step {record['steps']} was chosen by hand (train.export, nopsd export) while judged test questions were "
        "shown (eval.every, or the report): it was possibly chosen by labels, and its results on these are no fair "
        "test."
    )


def shows_labels(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any row of the training log has figures that were judged with labels."""
    return any(name.startswith("eval/") and name.endswith("/avg") for row in rows for name in row)
