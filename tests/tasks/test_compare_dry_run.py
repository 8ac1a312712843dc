"""`nopsd compare --dry-run`: a plan that can't work, or costs weeks, must be known before the first GPU is rented."""

import re

import pytest
import yaml

from nopsd.cli import main
from nopsd.errors import ConfigError
from nopsd.reporting.compare.plan import members, read_plan, read_plan_file
from nopsd.reporting.compare.shipped import PLANS, plan_names, plan_path, split_settings, with_row_settings


def shipped(name, **changed):
    return read_plan({**read_plan_file(plan_path(name)), **changed}, name)


def rows(text):
    found = re.findall(r"^(\S[\w ]+?) +(\d+) +\S+ M +(\S+)", text, re.M)
    return {stage: (int(made), float(hours)) for stage, made, hours in found}


def test_the_papers_plan_is_six_by_six_with_every_row_and_passes_with_its_cost(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--plan", "paper", "--dry-run", "edu_feedback:eval.limit=100"]) == 0
    said = capsys.readouterr().out
    assert "36 runs (6 methods x 6 sources" in said and "evaluated on 6 targets" in said
    assert "0 errors" in said and "Edu-Feedback is on no hub" in said and not list(tmp_path.iterdir())
    found = rows(said)
    # one set of answers for all methods but lmsi, which samples eight at another temperature
    assert found["rollout"][0] == found["evaluate_base"][0] == 12
    assert (found["neurons"][0], found["train"][0], found["evaluate"][0]) == (6, 36, 36)
    whole = found.pop("all")
    assert whole[1] == pytest.approx(sum(hours for _, hours in found.values()), abs=0.05) and whole[1] > 100


def test_a_row_costs_what_it_trains_by(capsys):
    """An sft row has no server and no teacher to pay, a grpo row no teacher."""
    hours = {}
    for method in ("nopsd", "ttrl", "lmsi"):
        more = ["train.epochs=null", "train.steps=1000", *(["train.n=4", "train.batch=4"] if method == "ttrl" else [])]
        arguments = ["--plan", "paper", "--sources", "Biology", "--methods", method, "--no-diagnostics", "--dry-run"]
        assert main(["compare", *arguments, *more]) == 0
        hours[method] = rows(capsys.readouterr().out)["train"][1]
    assert hours["nopsd"] > hours["ttrl"] > hours["lmsi"]


@pytest.mark.parametrize("name", plan_names())
def test_every_shipped_plan_gives_valid_runs(name):
    plan = shipped(name)
    runs = members(plan)
    assert len({run.config.run_dir for run in runs}) == len(runs) == len(plan.methods) * len(plan.sources)
    assert yaml.safe_load((PLANS / f"{name}.yaml").read_text())["folder"] == f"runs/{name}"


def test_the_ablations_change_one_thing_each():
    plan = shipped("ablations")
    changed = [next(iter(method.set)) for label, method in plan.methods.items() if label != "nopsd"]
    assert all(len(method.set) == 1 for label, method in plan.methods.items() if label != "nopsd")
    wanted = {"neuron.layers", "neuron.k", "neuron.per_layer", "context.m", "select.fraction", "neuron.count_mode"}
    assert set(changed) == wanted


def test_what_the_user_has_to_bring_is_named_and_no_error(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--plan", "transfer", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "data: instructions.jsonl" in said and "signal.reference: examples/physics.jsonl" in said
    assert "8 of 8 runs are left out of the cost" in said


def test_a_run_that_cannot_be_is_an_error_with_its_name():
    with pytest.raises(ConfigError, match="methods.k, sources.Biology.*neuron.layers=9-1"):
        members(shipped("ablations", methods={"k": {"method": "nopsd", "set": {"neuron.layers": "9-1"}}}))


def test_settings_of_one_row():
    plain, scoped = split_settings(["train.lr=1", "edu:data.path=a=b", "data.path=C:x=1"])
    assert (plain, scoped) == (["train.lr=1", "data.path=C:x=1"], [("edu", "data.path", "a=b")])
    tree = {"sources": ["bio", "edu"], "methods": {"edu": None}}
    made = with_row_settings(tree, scoped)
    assert made["sources"] == {"bio": {}, "edu": {"set": {"data.path": "a=b"}}}
    assert made["methods"] == {"edu": {"set": {"data.path": "a=b"}}}
    with pytest.raises(ConfigError, match="nobody is no row of the plan; there are bio, edu, edu"):
        with_row_settings(tree, [("nobody", "train.lr", "1")])
