"""Each rank reads its share from a folder in which the files that it need not read are damaged, then selects.

job: {folders: {case: neuron files}, out}. Results go to out/<size>/<case>/.
"""

import shutil
from pathlib import Path

from nopsd.config import ContextConfig, SelectConfig
from nopsd.errors import ArtefactError
from nopsd.files import write_json
from nopsd.neurons.rank_share import load_rank_neurons, share_of_files
from nopsd.neurons.store import load_neurons, rank_files
from nopsd.selection.gathering import PoolData
from nopsd.selection.select_pool import Sharing, select_pool


def own_copy(folder, ranks, copy):
    """The folder as this rank sees it."""
    shutil.copytree(folder, copy)
    paths = rank_files(copy)
    mine = {file for file, _ in share_of_files(len(paths), ranks.rank, ranks.world)}
    if len(paths) == ranks.world:
        assert mine == {ranks.rank}
    for number, path in enumerate(paths):
        if number not in mine:
            path.write_bytes(b"not for this rank")
    return copy


def main(ranks, job):
    for case, folder in job["folders"].items():
        uids = load_neurons(folder).uids
        out = Path(job["out"]) / str(ranks.world) / case
        neurons = load_rank_neurons(own_copy(folder, ranks, out / f"rank{ranks.rank}"), ranks)
        data = PoolData(neurons, {uid: f"text {uid}" for uid in uids})
        select_pool(data, SelectConfig(fraction=0.25), ContextConfig(m=3), Sharing(ranks), out / "selection")
        write_json(out / f"uids.{ranks.rank}.json", neurons.uids)
        # One rank's damaged file stops every rank with the same message.
        broken = out / f"rank{ranks.rank}" / f"neurons.rank{len(rank_files(Path(folder))) - 1:05d}.npz"
        broken.write_bytes(b"damaged")
        try:
            load_rank_neurons(broken.parent, ranks)
        except ArtefactError as error:
            assert "is damaged" in str(error)
        else:
            raise AssertionError("a damaged file was read")
        ranks.barrier()
