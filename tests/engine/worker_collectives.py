"""Each collective of `Ranks`, and rows of a ZeRO-3-sharded matrix, against what they must give."""

import deepspeed
import torch

from nopsd.engine.rows import gather_rows


def check_collectives(ranks, size):
    r = ranks.rank
    assert (ranks.world, ranks.is_main) == (size, r == 0)
    assert ranks.all_sum(torch.tensor([1, r])).tolist() == [size, size * (size - 1) // 2]
    assert ranks.all_max(torch.tensor([r])).item() == size - 1
    assert [t.item() for t in ranks.gather(torch.tensor(r))] == list(range(size))
    # Rank 0 sends nothing at all: shards may be empty.
    ragged = ranks.all_gather_ragged(torch.full((r, 2), float(r)))
    assert [t.tolist() for t in ragged] == [[[float(i)] * 2] * i for i in range(size)]
    assert ranks.broadcast_json({"rank": r, "text": "ä" * (r + 1)}) == {"rank": 0, "text": "ä"}
    assert ranks.all_gather_json(["x"] * r) == [["x"] * i for i in range(size)]
    ranks.check_equal("same", "a thing")
    try:
        ranks.check_equal(str(r), "a thing")
        raised = False
    except RuntimeError as error:
        raised = "a thing" in str(error)
    assert raised == (size > 1)
    ranks.barrier()


def check_rows(ranks):
    """37 x 5 over 2 and 4 ranks: shards end within rows, and the last one is padded."""
    torch.manual_seed(0)
    whole = torch.randn(37, 5)
    for dtype in (torch.float32, torch.bfloat16):
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "bf16": {"enabled": dtype == torch.bfloat16},
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        }
        with deepspeed.zero.Init(config_dict_or_path=config):
            layer = torch.nn.Linear(5, 37, bias=False)
        with deepspeed.zero.GatheredParameters([layer.weight], modifier_rank=0):
            if ranks.is_main:
                layer.weight.data.copy_(whole)
        generator = torch.Generator().manual_seed(ranks.rank)
        for count in (0 if ranks.is_main else 9, 50):  # 50: with repetitions
            rows = torch.randint(0, 37, (count,), generator=generator)
            assert torch.equal(gather_rows(layer.weight, rows, ranks), whole.to(dtype)[rows])
        everything = torch.arange(37) if ranks.is_main else torch.zeros(0, dtype=torch.long)
        assert torch.equal(gather_rows(layer.weight, everything, ranks), whole.to(dtype)[everything])


def main(ranks, job):
    check_collectives(ranks, job["size"])
    check_rows(ranks)
