"""The one reader of labels before evaluation: guarded, and showing what is right."""

import json

import pytest

from nopsd.config import METHODS, load_config
from nopsd.data.reading import AnswerReader
from nopsd.data.sources import load_splits
from nopsd.errors import ConfigError, DataError
from nopsd.evaluation.judge import Judge
from nopsd.evaluation.oracle import pool_key, right_solutions
from nopsd.rollout.types import Rollout


@pytest.fixture
def made(tmp_path):
    """The judge of a method over a small file, and its pool."""

    def make(method="opsd_oracle", answers=("A", "B", "C", "D"), **more):
        rows = [
            {"id": f"q{i}", "question": f"{i}?", "options": ["w", "x", "y", "z"], "answer": a}
            for i, a in enumerate(answers)
        ]
        if None in answers:
            rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
        (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = [f"{key}={value}" for key, value in more.items()]
        config = load_config(
            "lab",
            [
                f"method={method}",
                "data.name=file",
                f"data.path={tmp_path / 'q.jsonl'}",
                "data.domain=d",
                "signal.reference=x",
                "data.test_ratio=0.001",
                *settings,
            ],
        )
        return Judge(config), load_splits(config.data).pool

    return make


def answered(uid, sample, letter, finish="stop"):
    return Rollout(uid, sample, [1], [2], f"Because {sample}. <answer>{letter}</answer>", finish, 0)


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if not m.reads_labels])
def test_no_other_method_is_given_an_answer(method, made, monkeypatch):
    """The guard itself: the key isn't even loaded."""
    monkeypatch.setattr("nopsd.evaluation.judge.load_run_answers", lambda data: pytest.fail("an answer was read"))
    with pytest.raises(ConfigError, match="must not read"):
        pool_key(*made(method))


def test_the_first_whole_right_rollout_else_the_gold_answer(made):
    """A wrong or cut response shown as a right one would make the upper reference no such thing."""
    judge, pool = made()
    gold = pool_key(judge, pool)
    uids = sorted(gold)
    wrong = {"A": "B"}.get(gold[uids[0]], "A")
    rollouts = [
        answered(uids[0], 0, wrong),
        answered(uids[0], 2, gold[uids[0]]),
        answered(uids[0], 1, gold[uids[0]]),
        answered(uids[1], 0, gold[uids[1]], "length"),
    ]
    shown = right_solutions(judge, pool, rollouts, AnswerReader())
    assert shown[uids[0]].solution == f"Because 1. <answer>{gold[uids[0]]}</answer>"
    for uid in uids[1:]:
        assert shown[uid].solution == f"<answer>{gold[uid]}</answer>"
    assert all(shown[uid].question.uid == uid for uid in uids)


def test_a_pool_without_answers_is_refused_by_name(made):
    judge, pool = made(answers=("A", None, "B", "C"))
    uids = {q.uid for q in pool}
    if "q1" in uids:  # else it was split off for the test
        with pytest.raises(DataError, match="q1"):
            pool_key(judge, pool)
