"""What the data stage refuses before anything expensive: else the run fails hours later, on its last question."""

from types import SimpleNamespace

import pytest

from nopsd.config import load_config
from nopsd.data.records import Question
from nopsd.data.splits import Splits
from nopsd.errors import ConfigError, DataError
from nopsd.stages.data import check_given_prompts, check_pool, check_prompts, check_windows, chosen_tests

QUESTIONS = [Question(f"q{i}", "d", "s", "?" * (10 + i)) for i in range(6)]
RENDERER = SimpleNamespace(student=lambda question: [0] * len(question.question))  # a token a character


def test_tests_are_those_of_the_targets_and_the_pools_own():
    """The pool's own domain is always tested on: in-domain results are the paper's first column."""
    splits = Splits(QUESTIONS, {"biology": QUESTIONS, "chemistry": QUESTIONS, "physics": QUESTIONS})
    targets = ["data.domain=biology", "eval.targets=[physics]", "eval.limit=2"]
    assert chosen_tests(load_config("lab", targets), splits) == {"biology": QUESTIONS[:2], "physics": QUESTIONS[:2]}
    assert set(chosen_tests(load_config("lab", ["eval.targets=[]", "eval.limit=null"]), splits)) == set(splits.tests)
    with pytest.raises(ConfigError, match="eval.targets: no test questions for law; there are: biology, chemistry"):
        chosen_tests(load_config("lab", ["eval.targets=[law]"]), splits)


def test_a_pool_needs_more_questions_than_demonstrations():
    config = load_config("lab", ["context.m=6"])
    with pytest.raises(DataError, match="6 questions, and context.m=6 demonstrations need at least 7"):
        check_pool(config, QUESTIONS)
    check_pool(load_config("lab", ["context.m=5"]), QUESTIONS)
    check_pool(load_config("lab", ["context.m=6", "context.retriever=none"]), QUESTIONS)  # takes none from the pool


def test_what_selection_asks_for_is_compared_with_the_pool_before_rollouts():
    few = ["context.m=1"]
    for setting, said in (
        ("select.count=7", "select.count=7 of the 6"),
        ("select.fraction=0.1", "fraction=0.1 of the 6"),
    ):
        with pytest.raises(DataError, match=said):
            check_pool(load_config("lab", [*few, setting]), QUESTIONS)
        check_pool(load_config("lab", [*few, setting, "select.selector=all"]), QUESTIONS)
    check_pool(load_config("lab", [*few, "select.count=6"]), QUESTIONS)
    check_pool(load_config("lab", [*few, "method=base"]), QUESTIONS[:2])


def test_lengths_that_cannot_fit_are_named_by_key():
    config = load_config("lab", ["context.max_prompt=900", "train.max_response=200", "server.max_model_len=1000"])
    check_windows(config, SimpleNamespace(window=1100))
    with pytest.raises(ConfigError, match=r"max_prompt=900 \+ train.max_response=200 is more than .* 1099 tokens"):
        check_windows(config, SimpleNamespace(window=1099))
    with pytest.raises(ConfigError, match="server.max_model_len=1000 is over the model's window of 999"):
        check_windows(
            load_config("lab", ["server.max_model_len=1000", "context.max_prompt=100"]), SimpleNamespace(window=999)
        )


def test_the_longest_prompt_is_told_and_one_that_leaves_no_room_named():
    config = load_config("lab", ["server.max_model_len=100"])
    assert check_prompts(config, RENDERER, QUESTIONS, 85, "zero_shot.max_new") == 15
    with pytest.raises(DataError, match="question q5: a prompt of 15 tokens and zero_shot.max_new=86 exceed"):
        check_prompts(config, RENDERER, QUESTIONS, 86, "zero_shot.max_new")
    assert check_given_prompts(RENDERER, QUESTIONS, 16) == 15
    with pytest.raises(DataError, match="question q4: a prompt of 14 tokens leaves no room"):
        check_given_prompts(RENDERER, QUESTIONS, 14)


def test_a_question_too_long_for_any_teacher_prompt_is_named_before_rollouts():
    """It was found once it had been selected, at the training stage."""
    config = load_config("lab", ["context.max_prompt=14"])
    with pytest.raises(DataError, match="question q5: its prompt alone is 15 tokens, over context.max_prompt=14"):
        check_prompts(config, RENDERER, QUESTIONS, 9, "zero_shot.max_new", taught=True)
    assert check_prompts(config, RENDERER, QUESTIONS, 9, "zero_shot.max_new") == 15, "answers alone need no teacher"
