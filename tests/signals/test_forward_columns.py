"""The stage: resuming, refusing other work's parts, and its file."""

import numpy as np
import pytest
import torch

from nopsd.config import SignalConfig
from nopsd.engine.distributed import Ranks
from nopsd.signals.forward_columns import MeasuredModel, forward_columns

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
