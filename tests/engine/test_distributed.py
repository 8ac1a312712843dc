"""Collectives on 1, 2 and 4 real gloo ranks, work of rank 0 for all, and what `init_distributed` refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nopsd.config import DistConfig
from nopsd.engine import distributed
from nopsd.engine.distributed import init_distributed
from nopsd.errors import UserError

HERE = Path(__file__).parent


@pytest.mark.engine
def test_collectives_and_sharded_rows_on_1_2_4_ranks(run_ranks, tmp_path):
    """If this fails, ranks see different wholes, or e_y = E[y] is another token's row."""
    run_ranks(HERE / "worker_collectives.py", {"out": tmp_path}, 1, 2, 4)


@pytest.mark.engine
def test_slow_work_of_rank_0_trips_no_collective(free_port):
    """Rollouts may take longer than dist.timeout_s; if this fails, the other ranks give up waiting for them."""
    command = [sys.executable, str(HERE / "worker_slow_rank0.py"), str(free_port)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_half_a_launcher_environment_is_refused(monkeypatch):
    """A rank that thinks it is alone would overwrite the others' artefacts."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UserError, match="start with `deepspeed`"):
        init_distributed(DistConfig())


def test_each_rank_takes_its_own_gpu_and_one_too_many_is_refused(monkeypatch):
    """On a pretended host of two GPUs: two ranks on one would hang in NCCL's first collective."""
    taken, threads = [], []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    distributed._bind_device(on_gpu=True)
    monkeypatch.setenv("LOCAL_SIZE", "3")
    distributed._bind_device(on_gpu=True)
    assert taken == [1, 1] and threads == [6, 4]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="rank 5 has no GPU: the host has 2; lower dist.ranks to 2"):
        distributed._bind_device(on_gpu=True)
