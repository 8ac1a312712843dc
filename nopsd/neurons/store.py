"""The neuron artefact: `neurons.rank{r:05d}.npz`, one file a rank.

| array | type | what |
|---|---|---|
| uid | str [N] | questions, in ascending order |
| counts | float32 [N] | neuron count, a mean if a question has several rollouts |
| ids | int32 [N, K] | N_K by (-score, id), padded with -1 |
| scores | float16 [N, K] | their scores, padded with 0 |
| lengths | int32 [N] | scored response positions, rounded mean over rollouts |
| truncated | bool [N] | some rollout met the length limit |
| histogram | int32 [N, L] | members of N_K in each layer |
| agreement | float32 [N] | mean pairwise Jaccard similarity of the rollouts' N_K before merging; NaN with one rollout |
| header | uint8 | JSON: model hash, rollouts hash, mode, sizes, alignment, value; equal in all files of a folder |
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.errors import ArtefactError
from nopsd.files import write_atomic

_ARRAYS = ("uid", "counts", "ids", "scores", "lengths", "truncated", "histogram", "agreement")
_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class NeuronSets:
    """Neuron counts and sets of N questions; arrays as in the module's table."""

    uids: list[str]
    counts: np.ndarray
    ids: np.ndarray
    scores: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray
    histogram: np.ndarray
    header: dict[str, Any]
    agreement: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # left out: NaN for all

    def __post_init__(self) -> None:
        if not len(self.agreement):
            object.__setattr__(self, "agreement", np.full(len(self.uids), np.nan, np.float32))

    def rows(self, rows: slice) -> NeuronSets:
        """The questions at these places."""
        taken = {name: getattr(self, name)[rows] for name in ("uids", *_ARRAYS[1:])}
        return NeuronSets(header=self.header, **taken)


def pack_ids(rows: Sequence[np.ndarray], width: int = 0) -> np.ndarray:
    """Rows of neuron ids as one array.

    Args:
        rows: Ids of each question.
        width: Columns at least.

    Returns:
        int32 [N, K], padded with -1; K is the longest row's length, or `width`.
    """
    return _pack(rows, max([width, *map(len, rows)]), np.int32, -1)


def pack_scores(rows: Sequence[np.ndarray], width: int = 0) -> np.ndarray:
    """Rows of scores as float16 [N, K], padded with 0; beyond float16's range they stop at its end."""
    clipped = [np.clip(row, -_FLOAT16_MAX, _FLOAT16_MAX) for row in rows]
    return _pack(clipped, max([width, *map(len, rows)]), np.float16, 0)


def rank_file(folder: Path, rank: int) -> Path:
    """The file that a rank writes."""
    return folder / f"neurons.rank{rank:05d}.npz"


def write_neurons(path: Path, neurons: NeuronSets) -> None:
    """Write one rank's file, atomically."""
    write_arrays(
        path,
        neurons.header,
        {
            "uid": np.array(neurons.uids, dtype=np.str_),
            "counts": neurons.counts,
            "ids": neurons.ids,
            "scores": neurons.scores,
            "lengths": neurons.lengths,
            "truncated": neurons.truncated,
            "histogram": neurons.histogram,
            "agreement": neurons.agreement,
        },
    )


def rank_files(folder: Path) -> list[Path]:
    """All ranks' files of a folder; ArtefactError if there is none."""
    paths = sorted(folder.glob("neurons.rank*.npz"))
    if not paths:
        raise ArtefactError(f"{folder} has no neurons.rank*.npz: run the neurons stage first")
    return paths


def read_neurons(path: Path, files: int | None = None) -> NeuronSets:
    """Read one rank's file.

    Args:
        path: The file.
        files: How many there should be; None: any number.

    Raises:
        ArtefactError: It is missing or damaged, or not one of `files`.
    """
    header, a = read_arrays(path)
    missing = sorted(set(_ARRAYS) - set(a))
    if missing:
        raise ArtefactError(
            f"{path} has no {', '.join(missing)} (another version wrote it): delete it and run the neurons stage again"
        )
    if files is not None and header.get("ranks", files) != files:
        raise ArtefactError(f"{path.parent} has {files} of {header['ranks']} neurons.rank*.npz files")
    return NeuronSets([str(uid) for uid in a["uid"]], header=header, **{name: a[name] for name in _ARRAYS[1:]})


def load_neurons(folder: str | Path) -> NeuronSets:
    """All ranks' files of a folder as one, by ascending uid.

    Raises ArtefactError if one is missing or damaged, a uid stands twice, or headers differ (naming the keys).
    """
    paths = rank_files(Path(folder))
    parts = [read_neurons(path) for path in paths]
    for path, part in zip(paths, parts):
        check_same_making(paths[0], parts[0].header, path, part.header)
    if parts[0].header.get("ranks", len(paths)) != len(paths):
        raise ArtefactError(f"{folder} has {len(paths)} of {parts[0].header['ranks']} neurons.rank*.npz files")
    return join(parts, str(folder))


def join(parts: Sequence[NeuronSets], where: str) -> NeuronSets:
    """Several ranks' sets as one, by ascending uid; ArtefactError if a uid stands twice."""
    uids = [uid for part in parts for uid in part.uids]
    order = sorted(range(len(uids)), key=uids.__getitem__)
    ordered = [uids[i] for i in order]
    twice = [a for a, b in zip(ordered, ordered[1:]) if a == b]
    if twice:
        raise ArtefactError(f"{where}: question {twice[0]} stands in more than one neurons.rank*.npz file")
    width = max(part.ids.shape[1] for part in parts)

    def stacked(name: str) -> np.ndarray:
        result: np.ndarray = np.concatenate([getattr(part, name) for part in parts])[order]
        return result

    return NeuronSets(
        ordered,
        stacked("counts"),
        np.concatenate([_widen(p.ids, width, -1) for p in parts])[order],
        np.concatenate([_widen(p.scores, width, 0) for p in parts])[order],
        stacked("lengths"),
        stacked("truncated"),
        stacked("histogram"),
        parts[0].header,
        stacked("agreement"),
    )


def write_arrays(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """An npz file with a JSON header, written atomically."""
    encoded = np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, header=encoded, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of `write_arrays`' file; ArtefactError if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return json.loads(arrays.pop("header").tobytes()), arrays
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing: run the neurons stage again") from error
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): delete it and run the neurons stage again") from error


def _pack(rows: Sequence[np.ndarray], width: int, dtype: type, fill: int) -> np.ndarray:
    packed: np.ndarray = np.full((len(rows), width), fill, dtype=dtype)
    for target, row in zip(packed, rows):
        target[: len(row)] = row
    return packed


def _widen(array: np.ndarray, width: int, fill: int) -> np.ndarray:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)


def check_same_making(first: Path, wanted: dict[str, Any], path: Path, found: dict[str, Any]) -> None:
    """ArtefactError, naming the keys, if two files' headers differ."""
    differing = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
    if differing:
        shown = "; ".join(f"{k}: {wanted.get(k)} and {found.get(k)}" for k in differing[:4])
        raise ArtefactError(
            f"{first.name} and {path.name} in {path.parent} were made differently ({shown}): "
            "delete the folder and run the neurons stage again"
        )
