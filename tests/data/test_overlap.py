"""What a test shares with the pool is reported for every data set, and left out of the pool where that is asked for."""

import json

import pytest

from nopsd import cli
from nopsd.config import load_config
from nopsd.data.overlap import facts_of, identity, sentences
from nopsd.data.records import Option, Question
from nopsd.data.sources import load_splits
from nopsd.errors import ConfigError
from nopsd.stages.data import check_sampling, longest_response
from tests.data.settings import data

OPTIONS = ["x", "y", "z"]


def written(tmp_path, pool, tests):
    for name, rows in (("pool", pool), ("test", tests)):
        text = "".join(json.dumps({"question": q, "options": o, "answer": "A"}) + "\n" for q, o in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    where = [f"data.path={tmp_path / 'pool.jsonl'}", f"data.test_path={tmp_path / 'test.jsonl'}"]
    return ["data.name=file", "data.domain=mine", *where]


POOL = [("Which  one?", OPTIONS), ("Which one?", ["u", "v"]), ("Other?", OPTIONS), ("other?", OPTIONS[::-1])]
TESTS = [("which one?", ["Z", "x", "y"]), ("Which one?", ["p", "q"]), ("New?", OPTIONS)]


def test_overlap_is_by_text_and_by_options_in_any_order(tmp_path):
    settings = written(tmp_path, POOL, TESTS)
    splits = load_splits(data(*settings))
    facts = facts_of(splits)
    assert facts == {"overlap": {"mine": {"tests": 3, "items": 1, "stems": 2}}, "repeated": 1}
    assert sentences(facts) == [
        "2 of 3 test questions of mine stand in the pool by their text, 1 of them with the same options "
        "(data.decontaminate=true leaves them out of the pool).",
        "1 questions of the pool are asked twice.",
    ]
    clean = load_splits(data(*settings, "data.decontaminate=true"))
    assert [q.question for q in clean.pool] == ["Other?", "other?"] and clean.tests == splits.tests
    assert sentences(facts_of(clean))[0].startswith("1 questions of the pool")


def test_the_labs_test_is_no_part_of_its_pool():
    assert not any(found["items"] for found in facts_of(load_splits(data()))["overlap"].values())


def test_demonstrations_are_told_apart_by_options_in_any_order():
    """A question must not be shown as its own demonstration because its options were shuffled."""

    def asked(*texts):
        return Question("q", "d", "s", "Which?", tuple(Option(label, text) for label, text in zip("ABC", texts)))

    assert identity(asked("x", "y")) == identity(asked("y", "X")) != identity(asked("x", "z"))


def test_questions_are_shown_as_they_are_asked_and_judged(tmp_path, capsys):
    """Before a GPU is rented; nothing is written."""
    settings = [*written(tmp_path, POOL, TESTS), f"run_dir={tmp_path / 'run'}"]
    assert cli.main(["data", "--preset", "lab", "--show", "3", *settings]) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 questions in the pool; to test on: 3 of mine")
    assert said.count("\nquestion ") == 3 and "<|im_start|>user" in said and "A: x" in said
    assert "judged right: <answer>A</answer> (x)" in said and "NOTE: 2 of 3 test questions of mine" in said
    assert not (tmp_path / "run").exists()


def test_questions_without_answers_are_shown_without(tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"question": f"Q{i}?"}) + "\n" for i in range(5)))
    settings = ["data.name=file", "data.domain=mine", f"data.path={tmp_path / 'q.jsonl'}", "run_dir=/nowhere/x"]
    assert cli.main(["data", "--preset", "lab", "--show", "2", *settings]) == 0
    said = capsys.readouterr().out
    assert said.count("judged right: nothing, it has no answer") == 2 and "Q0?" in said and "Q4?" in said


def test_what_depends_on_the_data_is_checked_before_anything_is_sampled():
    """Greedy sampling of several responses, or prompts without room for training, ended a run at its seventh stage."""
    config = load_config("lab", ["zero_shot.temperature=0", "zero_shot.n=2"])
    with pytest.raises(ConfigError, match="zero_shot.temperature=0 gives one response"):
        check_sampling(config, tested=False, given=False)
    check_sampling(config, tested=False, given=True)
    greedy = load_config("lab", ["eval.temperature=0"])
    check_sampling(greedy, tested=False, given=False)
    with pytest.raises(ConfigError, match="eval.temperature=0"):
        check_sampling(greedy, tested=True, given=False)
    longer = load_config("lab", ["zero_shot.max_new=32", "train.max_response=64"])
    assert longest_response(longer) == (64, "train.max_response")
    assert longest_response(load_config("lab", ["method=base"]))[1] == "zero_shot.max_new"
    for setting in ("train.max_response=5", "distill.max_loss_tokens=5"):
        with pytest.raises(ConfigError, match="distill.skip_first_tokens=5 leaves no token with loss"):
            load_config("lab", ["distill.skip_first_tokens=5", setting])
