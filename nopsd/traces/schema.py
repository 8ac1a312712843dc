"""The files of a trace.

    RUN/train/trace/prompts.parquet        what both roles read, a selected question a row; written once
    RUN/train/trace/step-00000012.parquet  a training step, a response a row; a file is written whole, and never changed

Lists of a response run over its tokens. Numbers by token are float32, in nats, NaN where they were not computed: a
position without loss, or an objective that doesn't need them. No label is in any file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from nopsd.rollout.types import Rollout

FOLDER = "trace"  # of the train stage
PROMPTS = "prompts.parquet"
COUNTED = "counted"  # whether the token carries loss
# Of the sampled token: log p and log q; KL(p ‖ q) of the distributions over the vocabulary, and their entropies.
TOKEN_VALUES = ("student_logprob", "teacher_logprob", "reverse_kl", "student_entropy", "teacher_entropy")
_NAME = re.compile(r"step-(\d{8})\.parquet")

STEP_SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("response_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("policy_version", pa.int64(), nullable=False),
        pa.field("seed", pa.int64()),
        pa.field("served_logprob", pa.list_(pa.float32())),
        *(pa.field(name, pa.list_(pa.float32())) for name in TOKEN_VALUES),
        pa.field(COUNTED, pa.list_(pa.bool_())),
    ]
)
PROMPT_SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("student_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("teacher_ids", pa.list_(pa.int32())),
        pa.field("demonstrations", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class Prompts:
    """What both roles read for one question. `demonstrations`: uids shown to the teacher, nearest first."""

    student_ids: list[int]
    teacher_ids: list[int] | None = None  # None: there is no teacher
    demonstrations: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepTrace:
    """One step: its responses, and by name of TOKEN_VALUES and COUNTED the values of all their tokens, end to end."""

    step: int
    rollouts: Sequence[Rollout]
    values: Mapping[str, np.ndarray]


def step_path(folder: Path, step: int) -> Path:
    """The step's file."""
    return folder / f"step-{step:08d}.parquet"


def traced_steps(folder: Path) -> list[int]:
    """Steps that a folder holds, ascending; none if it is not there."""
    if not folder.is_dir():
        return []
    return sorted(int(found[1]) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name)))


def step_table(trace: StepTrace) -> pa.Table:
    """The step as a table of STEP_SCHEMA."""
    rollouts = trace.rollouts
    ids = [np.asarray(r.response_ids, dtype=np.int32) for r in rollouts]
    offsets = pa.array(np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int32))

    def by_response(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    served = None
    if all(r.logprobs is not None for r in rollouts):
        served = by_response(np.concatenate([np.asarray(r.logprobs, dtype=np.float32) for r in rollouts]))
    columns = {
        "uid": [r.uid for r in rollouts],
        "sample": [r.sample for r in rollouts],
        "response_ids": by_response(np.concatenate(ids)),
        "text": [r.text for r in rollouts],
        "finish_reason": [r.finish_reason for r in rollouts],
        "policy_version": [r.policy_version for r in rollouts],
        "seed": [r.seed for r in rollouts],
        "served_logprob": served,
        **{name: by_response(values) for name, values in trace.values.items()},
    }
    arrays = []
    for field in STEP_SCHEMA:
        column = columns.get(field.name)
        if column is None:
            arrays.append(pa.nulls(len(rollouts), field.type))
        else:
            arrays.append(column if isinstance(column, pa.Array) else pa.array(column, field.type))
    return pa.Table.from_arrays(arrays, schema=STEP_SCHEMA)
