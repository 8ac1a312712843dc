"""From contexts to the teacher's prompts: the response that was chosen is shown, the end is the student's."""

from dataclasses import replace

import pytest

from nopsd.config import load_config
from nopsd.data.prompts import load_tokenizer
from nopsd.data.records import Question
from nopsd.errors import ArtefactError, DataError
from nopsd.files import write_json, write_jsonl
from nopsd.rollout.types import Rollout, write_rollouts
from nopsd.run.folder import RunFolder
from nopsd.run.session import Session
from nopsd.stages.contexts import contexts_at_odds, foreign_prompts, teacher_prompts

QUESTIONS = {uid: Question(uid, "d", "t", f"Where is {uid}?") for uid in ("qa", "qb", "qc")}


@pytest.fixture
def session(tmp_path, lab_model_dir):
    """What of a session the function uses, with three stored responses a question."""
    tokenizer = load_tokenizer(lab_model_dir)
    rollouts = [
        Rollout(uid, sample, [1], [2], f"<think>\nhm\n</think>\n\nsample {sample} of {uid}", "stop", 0)
        for uid in QUESTIONS
        for sample in range(3)
    ]
    write_rollouts(tmp_path / "rollout" / "rollouts.parquet", rollouts)

    def make(contexts, **context):
        write_json(tmp_path / "select" / "contexts.json", contexts)
        overrides = [f"context.{key}={value}" for key, value in context.items()]
        config = load_config("lab", overrides)
        made = Session(replace(config, run_dir=str(tmp_path)))
        made.tokenizer, made.think_open, made.questions = tokenizer, False, QUESTIONS
        return made

    return make


def shown(session, prompt):
    return session.tokenizer.decode(prompt.ids)


def test_same_prompt_rollout_shows_the_chosen_response_and_ends_in_the_students_prompt(session):
    """The question stands twice: solved, and then to be answered in exactly the student's wording."""
    s = session({"qa": [{"uid": "qa", "sample": 2, "distance": None}], "qb": []})
    prompts = teacher_prompts(s, ["qa", "qb"])
    text, student = shown(s, prompts["qa"]), s.renderer.student(QUESTIONS["qa"])
    assert "sample 2 of qa" in text and "sample 0" not in text and text.count("Where is qa?") == 2
    tail = s.tokenizer.decode(student).split("Where is qa?")[1]
    assert text.endswith("Where is qa?" + tail)
    assert prompts["qa"].ids[-8:] == student[-8:] and (prompts["qa"].kept, prompts["qa"].offered) == (1, 1)
    assert prompts["qb"].ids == s.renderer.student(QUESTIONS["qb"]) and prompts["qb"].offered == 0


@pytest.mark.parametrize(
    ("order", "first"), [("nearest_last", "sample 1 of qc"), ("nearest_first", "sample 0 of qb"), ("random", None)]
)
def test_each_demonstration_is_its_own_sample_in_the_order_that_is_set(session, order, first):
    """contexts.json without `sample` (of older runs) means sample 0."""
    s = session({"qa": [{"uid": "qb", "distance": 0.1}, {"uid": "qc", "sample": 1, "distance": 0.2}]}, order=order)
    text = shown(s, teacher_prompts(s, ["qa"])["qa"])
    places = sorted((text.index(words), words) for words in ("sample 0 of qb", "sample 1 of qc"))
    assert first is None or places[0][1] == first
    assert text.index("Where is qa?") > places[1][0]


def test_a_response_that_the_rollouts_lack_is_named(session):
    s = session({"qa": [{"uid": "qb", "sample": 7, "distance": 0.1}]})
    with pytest.raises(ArtefactError, match="show response 7 of question qb.*--redo select"):
        teacher_prompts(s, ["qa"])


def test_a_control_at_odds_with_its_vote_shows_no_response_that_agrees():
    """qa's third response and qb's first differ from their votes; one that can't be read is at odds with nothing."""
    answers = {"qa": ["A", "A", "B"], "qb": ["C", "D", "D"], "qc": ["A", "A", None]}
    found = contexts_at_odds(answers, ["qa", "qc"], 4, 0)
    assert [(n.uid, n.sample) for n in found["qa"]] == [("qb", 0)]
    assert {(n.uid, n.sample) for n in found["qc"]} == {("qa", 2), ("qb", 0)}
    assert found == contexts_at_odds(answers, ["qa", "qc"], 4, 0)
    with pytest.raises(DataError, match="at odds with its question's vote"):
        contexts_at_odds({"qa": ["A", "B", "B"], "qb": ["C", "C", "C"]}, ["qa"], 1, 0)


def test_a_control_of_another_domain_shows_that_runs_own_answers(session, tmp_path):
    """To the same question, its first sample's; the same ones for the same seed."""
    other, elsewhere = tmp_path / "other", [Question(f"x{i}", "e", "t", f"Whence {i}?") for i in range(6)]
    write_jsonl(other / "data" / "pool.jsonl", [q.to_json() for q in elsewhere])
    rows = [Rollout(q.uid, s, [1], [2], f"{q.uid} says {s}", "stop", 0) for q in elsewhere for s in range(2)]
    write_rollouts(other / "rollout" / "rollouts.parquet", rows)
    made = session({}, m=2)
    prompts = foreign_prompts(made, ["qa", "qb"], RunFolder(other), 1)
    text = made.tokenizer.decode(prompts["qa"].ids)
    assert text.count("says 0") == text.count("Whence") == 2 and "says 1" not in text and "Where is qa?" in text
    assert prompts["qa"].kept == 2 and prompts == foreign_prompts(made, ["qa", "qb"], RunFolder(other), 1)
