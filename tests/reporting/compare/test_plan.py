"""nopsd.reporting.compare.plan: what is asked for is typed, and refused by name where it can't be meant."""

import pytest

from nopsd.errors import ConfigError
from nopsd.reporting.compare.plan import (
    as_tree,
    base_of,
    base_paths,
    base_seed,
    members,
    read_plan,
    read_plan_file,
    target_config,
    trained,
    with_flags,
)


def test_runs_follow_from_the_plan(plan_of):
    """Breaks if a run gets another method, source, seed, folder or setting than its row says."""
    plan = plan_of(set={"train.steps": 7}, sources={"biology": {}, "chemistry": {"set": {"train.lr": 5e-5}}})
    runs = {(m.label, m.source, m.seed): m.config for m in members(plan)}
    assert len(runs) == 2 * 2 * 2 and len({c.run_dir for c in runs.values()}) == 8
    config = runs["top", "chemistry", 1]
    assert (config.method, config.data.domain, config.seed) == ("nopsd", "chemistry", 1)
    assert (config.select.selector, config.train.steps, config.train.lr) == ("neuron_count_top", 7, 5e-5)
    assert runs["nopsd", "biology", 0].select.selector == "neuron_count"
    assert runs["nopsd", "biology", 0].train.lr == 1e-4  # the preset's


def test_a_seed_may_vary_training_alone(plan_of):
    runs = members(plan_of(vary="train.seed"))
    assert {(m.config.seed, m.config.train.seed) for m in runs} == {(0, 0), (0, 1)}


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_seeds_of_training_are_different_trainings_whatever_seed_is(plan_of, seed):
    """Breaks if training takes seed 0 for unset and falls back on `seed`: one training would be made twice."""
    runs = members(plan_of(vary="train.seed", seeds=[0, 1], set={"seed": seed}))
    assert {(m.seed, m.config.train.seed, m.config.seed) for m in runs} == {(0, 0, seed), (1, 1, seed)}
    varied = {m.config.train.seed for m in members(plan_of(seeds=[0, 1]))}
    assert varied == {0, 1}, "with `vary: seed` training follows"


def test_a_checkpoint_of_one_of_several_models_says_which(plan_of):
    """Breaks if a given checkpoint is compared with another model than the one that it was trained from."""
    sizes = {"nopsd": {}, "big": {"method": "nopsd", "set": {"model.path": "/models/big"}}}
    plan = plan_of(methods=sizes, also={"x": {"path": "p"}, "y": {"path": "p", "base": "/models/big"}})
    runs = members(plan)
    assert base_paths(runs) == ["lab", "/models/big"] and base_of(plan.also["y"], "y", runs) == "/models/big"
    with pytest.raises(ConfigError, match=r"also.x: the runs have the models lab, /models/big: give its `base`"):
        base_of(plan.also["x"], "x", runs)


def test_a_row_may_have_fewer_seeds_than_the_plan(plan_of):
    """Breaks if a costly row is run with every seed, or a part of the plan is refused for a row that it leaves out."""
    rows = {"nopsd": {}, "ttrl": {"seeds": [0]}}
    runs = [(m.label, m.seed) for m in members(plan_of(methods=rows, sources=["biology"], seeds=[0, 1]))]
    assert runs == [("nopsd", 0), ("ttrl", 0), ("nopsd", 1)]
    assert {m.label for m in members(plan_of(methods=rows, seeds=[1]))} == {"nopsd"}
    with pytest.raises(ConfigError, match=r"seeds \[1\]: none of the rows has one of them"):
        plan_of(methods={"ttrl": {"seeds": [0]}}, seeds=[1])


def test_the_base_is_evaluated_once_where_training_alone_varies(plan_of):
    """Breaks if every seed of training samples the same answers of the base again."""
    varied = [base_seed(plan_of(vary=vary, seeds=[3, 4]), 4) for vary in ("seed", "train.seed")]
    assert varied == [4, 3]


def test_base_is_a_row_and_no_run(plan_of):
    """Breaks if the base model is evaluated once more for a row that every run's own first evaluation gives."""
    plan = plan_of(methods=["base", "nopsd"])
    assert trained(plan) == ["nopsd"] and {m.label for m in members(plan)} == {"nopsd"}
    assert {m.config.method for m in members(plan_of(methods=["base"]))} == {"base"}


