"""A rank's share of the neuron artefact: it reads its own rows; the others' reach it by all-gather alone.

W files for R ranks: rank r reads files r, r + R, r + 2R, ... whole. With fewer files than ranks it reads file r % W,
and of its rows every n-th, n being how many ranks read that file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError
from nopsd.neurons.store import NeuronSets, check_same_making, join, rank_files, read_neurons


def load_rank_neurons(folder: str | Path, ranks: Ranks) -> NeuronSets:
    """This rank's share of a folder's questions, whatever number of ranks wrote them. Collective.

    Args:
        folder: The neurons stage's.
        ranks: All that read.

    Raises:
        ArtefactError: The same on every rank: a file is missing or damaged, or the files were made differently.
    """
    share, failure = None, None
    headers: list[tuple[str, dict[str, Any]]] = []
    try:
        share, headers = _read_share(Path(folder), ranks)
    except ArtefactError as error:
        failure = str(error)
    states = ranks.all_gather_json({"failure": failure, "headers": headers})
    failures = [rank["failure"] for rank in states if rank["failure"]]
    if share is None or failures:
        raise ArtefactError(failures[0])
    first, *others = [(Path(folder) / name, header) for rank in states for name, header in rank["headers"]]
    for path, header in others:
        check_same_making(*first, path, header)
    return share


def share_of_files(files: int, rank: int, world: int) -> list[tuple[int, slice]]:
    """(file, rows of it) that this rank reads: every row of every file is read by one rank."""
    if files >= world:
        return [(file, slice(None)) for file in range(rank, files, world)]
    file = rank % files
    return [(file, slice(rank // files, None, len(range(file, world, files))))]


def _read_share(folder: Path, ranks: Ranks) -> tuple[NeuronSets, list[tuple[str, dict[str, Any]]]]:
    paths = rank_files(folder)
    own = [(paths[file], rows) for file, rows in share_of_files(len(paths), ranks.rank, ranks.world)]
    parts = [(path, read_neurons(path, len(paths)), rows) for path, rows in own]
    share = join([part.rows(rows) for _, part, rows in parts], str(folder))
    return share, [(path.name, part.header) for path, part, _ in parts]
