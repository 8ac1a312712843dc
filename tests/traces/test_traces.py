"""nopsd.traces: a step that is written is read back as it was; a trace is bounded, resumable, and never stops a run."""

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest

from nopsd.errors import ArtefactError
from nopsd.rollout.types import Rollout
from nopsd.traces import writer as writing
from nopsd.traces.reader import Trace
from nopsd.traces.schema import COUNTED, TOKEN_VALUES, Prompts, StepTrace, step_path, traced_steps
from nopsd.traces.writer import TraceWriter

MANY = 1 << 40


def rollout(uid, sample, ids, logprobs=True):
    found = [-0.1 * i for i in range(len(ids))] if logprobs else None
    return Rollout(uid, sample, [1, 2], list(ids), f"text {sample}", "stop", 3, 7, found)


def step(number, rollouts=None, size=1):
    rollouts = rollouts or [rollout("a", 0, range(5)), rollout("b", 0, []), rollout("b", 1, range(3 * size))]
    tokens = sum(len(r.response_ids) for r in rollouts)
    rng = np.random.default_rng(number)
    values = {name: rng.normal(size=tokens).astype(np.float32) for name in TOKEN_VALUES}
    return StepTrace(number, rollouts, {**values, COUNTED: np.arange(tokens) % 2 == 0})


def write(folder, traces, every=1, budget=MANY, resume_step=0):
    writer = TraceWriter(folder, every, budget, resume_step)
    writer.write_prompts({"a": Prompts([1, 2]), "b": Prompts([1, 2], [9, 1, 2], ("x", "y"))})
    for trace in traces:
        writer.add(trace)
    writer.close()
    return writer


def test_a_step_is_read_back_to_the_bit(tmp_path):
    """A replay trains on what is read: one changed id or log-prob and its losses are others."""
    given = step(12)
    write(tmp_path, [given])
    trace = Trace(tmp_path)
    assert trace.steps == [12]
    read = trace.rollouts(12)
    assert [(r.uid, r.sample, r.response_ids, r.prompt_ids, r.text, r.finish_reason, r.seed) for r in read] == [
        (r.uid, r.sample, r.response_ids, r.prompt_ids, r.text, r.finish_reason, r.seed) for r in given.rollouts
    ]
    assert [r.logprobs for r in read] == [np.float32(r.logprobs).tolist() for r in given.rollouts]
    table = trace.table(12)
    for name in (*TOKEN_VALUES, COUNTED):
        assert np.array_equal(np.concatenate(table[name].to_pylist()), given.values[name])
        assert [len(row) for row in table[name].to_pylist()] == [5, 0, 3]
    assert trace.prompts["b"] == Prompts([1, 2], [9, 1, 2], ("x", "y"))
    assert trace.prompts["a"].teacher_ids is None


def test_what_was_not_computed_is_null(tmp_path):
    """Reinforcement has no teacher, and some servers give no log-probs: the columns stay, empty."""
    rollouts = [rollout("a", 0, range(4), logprobs=False)]
    write(tmp_path, [StepTrace(0, rollouts, {"student_logprob": np.zeros(4, np.float32)})])
    row = Trace(tmp_path).table(0).to_pylist()[0]
    assert row["teacher_logprob"] is None and row["served_logprob"] is None and row["student_logprob"] == [0.0] * 4
    assert Trace(tmp_path).rollouts(0)[0].logprobs is None


def test_every_nth_step_is_kept(tmp_path):
    write(tmp_path, [step(n) for n in range(7)], every=3)
    assert traced_steps(tmp_path) == [0, 3, 6]


def test_over_the_budget_the_trace_is_thinned_evenly(tmp_path, caplog):
    """A budget that cut the end off would lose the very steps in which a run collapses."""
    one = TraceWriter(tmp_path / "one", 1, MANY)
    one.add(step(0, size=50))
    one.close()
    size = one.sizes[0]
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "t", [step(n, size=50) for n in range(16)], budget=5 * size)
    kept = traced_steps(tmp_path / "t")
    assert kept == [0, 4, 8, 12]
    assert "train.trace_mib" in caplog.text
    resumed = TraceWriter(tmp_path / "t", 1, 5 * size, resume_step=16)
    assert resumed.every == 4


def test_a_resumed_run_has_each_step_once(tmp_path):
    """Steps after the checkpoint are trained again, on other responses where the server sampled anew."""
    write(tmp_path, [step(n) for n in range(5)])
    again = [rollout("a", 0, [9])]
    write(tmp_path, [step(3, again)], resume_step=3)
    assert traced_steps(tmp_path) == [0, 1, 2, 3]
    assert Trace(tmp_path).rollouts(3)[0].response_ids == [9]


def test_a_full_disk_ends_the_trace_and_not_the_training(tmp_path, caplog, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    writer = TraceWriter(tmp_path, 1, MANY)
    monkeypatch.setattr(writing, "write_atomic", full)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            writer.add(step(number))
        writer.close()
    assert caplog.text.count("No space left") == 1
    assert traced_steps(tmp_path) == []


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_a_damaged_file_is_one_clear_line(tmp_path, damage):
    write(tmp_path, [step(1)])
    path = step_path(tmp_path, 1)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:40])
    else:
        pq.write_table(pq.read_table(path).drop_columns(["uid"]), path)
    with pytest.raises(ArtefactError, match=r"step-00000001\.parquet"):
        Trace(tmp_path).table(1)
