"""The stage: resuming, refusing other work's parts, and its file."""

import numpy as np
import pytest
import torch

from nopsd.config import SignalConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError
from nopsd.signals.forward_columns import MeasuredModel, forward_columns, write_shared_signals
from nopsd.signals.store import FILE, Signals, question_means, read_signals, write_signals

CONFIG = SignalConfig(max_batch_tokens=40, logit_chunk=3)
ALONE = Ranks(0, 1, torch.device("cpu"))
NAMES = ["seq_nll", "nait"]


def test_a_killed_run_measures_no_finished_shard_again(build_model, make_rollouts, unsharded, tmp_path):
    """Hours of forward passes would be lost, or a resumed run differ from a whole one."""
    rollouts, reference = make_rollouts(12), make_rollouts(6, seed=9)

    def run(engine, folder, progress=None):
        return forward_columns(MeasuredModel(engine, "m"), rollouts, NAMES, CONFIG, ALONE, folder, progress, reference)

    whole_engine = unsharded(build_model())
    whole = run(whole_engine, tmp_path / "whole")
    assert whole_engine.forwards > 6
    for stop in (2, whole_engine.forwards - 1):  # in the reference, and in the pool
        folder, first, seen = tmp_path / f"cut{stop}", unsharded(build_model()), []

        def kill(done, total, stop=stop, seen=seen):
            seen.append((done, total))
            if len(seen) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(first, folder, kill)
        second, told = unsharded(build_model()), []
        resumed = run(second, folder, lambda done, total, told=told: told.append((done, total)))
        assert first.forwards == stop and second.forwards == whole_engine.forwards - stop
        assert told[-1] == (18, 18) and told[0][0] > seen[-1][0]
        for name in NAMES:
            assert np.array_equal(resumed[name], whole[name])


def test_shards_of_other_work_are_not_reused(build_model, make_rollouts, unsharded, tmp_path):
    """Shards of another model, reference, column or pool must not be mistaken for this work's."""
    rollouts, reference = make_rollouts(6), make_rollouts(4, seed=9)
    common = {"rollouts": rollouts, "columns": ["nait"], "reference": reference, "model_hash": "m", "value": "act_fn"}

    def run(**changes):
        arguments = {**common, **changes}
        engine = unsharded(build_model())
        model = MeasuredModel(engine, arguments["model_hash"], arguments["value"])
        forward_columns(
            model,
            arguments["rollouts"],
            arguments["columns"],
            CONFIG,
            ALONE,
            tmp_path,
            reference=arguments["reference"],
        )
        return engine.forwards

    assert run() > 0 and run() == 0
    for changes in (
        {"model_hash": "n"},
        {"value": "gated"},
        {"reference": reference[:3]},
        {"rollouts": rollouts[:5]},
        {"columns": ["embedding"]},
    ):
        assert run(**changes) > 0, changes
        assert run() == 0


def test_the_file_holds_what_was_written_and_nothing_else_stays(tmp_path):
    """Selection reads this file by name and column."""
    signals = Signals(["a", "b"], {"nait": np.array([1.5, -2.0]), "agrees": np.eye(2)}, {"format": 1})
    (tmp_path / "shards-0123").mkdir()
    write_shared_signals(tmp_path, signals, ALONE)
    found = read_signals(tmp_path)
    assert (found.uids, found.header) == (["a", "b"], {"format": 1})
    assert {name: column.tolist() for name, column in found.columns.items()} == {
        "nait": [1.5, -2.0],
        "agrees": [[1, 0], [0, 1]],
    }
    assert all(column.dtype == np.float32 for column in found.columns.values())
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ArtefactError, match="signals.npz is missing: run the signals stage"):
        read_signals(tmp_path)
    write_signals(tmp_path, Signals(["a"], {"nait": np.ones(1)}))
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:100])
    with pytest.raises(ArtefactError, match="signals.npz is damaged: .*--redo signals"):
        read_signals(tmp_path)
    with pytest.raises(ValueError, match="nait has not 2 rows"):
        write_signals(tmp_path, Signals(["a", "b"], {"nait": np.ones(1)}))


def test_question_means_leave_out_what_is_not_a_number():
    """One empty response must not take its question out of the ranking."""
    rows = {"x": np.array([1.0, np.nan, 3.0, np.nan, 5.0], dtype=np.float32)}
    uids, means = question_means(["b", "a", "b", "c", "a"], rows)
    assert uids == ["a", "b", "c"]
    assert means["x"][:2].tolist() == [5.0, 2.0] and np.isnan(means["x"][2])
