"""nopsd.reporting.compare.reuse: a stage is taken from another run exactly if it would be made the same."""

import os

import pytest

from nopsd.files import write_json
from nopsd.reporting.compare.reuse import reuse_stages
from nopsd.run.folder import RunFolder

STAGES = (("data", ()), ("rollout", ("data",)), ("neurons", ("data", "rollout")))


def made_run(root, seed=0, stages=("data", "rollout", "neurons")):
    run = RunFolder(root)
    for name, reads in STAGES:
        if name in stages:
            made = {"seed": seed, **{f"input.{r}": run.stage_hash(r) for r in reads}}
            write_json(run.begin(name, made) / f"{name}.json", {"of": name, "seed": seed})
            run.commit(name, made)
    return run


def reused_by(run, others, seed=0):
    reads = dict(STAGES)
    return reuse_stages(
        run, others, STAGES, lambda name: {"seed": seed, **{f"input.{r}": run.stage_hash(r) for r in reads[name]}}
    )


def test_equal_stages_are_linked_and_whole(tmp_path):
    """Breaks if rollouts and neuron scores, the dear stages, are made again for every method."""
    source, run = made_run(tmp_path / "a"), RunFolder(tmp_path / "b")
    assert reused_by(run, [source]) == ["data", "rollout", "neurons"]
    assert run.is_current(
        "neurons", {"seed": 0, "input.data": source.stage_hash("data"), "input.rollout": source.stage_hash("rollout")}
    )
    assert os.path.samefile(run.stage_dir("rollout") / "rollout.json", source.stage_dir("rollout") / "rollout.json")
    run.redo("rollout")
    assert (source.stage_dir("rollout") / "rollout.json").exists(), "forgetting one run's stage took the other's"


def test_another_setting_shares_nothing_behind_it(tmp_path):
    """Breaks if a run trains on another seed's rollouts."""
    assert reused_by(RunFolder(tmp_path / "b"), [made_run(tmp_path / "a", seed=1)]) == []


def test_unfinished_and_begun_stages_are_left_alone(tmp_path):
    """Breaks if a stage that is not sealed is shared, or one's own work is replaced."""
    source, run = made_run(tmp_path / "a", stages=("data",)), RunFolder(tmp_path / "b")
    write_json(source.begin("rollout", {"seed": 0, "input.data": source.stage_hash("data")}) / "part.json", {})
    assert reused_by(run, [source]) == ["data"]
    other = RunFolder(tmp_path / "c")
    other.begin("data", {"seed": 0})
    assert reused_by(other, [made_run(tmp_path / "d")]) == []


def test_links_fall_back_to_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source, run = made_run(tmp_path / "a"), RunFolder(tmp_path / "b")
    assert reused_by(run, [source]) == ["data", "rollout", "neurons"]
    assert not os.path.samefile(run.stage_dir("data") / "data.json", source.stage_dir("data") / "data.json")


@pytest.mark.parametrize("same_tests", [True, False])
def test_the_bases_answers_serve_other_sources(tmp_path, same_tests):
    """The base model's answers to the test questions don't depend on the pool: sampled once, judged for each source;
    but never those to other test questions."""
    runs = []
    for name, tests in (("a", "x"), ("b", "x" if same_tests else "y")):
        run = RunFolder(tmp_path / name)
        folder = run.begin("data", {"domain": name})
        (folder / "tests.jsonl").write_text(tests)
        (folder / "pool.jsonl").write_text(f"the pool of {name}")
        run.commit("data", {"domain": name})
        runs.append(run)
    source, run = runs
    made = {"seed": 0, "eval.n": 4}
    (source.begin("evaluate_base", made) / "rollouts.parquet").write_text("answers")
    source.commit("evaluate_base", {**made, "input.data": source.stage_hash("data")})
    assert (
        reuse_stages(
            run, [source], [("evaluate_base", ("data",))], lambda _: {**made, "input.data": run.stage_hash("data")}
        )
        == []
    )
    assert (run.stage_dir("evaluate_base") / "rollouts.parquet").exists() == same_tests
    assert run.manifest("evaluate_base") is None, "it is still to be judged"
