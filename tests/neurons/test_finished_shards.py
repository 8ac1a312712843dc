"""Finished shards on disk: reused for the same work alone, and read by exactly one rank each."""

import torch

from nopsd.engine.distributed import Ranks
from nopsd.neurons.finished_shards import SetsFolder, ShardFolder
from nopsd.neurons.sets import SampleSets


def sample(count, ids):
    return SampleSets(
        count,
        torch.tensor(ids, dtype=torch.int64),
        torch.linspace(0.5, 2, len(ids)),
        torch.tensor([len(ids), 0], dtype=torch.int32),
    )


def test_sets_are_read_back_to_the_bit(tmp_path):
    """A restart must give the sets of an unbroken run; sets differ in size, and one is empty."""
    written = {4: sample(3.5, [2, 9, 11]), 1: sample(0.0, []), 7: sample(7.0, [0])}
    folder = SetsFolder(tmp_path, "abc")
    folder.write(3, written)
    found = folder.read(3)
    assert list(found) == [4, 1, 7]
    for number, one in written.items():
        assert found[number].count == one.count
        for name in ("ids", "scores", "histogram"):
            assert torch.equal(getattr(found[number], name), getattr(one, name)), (number, name)


def test_other_work_sees_no_shard_and_clearing_leaves_none(tmp_path):
    """Scores of another model or batch size would be taken for this one's."""
    first, other = SetsFolder(tmp_path, "a" * 64), ShardFolder(tmp_path, "b" * 64)
    first.write(0, {0: sample(1.0, [3])})
    (tmp_path / "neurons.npz").touch()
    alone = Ranks(0, 1, torch.device("cpu"))
    assert first.owners(2, alone) == [0, None] and other.owners(2, alone) == [None, None]
    other.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["neurons.npz"]


def who_reads(seen, folder):
    """By rank 1 of four, which see these shards (1) or not (0)."""

    class Four(Ranks):
        def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
            return list(torch.tensor(seen, dtype=torch.uint8))

    return folder.owners(len(seen[0]), Four(1, 4, torch.device("cpu")))


def test_each_shard_is_read_by_one_rank_that_sees_it_and_a_shared_disk_is_shared_out(tmp_path):
    """Read by two, its rollouts would be counted twice; by rank 0 alone, the others would wait."""
    folder = ShardFolder(tmp_path, "c")
    assert who_reads([[1] * 6] * 4, folder) == [0, 1, 2, 3, 0, 1]
    assert who_reads([[0] * 6, [0] * 6, [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]], folder) == [2, *[None] * 4, 3]
    assert who_reads([[]] * 4, folder) == []
