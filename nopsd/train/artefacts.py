"""Names of what training leaves in its stage's folder, and what its record says in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLAN = "plan.json"  # how many questions and steps it was to be, before it began
EXPORT = "export"  # the trained model, a Hugging Face folder
RECORD = "nopsd_export.json"  # in EXPORT: which weights these are, and why training stopped
CARD = "README.md"  # in EXPORT: its model card, rewritten when there are results
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
