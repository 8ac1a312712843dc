"""Scoring a pool: resuming, refusing, merging rollouts, and its files."""

import numpy as np
import pytest

from nopsd.config import NeuronConfig
from nopsd.errors import ConfigError, DataError
from nopsd.neurons.score_pool import ScoredModel, score_pool
from nopsd.neurons.store import load_neurons
from tests.neurons.small import CONFIG, assert_equal


def test_a_killed_run_scores_no_finished_batch_again(engine, unsharded, alone, make_rollouts, tmp_path):
    rollouts = make_rollouts(12)
    whole = score_pool(ScoredModel(engine, "m"), rollouts, CONFIG, alone, tmp_path / "whole")
    assert engine.forwards > 5

    seen = []
    first = unsharded(engine.module)

    def progress(done, total):
        seen.append((done, total))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_pool(ScoredModel(first, "m"), rollouts, CONFIG, alone, tmp_path / "cut", progress)
    assert first.forwards == 3
    second, reports = unsharded(engine.module), []
    resumed = score_pool(
        ScoredModel(second, "m"), rollouts, CONFIG, alone, tmp_path / "cut", lambda d, t: reports.append((d, t))
    )
    assert second.forwards == engine.forwards - 3
    assert_equal(resumed, whole)
    assert reports[0][0] > seen[-1][0] and reports[-1] == (12, 12)
    # A third run finds the files whole, and only they are left.
    third = unsharded(engine.module)
    assert_equal(score_pool(ScoredModel(third, "m"), rollouts, CONFIG, alone, tmp_path / "cut"), whole)
    assert third.forwards == 0
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["neurons.rank00000.npz"]


def test_other_work_is_not_reused(engine, alone, make_rollouts, tmp_path):
    """Shards and files of another model, config or rollouts must not be mistaken for this work's."""
    rollouts = make_rollouts(6)
    score_pool(ScoredModel(engine, "m"), rollouts, CONFIG, alone, tmp_path)
    once = engine.forwards
    for changed in ({"model_hash": "n"}, {"rollouts": make_rollouts(6, seed=1)}, {"config": NeuronConfig(k=3)}):
        arguments = {"rollouts": rollouts, "config": CONFIG, "model_hash": "m", **changed}
        score_pool(
            ScoredModel(engine, arguments["model_hash"]), arguments["rollouts"], arguments["config"], alone, tmp_path
        )
        assert engine.forwards > once
        once = engine.forwards


def test_batch_composition_does_not_change_the_sets(engine, alone, make_rollouts, tmp_path):
    """Padding must not leak into the scores."""
    rollouts = make_rollouts(12)
    together = score_pool(ScoredModel(engine, "m"), rollouts, CONFIG, alone, tmp_path / "a")
    one_by_one = NeuronConfig(per_layer=12, k=20, chunk=5, max_batch_tokens=1)
    single = score_pool(ScoredModel(engine, "m"), rollouts[::-1], one_by_one, alone, tmp_path / "b")
    assert np.array_equal(together.counts, single.counts) and np.array_equal(together.ids, single.ids)
    # float16 on disk: a score at the middle of two falls to either, one step of 2**-10 apart
    assert np.allclose(together.scores, single.scores, rtol=2**-10)


def test_several_rollouts_a_question_make_one_row(engine, alone, make_rollouts, tmp_path):
    rollouts = make_rollouts(4, samples=3)
    merged = score_pool(ScoredModel(engine, "m"), rollouts, CONFIG, alone, tmp_path / "all")
    each = [
        score_pool(ScoredModel(engine, "m"), [r for r in rollouts if r.sample == s], CONFIG, alone, tmp_path / str(s))
        for s in range(3)
    ]
    assert merged.uids == each[0].uids and len(merged.uids) == 4
    assert np.allclose(merged.counts, np.mean([e.counts for e in each], axis=0))
    for row in range(4):
        kept = set(merged.ids[row].tolist()) - {-1}
        assert kept <= set().union(*(e.ids[row].tolist() for e in each))
        assert merged.scores[row].max() == max(e.scores[row].max() for e in each)


def test_agreement_of_a_questions_rollouts_is_taken_before_they_are_merged(engine, alone, make_rollouts, tmp_path):
    """The nad_agreement selector reads it; NaN says that a question has one rollout."""
    rollouts = make_rollouts(3, samples=3) + make_rollouts(4)[3:]
    found = score_pool(ScoredModel(engine, "m"), rollouts, CONFIG, alone, tmp_path / "all")
    assert np.array_equal(load_neurons(tmp_path / "all").agreement, found.agreement, equal_nan=True)
    each = [
        score_pool(ScoredModel(engine, "m"), [r for r in rollouts if r.sample == s], CONFIG, alone, tmp_path / str(s))
        for s in range(3)
    ]
    for row in range(3):
        sets = [set(e.ids[row].tolist()) - {-1} for e in each]
        pairs = [len(a & b) / len(a | b) for a, b in ((sets[0], sets[1]), (sets[0], sets[2]), (sets[1], sets[2]))]
        assert found.agreement[row] == np.float32(sum(pairs) / 3) and 0 < found.agreement[row] < 1
    assert np.isnan(found.agreement[3])


def test_without_thinking_only_the_visible_answer_is_scored(engine, alone, make_rollouts, tmp_path):
    rollouts = make_rollouts(3)
    config = NeuronConfig(per_layer=12, k=20, chunk=5, include_thinking=False)
    with pytest.raises(ConfigError, match="neuron.include_thinking=false needs"):
        score_pool(ScoredModel(engine, "m"), rollouts, config, alone, tmp_path)
    tagged = [type(r)(r.uid, 0, [*r.prompt_ids, 60], [5, 61, 7, 8], "", "stop", 0) for r in rollouts]
    found = score_pool(ScoredModel(engine, "m", (60, 61)), tagged, config, alone, tmp_path)
    assert found.lengths.tolist() == [2, 2, 2]


def test_no_rollouts_are_refused(engine, alone, tmp_path):
    with pytest.raises(DataError, match="no rollouts to score"):
        score_pool(ScoredModel(engine, "m"), [], CONFIG, alone, tmp_path)
