"""Two gloo ranks whose rank 0 works for longer than the process group's timeout: python worker_slow_rank0.py PORT"""

import multiprocessing
import os
import sys
import time

import deepspeed  # noqa: F401 (imported before forking)
import torch

from nopsd.config import DistConfig
from nopsd.engine import distributed
from nopsd.engine.distributed import broadcast_from_rank0

TIMEOUT_S = 2.0


def run(rank, port):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    ranks = distributed.init_distributed(DistConfig(timeout_s=TIMEOUT_S))
    distributed.STORE_WAIT_S = 0.5
    assert broadcast_from_rank0(ranks, lambda: time.sleep(2 * TIMEOUT_S) or "late") == "late"
    for turn in range(20):  # one after the other: each waits for its own turn
        assert broadcast_from_rank0(ranks, lambda turn=turn: turn) == turn
    try:
        broadcast_from_rank0(ranks, lambda: 1 / 0)
    except (ZeroDivisionError, RuntimeError) as error:
        assert "division" in str(error)
    else:
        raise AssertionError("rank 0's failure was lost")
    distributed.shutdown_distributed()


if __name__ == "__main__":
    children = [multiprocessing.get_context("fork").Process(target=run, args=(r, sys.argv[1])) for r in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(any(child.exitcode for child in children))
