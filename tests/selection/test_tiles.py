"""Tiles, blocks of the pool and threads: how the work is cut changes no distance."""

import numpy as np
import pytest
import torch

from nopsd.errors import ConfigError
from nopsd.selection.jaccard import jaccard_distances
from nopsd.selection.tiles import plan_blocks
from tests.selection.pools import random_sets


@pytest.mark.parametrize("threads", [1, 3])
def test_kernel_over_several_tiles_pool_blocks_and_threads(kernel, threads):
    """Real pools have thousands of sets of neurons in dozens of tiles: any seam between blocks would be wrong."""
    ids, _ = random_sets(1_500, 3, 40, 20_000)
    ids[:, 0] = 7  # a neuron that all have, many that few have
    ids[:, 1:][ids[:, 1:] == 7] = -1
    member = np.zeros((1_500, 20_000), np.float32)
    for row, chosen in zip(member, ids):
        row[chosen[chosen >= 0]] = 1
    sizes = member.sum(1)
    common = member @ member.T  # exact: integers far below 2^24
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = jaccard_distances(ids, ids, 20_000)
    finally:
        torch.set_num_threads(before)
    union = (sizes[:, None] + sizes[None] - common).astype(np.int64)
    assert np.array_equal(found, 1.0 - common.astype(np.int64) / np.maximum(union, 1))


def test_blocks_hold_as_much_as_the_budget_and_no_more():
    """A host would run out of memory, or a large one not be used."""
    sizes = {"query_width": 5_000, "pool_width": 5_000, "neurons": 350_208, "threads": 2, "planes": 13}
    small, large = (plan_blocks(mib << 20, **sizes) for mib in (64, 512))
    assert small.queries < large.queries and small.pool <= large.pool == 1_024
    for mib, found in ((64, small), (512, large)):
        used = found.queries * 2 * 5_000 + found.pool * 2 * 5_000 + 2 * found.strip * 13 * 16 * 8 + 2 * 2**20
        assert 0.5 * mib * 2**20 < used <= mib * 2**20
    with pytest.raises(ConfigError, match=r"dist.block_mib=2 is too little .* set it to (\d+) or more") as refused:
        plan_blocks(2 << 20, **sizes)
    least = int(str(refused.value).split("set it to ")[1].split()[0])
    assert plan_blocks(least << 20, **sizes).pool >= 64
