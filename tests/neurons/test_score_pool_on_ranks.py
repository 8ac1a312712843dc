"""Scoring a ZeRO-3-sharded model gives the same bits on 1, 2 and 4 ranks, and never hangs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nopsd.config import NeuronConfig
from nopsd.neurons.batches import plan_shards
from nopsd.neurons.score_pool import ScoredModel, score_pool
from nopsd.neurons.store import load_neurons
from nopsd.rollout.types import write_rollouts

HERE = Path(__file__).parent
BASE = {"per_layer": 12, "k": 20, "chunk": 5, "max_batch_tokens": 40}
CASES = {
    "even": (12, 1, BASE),
    # of 4 ranks two have nothing to score, and watch no layer where the others watch two of three
    "few": (2, 1, {**BASE, "max_batch_tokens": 1, "layers": "every 2"}),
    "several": (5, 3, {**BASE, "chunk_merge": "exact"}),
    "gated": (7, 1, {**BASE, "value": "gated", "align": "self", "count_mode": "token_topk"}),
}
TIED = ("several", "gated")  # what a tied unembedding, read from other shards, is tried with
COLUMNS = ("counts", "ids", "scores", "lengths", "truncated", "histogram", "agreement")


@pytest.fixture(scope="module", params=["untied", pytest.param("tied", marks=pytest.mark.soak)])
def job(request, tmp_path_factory, build_model, make_rollouts):
    """The work as a file, and the model, for both kinds of unembedding."""
    folder = tmp_path_factory.mktemp(request.param)
    model = build_model(tied=request.param == "tied")
    model.save_pretrained(folder / "model")
    cases = {}
    for name, (questions, samples, config) in CASES.items():
        if request.param == "tied" and name not in TIED:
            continue
        write_rollouts(folder / f"{name}.parquet", make_rollouts(questions, samples, seed=2))
        cases[name] = {"rollouts": str(folder / f"{name}.parquet"), "config": config}
    untied = request.param == "untied"
    work = {
        "model": str(folder / "model"),
        "cases": cases,
        "out": str(folder / "out"),
        "tight": untied,
        "killed": "even" if untied else None,
    }
    (folder / "job.json").write_text(json.dumps(work))
    return folder, model


@pytest.fixture(scope="module")
def on_1_2_4_ranks(job, run_ranks):
    folder, model = job
    run_ranks(HERE / "worker_scoring.py", json.loads((folder / "job.json").read_text()), 1, 2, 4)
    return folder / "out", model


def names(out):
    """The cases that were run."""
    found = {folder.name for folder in (out / "1").iterdir()}
    assert found in (set(CASES), set(TIED))
    return sorted(found)


def assert_same_sets(a, b):
    assert a.uids == b.uids
    for column in COLUMNS:
        assert np.array_equal(getattr(a, column), getattr(b, column), equal_nan=column == "agreement"), column


@pytest.mark.slow
def test_counts_sets_selection_and_contexts_are_bit_identical(on_1_2_4_ranks):
    out, _ = on_1_2_4_ranks
    for name in names(out):
        alone = load_neurons(out / "1" / name)
        chosen = (out / "1" / name / "queries_only" / "selected.json").read_bytes()
        found = (out / "1" / name / "queries_only" / "contexts.json").read_bytes()
        assert len(json.loads(found)) >= 1
        for size in ("2", "4"):
            assert_same_sets(load_neurons(out / size / name), alone)
        for size in ("1", "2", "4"):
            for exchange in ("queries_only", "gather_all"):
                assert (out / size / name / exchange / "selected.json").read_bytes() == chosen
                assert (out / size / name / exchange / "contexts.json").read_bytes() == found


@pytest.mark.slow
def test_sharded_equals_an_unsharded_model(on_1_2_4_ranks, unsharded, alone, make_rollouts, tmp_path):
    """Weights read in hooks and rows gathered from shards are the model's own."""
    out, model = on_1_2_4_ranks
    for name in names(out):
        questions, samples, config = CASES[name]
        rollouts, settings = make_rollouts(questions, samples, seed=2), NeuronConfig(**config)
        plain = score_pool(ScoredModel(unsharded(model), "m"), rollouts, settings, alone, tmp_path / name)
        assert_same_sets(load_neurons(out / "4" / name), plain)


@pytest.mark.slow
def test_no_deadlock_every_rank_runs_as_many_forwards(on_1_2_4_ranks):
    """Uneven shards, and ranks without any sample: one forward less on a rank would hang the others."""
    out, _ = on_1_2_4_ranks
    for name in names(out):
        for size in (1, 2, 4):
            logs = [json.loads((out / str(size) / name / f"forwards.{r}.json").read_text()) for r in range(size)]
            assert len({log["forwards"] for log in logs}) == 1
            if (name, size) == ("few", 4):
                assert [log["rows"] for log in logs] == [1, 1, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("job", ["untied"], indirect=True)
def test_a_run_killed_on_2_ranks_resumes_with_another_number(on_1_2_4_ranks, unsharded, alone, make_rollouts, tmp_path):
    """No finished shard is scored again, whoever finished it and whoever resumes: on 4 ranks, or here on one."""
    out, model = on_1_2_4_ranks
    config, whole = NeuronConfig(**BASE), load_neurons(out / "1" / "even")
    rollouts = make_rollouts(12, seed=2)
    total, finished = len(plan_shards(rollouts, config.max_batch_tokens)), 2  # one forward pass of each rank
    assert total > 3
    assert len(list((out / "2" / "killed").glob("shards-*/*.npz"))) == finished
    shutil.copytree(out / "2" / "killed", tmp_path / "killed")
    engine = unsharded(model)
    resumed = score_pool(ScoredModel(engine, "m"), rollouts, config, alone, tmp_path / "killed")
    assert_same_sets(resumed, whole)
    assert engine.forwards == total - finished
    assert_same_sets(load_neurons(out / "4" / "killed"), whole)
    logs = [json.loads((out / "4" / "killed" / f"forwards.{r}.json").read_text()) for r in range(4)]
    assert [log["forwards"] for log in logs] == [-(-(total - finished) // 4)] * 4


@pytest.mark.slow
@pytest.mark.parametrize("job", ["untied"], indirect=True)
def test_nothing_gathers_the_whole_model(on_1_2_4_ranks):
    """Scoring reads weights where ZeRO-3 has gathered them: no more is whole at a time than one module's."""
    out, _ = on_1_2_4_ranks
    for name in names(out):
        for rank in range(2):
            gathered = json.loads((out / "2" / name / f"forwards.{rank}.json").read_text())["gathered"]
            assert 0 < gathered["most"] <= gathered["largest"] < gathered["total"] / 5, (name, gathered)


@pytest.mark.soak  # tests/commands/test_run.py starts the stage by the launcher too
@pytest.mark.parametrize("job", ["untied"], indirect=True)  # one start is enough
def test_under_deepspeeds_launcher(job, deepspeed_run, unsharded, alone, make_rollouts, tmp_path):
    """`deepspeed --num_gpus 2` with real ZeRO-3 gives the sets of one plain process."""
    folder, model = job
    deepspeed_run(HERE / "worker_scoring.py", folder / "job.json", ranks=2)
    for name, (questions, samples, config) in CASES.items():
        rollouts, settings = make_rollouts(questions, samples, seed=2), NeuronConfig(**config)
        plain = score_pool(ScoredModel(unsharded(model), "m"), rollouts, settings, alone, tmp_path / name)
        assert_same_sets(load_neurons(folder / "out" / "deepspeed2" / name), plain)
