"""Labelled data sets besides the run's own: broken if forgetting can't be shown, or their answers reach the pool."""

import json

import pytest

from nopsd.config import load_config
from nopsd.data.sources import load_splits
from nopsd.data.sources.others import load_retained, load_run_answers, load_run_splits, other_targets
from nopsd.errors import ConfigError, DataError
from nopsd.evaluation.judge import Judge
from nopsd.stages.data import chosen_tests


def write(path, count, **more):
    rows = [{"id": f"q{i}", "question": f"{path.stem} {i}?", **more} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def own(tmp_path):
    return write(tmp_path / "mine.jsonl", 30)


def config_of(own, *targets):
    listed = ",".join(map(str, targets))
    return load_config(
        "lab", ["data.name=file", f"data.path={own}", "data.domain=mine", f"eval.targets=[{listed}]", "eval.n=2"]
    )


def test_a_file_with_answers_is_a_target_whole(tmp_path, own):
    """The run's own questions have none: the pool stays what it is, and a part of it stays held out."""
    other = write(tmp_path / "geo.jsonl", 5, options=["x", "y"], answer="B")
    config = config_of(own, other)
    splits = load_run_splits(config)
    assert (len(splits.pool), len(splits.held), splits.pool) == (27, 3, load_splits(config.data).pool)
    assert chosen_tests(config, splits) == {"geo": splits.tests["geo"]} and len(splits.tests["geo"]) == 5
    assert {q.domain for q in splits.tests["geo"]} == {"geo"}
    key = load_run_answers(config)
    assert {key[q.uid] for q in splits.tests["geo"]} == {"B"}
    Judge(config).check(splits.tests)


def test_a_preset_is_a_target_of_its_domain(own):
    splits = load_run_splits(config_of(own, "lab"))
    assert list(splits.tests) == ["biology"] and len(splits.tests["biology"]) == 250
    assert splits.tests["biology"][0].uid.startswith("biology/")


def test_equal_names_and_ids_stay_apart(tmp_path, own):
    """Broken if two sets' answers are mixed: both files count their rows from q0."""
    (tmp_path / "b").mkdir()
    first = write(tmp_path / "geo.jsonl", 3, options=["x", "y"], answer="A")
    second = write(tmp_path / "b" / "geo.jsonl", 3, options=["x", "y"], answer="B")
    config = config_of(own, first, second)
    splits, key = load_run_splits(config), load_run_answers(config)
    assert list(splits.tests) == ["geo", str(second)]
    assert [{key[q.uid] for q in tests} for tests in splits.tests.values()] == [{"A"}, {"B"}]


def test_domains_of_the_runs_own_are_no_other_data_sets():
    config = load_config("lab", ["eval.targets=[chemistry]"])
    assert other_targets(config) == [] and load_run_splits(config) == load_splits(config.data)


def test_what_cannot_be_judged_is_refused(tmp_path, own):
    unlabelled = write(tmp_path / "none.jsonl", 3)
    config = config_of(own, unlabelled)
    with pytest.raises(DataError, match="none.jsonl: question none/test-q0 has no answer"):
        Judge(config).check(load_run_splits(config).tests)
    config = config_of(own, "chemistri")
    with pytest.raises(ConfigError, match="no test questions for chemistri; there are: none"):
        chosen_tests(config, load_run_splits(config))


def test_a_pool_is_cleaned_of_what_other_targets_ask(tmp_path, own):
    copy = tmp_path / "copy.jsonl"
    copy.write_text(json.dumps({"question": "mine 3?", "options": ["x", "y"], "answer": "A"}) + "\n")
    config = config_of(own, copy)
    config.data.decontaminate, config.data.holdout = True, 0
    assert len(load_run_splits(config).pool) == 29


def retaining(data, *more):
    return load_config("lab", ["train.retain.share=0.25", f"train.retain.data={data}", *more])


def test_questions_from_elsewhere_are_another_domains_pool_or_a_whole_file(tmp_path, monkeypatch):
    """No answer is read, no question of the pool or of another domain's test is among them."""
    monkeypatch.setattr("nopsd.data.sources.load_answer_key", lambda config: pytest.fail("a label was read"))
    config = retaining("chemistry", "train.retain.limit=20")
    found, splits = load_retained(config), load_splits(config.data)
    assert len(found) == 20 and {q.domain for q in found} == {"chemistry"}
    assert all(q.uid.startswith("retain/") for q in found)
    assert not {q.question for q in found} & {q.question for q in [*splits.pool, *splits.tests["chemistry"]]}
    assert found == load_retained(config) != load_retained(retaining("chemistry", "train.retain.limit=20", "seed=1"))
    rows = write(tmp_path / "general.jsonl", 7, options=["x", "y"], answer="B")
    assert len(load_retained(retaining(rows))) == 7, "with answers that nobody reads, no part is split off"
    assert len(load_retained(retaining("lab", "data.domain=physics"))) == 1000


def test_questions_that_are_tested_on_are_not_retained(tmp_path):
    rows = write(tmp_path / "general.jsonl", 7, options=["x", "y"], answer="B")
    with pytest.raises(ConfigError, match="eval.targets too"):
        load_retained(retaining(rows, f"eval.targets=[{rows}]"))
    with pytest.raises(DataError, match="no question that isn't in the pool"):
        load_retained(retaining("biology", "train.retain.share=0.5"))
