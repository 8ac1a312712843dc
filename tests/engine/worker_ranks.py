"""Run a worker's `main(ranks, job)` in 1, 2, 4, … real processes joined by gloo; imports are paid once.

Usage: python worker_ranks.py WORKER.py JOB.json SIZE...   (`job` is the file's object; "size" is added to it)
Each size's processes are forked from this one. Exit code 1 if any fails. DeepSpeed's launcher is not involved;
the workers can also be started by it (`python WORKER.py` under `deepspeed`).
"""

import ctypes
import importlib.util
import json
import multiprocessing
import os
import signal
import sys

import deepspeed  # noqa: F401 (imported before forking)
import torch
import transformers  # noqa: F401

from nopsd.config import DistConfig
from nopsd.engine.distributed import init_distributed, shutdown_distributed
from nopsd.network import free_port


def load_worker(path):
    spec = importlib.util.spec_from_file_location("worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_rank(worker, job, rank, size, port):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # die with the parent: no rank outlives a test
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    worker.main(init_distributed(DistConfig(timeout_s=90)), {**job, "size": size})
    shutdown_distributed()


def main():
    worker_path, job_path, *sizes = sys.argv[1:]
    worker = load_worker(worker_path)
    with open(job_path) as file:
        job = json.load(file)
    context = multiprocessing.get_context("fork")
    for size in map(int, sizes):
        port = free_port()
        children = [context.Process(target=run_rank, args=(worker, job, r, size, port)) for r in range(size)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        if any(child.exitcode for child in children):
            sys.exit(f"{size} ranks: exit codes {[child.exitcode for child in children]}")


if __name__ == "__main__":
    main()
