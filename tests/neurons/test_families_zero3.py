"""Adapters under ZeRO-3: weights are read where they are gathered, and no rank waits for another."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from nopsd.neurons.adapters import find_sites

HERE = Path(__file__).parent
FAMILIES = ["mixed", "phi3", "gpt2", "opt"]  # one of each kind of site


def load_worker():
    spec = importlib.util.spec_from_file_location("worker_families", HERE / "worker_families.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def job(tmp_path_factory, build_family):
    folder = tmp_path_factory.mktemp("families")
    models = {family: build_family(family) for family in FAMILIES}
    for family, model in models.items():
        model.save_pretrained(folder / family)
    return folder, models


def assert_as_unsharded(folder, models):
    """The same bits as a plain process's, for every pass of both ranks."""
    worker = load_worker()
    for family, model in models.items():
        sites = find_sites(model)
        for rank in range(2):
            found = np.load(folder / f"{family}.{rank}.npz")
            assert tuple(found["widths"]) == sites.widths  # not a shard's
            passes = [n for n in range(worker.PASSES) if rank == 0 or n not in worker.IDLE]
            assert {name.split(".")[0] for name in found.files if name != "widths"} == set(map(str, passes))
            for number in passes:
                ids = worker.tokens_of(rank, number)
                distinct, places = torch.unique(ids[0, 3:], return_inverse=True)
                expected = worker.scores_of(model, ids, sites.unembedding[distinct].detach(), places, sites)
                assert len(expected) >= 3
                for name, array in expected.items():
                    assert np.array_equal(found[f"{number}.{name}"], array), (family, rank, number, name)


@pytest.mark.slow
def test_sharded_models_of_each_kind_score_as_unsharded(job, run_ranks):
    """Two ranks with other routings, one of them mostly idle: a trace that differs would stop or hang them."""
    folder, models = job
    work = {"models": {family: str(folder / family) for family in models}, "out": folder}
    run_ranks(HERE / "worker_families.py", work, 2, timeout=200)
    assert_as_unsharded(folder, models)


@pytest.mark.soak
def test_sharded_models_under_deepspeeds_launcher(job, deepspeed_run):
    folder, models = job
    for path in folder.glob("*.npz"):
        path.unlink()
    deepspeed_run(HERE / "worker_families.py", folder / "job.json", ranks=2)
    assert_as_unsharded(folder, models)