@pytest.mark.parametrize(
    "keys, named",
    [
        ({"sorces": ["biology"]}, "sorces"),
        ({"methods": {"x": {"methd": "nopsd"}}}, "methd"),
        ({"methods": ["nopds"]}, "nopds"),
        ({"methods": {"mine": {}}}, "mine"),
        ({"seeds": [0, 0]}, "seeds"),
        ({"seeds": ["a"]}, "seeds"),
        ({"vary": "data.seed"}, "vary=data.seed"),
        ({"entropy": "renyi"}, "entropy=renyi"),
        ({"sources": []}, "sources"),
        ({"also": {"x": {"path": "p", "source": "physics"}}}, "physics"),
        ({"also": {"x": {}}}, "path"),
        ({"also": {"nopsd": {"path": "p"}}}, "nopsd"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(plan_of, keys, named):
    """Breaks if a mistyped key is silently ignored: the comparison would be of something else."""
    with pytest.raises(ConfigError, match=named):
        plan_of(**keys)


def test_a_runs_own_key_is_refused_with_its_place(plan_of):
    with pytest.raises(ConfigError, match=r"methods.nopsd, sources.biology: .*train.stepz.*train.steps"):
        members(plan_of(methods={"nopsd": {"set": {"train.stepz": 1}}}))


def test_flags_make_the_same_plan(tmp_path):
    flags = {"preset": "lab", "sources": ["biology"], "methods": ["nopsd"], "seeds": [0], "folder": None}
    tree = as_tree(flags, ["mine=/a/b", "nopsd@biology=/c"], ["train.steps=3", "eval.targets=[chemistry]"])
    plan = read_plan(tree, "flags")
    assert (plan.also["mine"].path, plan.also["mine"].source) == ("/a/b", "")
    assert (plan.also["nopsd@biology"].method, plan.also["nopsd@biology"].source) == ("nopsd", "biology")
    config = members(plan)[0].config
    assert config.train.steps == 3 and config.eval.targets == ["chemistry"]
    assert target_config(plan, "biology", "/m", 4).model.path == "/m"
    with pytest.raises(ConfigError, match="NAME=value"):
        as_tree(flags, ["mine"], [])


def test_flags_win_over_the_file():
    file = {"seeds": [0], "set": {"a": 1, "b": 1}, "methods": ["nopsd"]}
    assert with_flags(file, {"seeds": [1], "set": {"b": 2}}) == {
        "seeds": [1],
        "set": {"a": 1, "b": 2},
        "methods": ["nopsd"],
    }


def test_a_row_that_a_flag_names_keeps_the_files_settings():
    """Breaks if `--plan FILE --methods ttrl` trains another ttrl than the file's."""
    file = {
        "sources": {"biology": {"set": {"a": 1}}, "physics": {}},
        "methods": {"ttrl": {"set": {"train.batch": 2}}, "random": {"method": "nopsd"}, "nopsd": None},
    }
    both = with_flags(file, {"methods": ["ttrl", "lmsi"], "sources": ["biology"]})
    assert both["methods"] == {"ttrl": {"set": {"train.batch": 2}}, "lmsi": None}
    assert both["sources"] == {"biology": {"set": {"a": 1}}}
    assert with_flags({"methods": ["nopsd"]}, {"methods": ["nopsd"]})["methods"] == {"nopsd": None}
    plan = read_plan({**both, "methods": {**both["methods"], "random": file["methods"]["random"]}}, "a plan")
    assert plan.methods["ttrl"].set == {"train.batch": 2} and plan.methods["lmsi"].set == {}
    assert plan.methods["random"].method == "nopsd"


def test_text_of_a_plan_stays_text_and_numbers_are_read_by_their_keys(tmp_path, monkeypatch):
    """A domain named `no` was False, and `~` a folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "plan.yaml"
    file.write_text(
        "preset: lab\nfolder: ~/out\nseeds: [0, 1]\nsources: [no]\n"
        "methods: {nopsd: {set: {train.lr: 1e-5, eval.limit: null}}}\n"
        "set: {data.name: file, data.types: [no, 0123], data.path: q.jsonl}\ndiagnostics: false\n"
    )
    plan = read_plan(read_plan_file(file), "plan")
    config = members(plan)[0].config
    assert (plan.folder, plan.seeds, plan.diagnostics) == (str(tmp_path / "out"), [0, 1], False)
    assert (config.data.domain, config.data.types, config.train.lr) == ("no", ["no", "0123"], 1e-5)
