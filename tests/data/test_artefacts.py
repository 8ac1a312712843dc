"""The data stage's files: later stages read questions from nowhere else."""

import pytest

from nopsd.data.artefacts import POOL, read_holdout, read_notes, read_pool, read_responses, read_tests, write_data
from nopsd.data.records import Option, Question, questions_hash
from nopsd.data.splits import Splits
from nopsd.errors import ArtefactError

POOL_QUESTIONS = [
    Question("p0", "a", "s", "Wie groß — 大?", (Option("A", "klein"), Option("B", "groß")), "L1", "c"),
    Question("p1", "a", "s", "One line\nand another"),
]
TESTS = [Question("t0", "b", "s", "?"), Question("t1", "a", "s", "?"), Question("t2", "b", "s", "??")]


def test_questions_are_read_back_as_written(tmp_path):
    """Options, levels and line breaks included: they are what prompts are made of."""
    responses = {"p1": "yes", "p0": "no", "other": "?"}
    write_data(
        tmp_path, Splits(POOL_QUESTIONS, {}, responses=responses, held=(TESTS[0],)), TESTS, {"note": "other splits"}
    )
    assert read_pool(tmp_path) == POOL_QUESTIONS and read_notes(tmp_path) == ["other splits"]
    assert read_tests(tmp_path) == {"b": [TESTS[0], TESTS[2]], "a": [TESTS[1]]}
    assert read_responses(tmp_path) == {"p0": "no", "p1": "yes"} and read_holdout(tmp_path) == [TESTS[0]]


def test_data_without_responses_has_none_and_a_damaged_file_is_named(tmp_path):
    write_data(tmp_path, Splits(POOL_QUESTIONS, {}), [], {})
    assert read_responses(tmp_path) is None and read_notes(tmp_path) == [] and read_holdout(tmp_path) == []
    (tmp_path / POOL).write_text('{"uid": ')
    with pytest.raises(ArtefactError, match="pool.jsonl"):
        read_pool(tmp_path)


def test_a_pools_identity_is_its_questions_in_their_order():
    """A run would go on with other questions under the same name."""
    one = questions_hash(POOL_QUESTIONS)
    assert one == questions_hash([Question.from_json(q.to_json()) for q in POOL_QUESTIONS])
    edited = Question(**{**vars(POOL_QUESTIONS[1]), "question": "One line\nand another."})
    assert len({one, questions_hash(POOL_QUESTIONS[::-1]), questions_hash([POOL_QUESTIONS[0], edited])}) == 3
