"""A sampled response and its file form: parquet, one row each.

Response ids are what the server sampled; nothing re-tokenises them from text.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nopsd.errors import ArtefactError
from nopsd.files import write_atomic

FILE = "rollouts.parquet"  # of a folder of finished rollouts


@dataclass(frozen=True)
class Rollout:
    """One response to one question. `sample` counts a question's responses from 0."""

    uid: str
    sample: int
    prompt_ids: list[int]
    response_ids: list[int]  # the end-of-sequence id included where it was generated
    text: str
    finish_reason: str  # stop|length|abort; cut: a later training step goes on with it
    policy_version: int  # of the weights that sampled it
    seed: int | None = None
    logprobs: list[float] | None = None  # of response_ids, natural log, if asked for
    # Of a response in parts (nopsd.train.partial): the versions that sampled its first tokens, the rest's is above.
    earlier_versions: list[int] | None = None

    @property
    def token_versions(self) -> list[int]:
        """The policy version that sampled each token of the response."""
        earlier = self.earlier_versions or []
        return earlier + [self.policy_version] * (len(self.response_ids) - len(earlier))

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("response_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("policy_version", pa.int64(), nullable=False),
        pa.field("seed", pa.int64()),
        pa.field("logprobs", pa.list_(pa.float32())),
    ]
)


def write_rollouts(path: str | Path, rollouts: Sequence[Rollout], header: str | None = None) -> None:
    """Write the parquet file atomically. `header`: what the rollouts were made from, for `read_header`."""
    schema = SCHEMA if header is None else SCHEMA.with_metadata({"nopsd": header})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(r) for r in rollouts], schema=schema), buffer, compression="zstd")
    write_atomic(Path(path), buffer.getvalue())


def read_rollouts(path: str | Path) -> list[Rollout]:
    """The rollouts in file order; ArtefactError if the file is missing, damaged or of another form."""
    table = _open(Path(path), lambda p: pq.read_table(p))
    if not table.schema.equals(SCHEMA, check_metadata=False):
        raise ArtefactError(f"{path} doesn't have the columns of a rollout file: delete it and run the stage again")
    return [Rollout(**row) for row in table.to_pylist()]


def read_header(path: str | Path) -> str | None:
    """The header given to `write_rollouts`; ArtefactError as in `read_rollouts`."""
    metadata = _open(Path(path), lambda p: pq.read_schema(p)).metadata or {}
    return metadata[b"nopsd"].decode() if b"nopsd" in metadata else None


def _open(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing: run the stage that makes it") from error
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ArtefactError(f"{path} is damaged ({reason}): delete it and run the stage again") from error


def rollouts_hash(rollouts: Sequence[Rollout]) -> str:
    """SHA-256 of the tokens, in the order given: what a forward pass over these rollouts depends on."""
    digest = hashlib.sha256()
    for r in rollouts:
        digest.update(json.dumps([r.uid, r.sample, r.finish_reason, len(r.prompt_ids)]).encode())
        digest.update(np.array(r.prompt_ids + r.response_ids, dtype=np.int64).tobytes())
    return digest.hexdigest()
