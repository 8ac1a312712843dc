"""Reads a trace, also while it is being written. In: its folder. Out: steps, tables, responses, prompts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nopsd.errors import ArtefactError
from nopsd.rollout.types import Rollout
from nopsd.traces.schema import PROMPT_SCHEMA, PROMPTS, STEP_SCHEMA, Prompts, step_path, traced_steps


@dataclass(frozen=True)
class Trace:
    """The trace in `folder`; no steps if there is none."""

    folder: Path

    @property
    def steps(self) -> list[int]:
        """Those that are there now, ascending."""
        return traced_steps(self.folder)

    def table(self, step: int, columns: list[str] | None = None) -> pa.Table:
        """A step's responses, a row each. ArtefactError if the step is missing or damaged."""
        return _read(step_path(self.folder, step), STEP_SCHEMA, columns)

    def rollouts(self, step: int) -> list[Rollout]:
        """A step's responses as they were sampled, in order, their prompts included."""
        names = [*STEP_SCHEMA.names[:7], "served_logprob"]
        rows = self.table(step, names).to_pylist()
        for row in rows:
            row["logprobs"] = row.pop("served_logprob")
        return [Rollout(prompt_ids=self.prompts[row["uid"]].student_ids, **row) for row in rows]

    @cached_property
    def prompts(self) -> dict[str, Prompts]:
        """What both roles read, by uid. ArtefactError if the file is missing or damaged."""
        table = _read(self.folder / PROMPTS, PROMPT_SCHEMA, None)
        return {
            row["uid"]: Prompts(row["student_ids"], row["teacher_ids"], tuple(row["demonstrations"] or ()))
            for row in table.to_pylist()
        }


def _read(path: Path, schema: pa.Schema, columns: list[str] | None) -> pa.Table:
    try:
        table = pq.read_table(path, columns=columns)
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing: train.trace keeps what a training run says") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtefactError(f"{path} is damaged ({str(error).splitlines()[0]}): delete it") from error
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    if not table.schema.equals(wanted, check_metadata=False):
        raise ArtefactError(f"{path} doesn't have the columns of a trace: it is another version's, delete it")
    return table
