"""Signals of a ZeRO-3-sharded model: the same bits on 1, 2 and 4 ranks, equal to a plain model's, and never a hang."""

import json
from pathlib import Path

import numpy as np
import pytest

from nopsd.config import SignalConfig
from nopsd.rollout.types import write_rollouts
from nopsd.signals.forward_columns import MeasuredModel, forward_columns
from nopsd.signals.store import read_signals

HERE = Path(__file__).parent
EVERYTHING = ["token_entropy", "self_certainty", "seq_nll", "embedding", "nait"]
SMALL = {"max_batch_tokens": 40, "logit_chunk": 3}
CASES = {
    "everything": {"rollouts": 10, "columns": EVERYTHING, "config": SMALL},
    # of 4 ranks three have no question, and one gets two reference examples where the others get one
    "one": {"rollouts": 1, "columns": ["embedding", "nait"], "config": {**SMALL, "max_batch_tokens": 1}},
}


def make_job(folder, build_model, make_rollouts, tied):
    build_model(tied=tied).save_pretrained(folder / "model")
    write_rollouts(folder / "rollouts.parquet", make_rollouts(5, samples=2, seed=2))
    write_rollouts(folder / "reference.parquet", make_rollouts(5, seed=9))
    files = {name: str(folder / f"{name}.parquet") for name in ("rollouts", "reference")}
    return {"model": folder / "model", **files, "cases": CASES, "out": folder / "out", "tight": not tied}


@pytest.fixture(scope="module", params=["untied", pytest.param("tied", marks=pytest.mark.soak)])
def on_ranks(request, tmp_path_factory, build_model, make_rollouts, run_ranks):
    folder, tied = tmp_path_factory.mktemp(request.param), request.param == "tied"
    sizes = ("1", "2") if tied else ("1", "2", "4")
    run_ranks(HERE / "worker_signals.py", make_job(folder, build_model, make_rollouts, tied), *sizes)
    return folder / "out", build_model(tied=tied), sizes


@pytest.mark.slow
def test_columns_are_bit_identical_on_any_number_of_ranks(on_ranks):
    """A column that depends on the ranks selects other questions on another cluster."""
    out, _, sizes = on_ranks
    for name, case in CASES.items():
        alone = read_signals(out / "1" / name)
        assert sorted(alone.columns) == sorted(case["columns"])
        for size in sizes[1:]:
            shared = read_signals(out / size / name)
            assert shared.uids == alone.uids
            for column in case["columns"]:
                assert np.array_equal(shared.columns[column], alone.columns[column]), (name, size, column)
            assert not list((out / size / name).glob("shards-*"))


@pytest.mark.slow
def test_a_sharded_model_gives_a_plain_models_columns(on_ranks, unsharded, alone, make_rollouts, tmp_path):
    """The output weight and the neuron values read in hooks are the model's own, not a released shard's."""
    out, model, sizes = on_ranks
    for name, case in CASES.items():
        rollouts = make_rollouts(5, samples=2, seed=2)[: case["rollouts"]]
        plain = forward_columns(
            MeasuredModel(unsharded(model), "m"),
            rollouts,
            case["columns"],
            SignalConfig(**case["config"]),
            alone,
            tmp_path / name,
            reference=make_rollouts(5, seed=9),
        )
        for column, values in read_signals(out / sizes[-1] / name).columns.items():
            assert np.array_equal(values, plain[column]), (name, column)


@pytest.mark.slow
def test_every_rank_runs_as_many_forwards(on_ranks):
    """One forward less on a rank would hang the others; and work must be shared, not repeated."""
    out, _, sizes = on_ranks
    for name in CASES:
        counts = {}
        for size in sizes:
            logs = [json.loads((out / size / name / f"forwards.{r}.json").read_text()) for r in range(int(size))]
            assert len(set(logs)) == 1
            counts[size] = logs[0]
        assert counts["2"] < counts["1"]


@pytest.mark.soak
def test_under_deepspeeds_launcher(deepspeed_run, build_model, make_rollouts, unsharded, alone, tmp_path):
    """`deepspeed --num_gpus 2` with real ZeRO-3 gives the columns of one plain process."""
    job = make_job(tmp_path, build_model, make_rollouts, tied=False)
    (tmp_path / "job.json").write_text(json.dumps(job, default=str))
    deepspeed_run(HERE / "worker_signals.py", tmp_path / "job.json", ranks=2)
    for name, case in CASES.items():
        rollouts = make_rollouts(5, samples=2, seed=2)[: case["rollouts"]]
        plain = forward_columns(
            MeasuredModel(unsharded(build_model()), "m"),
            rollouts,
            case["columns"],
            SignalConfig(**case["config"]),
            alone,
            tmp_path / name,
            reference=make_rollouts(5, seed=9),
        )
        for column, values in read_signals(tmp_path / "out" / "deepspeed2" / name).columns.items():
            assert np.array_equal(values, plain[column]), (name, column)
