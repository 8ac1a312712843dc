"""tools/prompt_study.py: prompts are compared by what is seen without labels, and labels are of questions outside."""

import json

import pytest

from nopsd.config import load_config
from nopsd.data.records import Question
from nopsd.errors import ConfigError
from nopsd.rollout.types import Rollout
from tools import prompt_study as study

NUMBERS = ["prompt.answer=number", "prompt.answer_format=tag", "zero_shot.n=2"]
ROW = study.Row("r", load_config("lab", NUMBERS))
QUESTIONS = [Question(f"q{i}", "d", "file", f"What is {i}?") for i in range(3)]


def answer(uid, sample, text, length=20, reason="stop"):
    return Rollout(uid, sample, [1], [1] * length, text, reason, 0)


def test_what_is_measured_is_of_finished_answers():
    """Breaks if a number in an answer that was cut counts, or two forms of one number are two votes."""
    given = [
        answer("q0", 0, "It is <answer>1200</answer>"),
        answer("q0", 1, "So the answer is 1,200.", length=4),
        answer("q1", 0, "First 3, then 4, then", reason="length"),
        answer("q1", 1, "No idea."),
        answer("q2", 0, "<answer>1/2</answer>"),
        answer("q2", 1, "<answer>0.7</answer>"),
    ]
    found = study.measured(ROW, QUESTIONS, given)
    assert found["finished"] == 5 / 6 and found["readable"] == 4 / 6 and found["where_asked"] == 3 / 6
    assert found["vote"] == pytest.approx((1 + 0 + 0.5) / 3) and found["at_once"] == 1 / 6
    assert "`r` | 0 | 0.83 | 0.67 | 0.50 | 0.50" in study.table([found])


def test_labels_are_of_questions_that_are_neither_trained_nor_tested_on(tmp_path):
    """Else a prompt is chosen on what is reported."""
    rows = [{"id": i, "question": f"q {i}", "answer": i} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["data.name=file", "data.domain=d", f"data.path={tmp_path / 'rows.jsonl'}", "data.test_ratio=0.25"]
    config = load_config("lab", [*data, "data.pool_limit=20"])
    pool, outside = ({q.uid for q in study.asked_of(config, 99, labels)} for labels in (False, True))
    assert len(pool) == 20 and len(outside) == 10 and not pool & outside
    with pytest.raises(ConfigError, match="leaves no question out"):
        study.asked_of(load_config("lab", data), 5, True)


def test_rows_are_settings_by_name(tmp_path):
    (tmp_path / "rows.yaml").write_text('a: {prompt.answer: number}\nb:\nc: {prompt.instruction: "Think: a, b."}\n')
    found = study.read_row_settings(str(tmp_path / "rows.yaml"))
    assert found == {"a": ["prompt.answer=number"], "b": [], "c": ["prompt.instruction=Think: a, b."]}
    (tmp_path / "rows.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="write rows as NAME"):
        study.read_row_settings(str(tmp_path / "rows.yaml"))


@pytest.mark.parametrize("name", ["ours", "tag", "box", "steps", "short"])
def test_the_shipped_rows_are_settings_of_the_small_presets(name):
    """Breaks if a key that the study sets is renamed."""
    settings = study.read_row_settings("tools/real_table/prompts.yaml")[name]
    for preset in ("small/smollm2_135m", "small/qwen2_5_0_5b"):
        load_config(preset, settings)
