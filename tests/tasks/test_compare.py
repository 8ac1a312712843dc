"""nopsd.tasks.compare: the loop over runs, with fakes; and once for real (soak)."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from nopsd.errors import ServerError, UserError
from nopsd.reporting.compare import report
from nopsd.reporting.compare.gathering import base_folder
from nopsd.reporting.compare.plan import members
from nopsd.run.folder import RunFolder
from nopsd.tasks import compare as comparing
from nopsd.tasks.compare import Eta, run_plan
from tests.reporting.compare.conftest import finish, judge


@pytest.fixture
def without_engines(monkeypatch):
    """Runs are finished by hand in place of stages; returns what was run."""
    ran = []

    def fake(member, runs, servers):
        if (member.label, member.source) == ("top", "chemistry") and "broken" not in ran:
            ran.append("broken")
            raise ServerError("the server is gone")
        ran.append(member.name)
        finish(member)
        return True

    monkeypatch.setattr(comparing, "run_member", fake)
    monkeypatch.setattr(comparing, "extra_evaluations", lambda *_: [])
    monkeypatch.setattr(report, "write_table", lambda folder, table: None)
    monkeypatch.setattr(report, "FIGURES", {})
    return ran


def test_a_broken_run_is_named_and_the_others_go_on(plan_of, without_engines, capsys):
    """Breaks if one failed run of a night's comparison loses the others, or is not told of at the end."""
    plan = plan_of(seeds=[0])
    assert run_plan(plan) == 1
    said = capsys.readouterr().out
    assert "run 1 of 4: nopsd, biology, seed 0" in said and "FAILED: top, chemistry, seed 0: the server is gone" in said
    assert "top: no run on chemistry" in said
    assert run_plan(plan) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_the_estimate_goes_by_this_starts_runs():
    eta = Eta(4)
    assert eta.text() == "run 1 of 4"
    eta.done = 1  # finished before: no time of its own
    assert eta.text() == "run 2 of 4"
    eta.add(60.0)
    eta.done = 2
    assert eta.text() == "run 3 of 4 (1 min 00 s a run, about 2 min 00 s left)"


def nopsd(*arguments, wait=True, log=None):
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nopsd", *arguments]
    if wait:
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=1800, check=False)
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)


SMALL = (
    "data.pool_limit=30",
    "eval.limit=6",
    "eval.n=4",
    "eval.bootstrap=50",
    "train.steps=2",
    "train.batch=4",
    "train.micro=2",
    "train.probe_every=0",
    "select.fraction=0.3",
    "context.m=2",
    "server.kv_cache_mib=128",
    "dist.ranks=1",
)


@pytest.mark.engine
@pytest.mark.soak
def test_a_real_comparison_killed_and_resumed(tmp_path):
    """Two rows on the real engines, ended by SIGKILL after the first run, continued by the same command."""
    rows = {"nopsd": {}, "randctx": {"method": "nopsd", "set": {"context.retriever": "random"}}}
    plan = {"preset": "lab", "folder": str(tmp_path / "out"), "sources": ["biology"], "methods": rows}
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    command = ("compare", "--plan", str(tmp_path / "plan.yaml"), *SMALL)
    first = tmp_path / "out" / "runs" / "nopsd-biology-0"
    with open(tmp_path / "log", "w") as log:
        process = nopsd(*command, wait=False, log=log)
        while process.poll() is None and not (first / "evaluate" / "manifest.json").exists():
            time.sleep(1)
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = nopsd(*command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "shared with another run: data, rollout, evaluate_base, neurons, signals" in done.stdout
    for name in ("table2", "table3", "table5", "table6", "table7"):
        assert (tmp_path / "out" / "tables" / f"{name}.tex").exists(), name
    again = nopsd(*command)
    assert again.returncode == 0 and again.stdout.count("finished before") == 2
    assert "[1/" not in again.stdout.replace("[1/1]", ""), "a stage was looked at again"


def test_a_source_without_labels_is_compared_on_targets(plan_of, monkeypatch, tmp_path):
    """Broken if own unlabelled questions can't be compared, or if nothing tells that there is nothing to judge."""
    (tmp_path / "mine.jsonl").write_text("".join(f'{{"question": "What is {i}?"}}\n' for i in range(30)))
    own = {"set": {"data.name": "file", "data.path": str(tmp_path / "mine.jsonl")}}
    bare = plan_of(sources={"mine": own}, seeds=[0], methods={"nopsd": {}})
    with pytest.raises(UserError, match="name a labelled data set in targets"):
        comparing.check_before(bare, members(bare))
    plan = plan_of(sources={"mine": own}, targets={"physics": {}}, seeds=[0], methods={"nopsd": {}})
    monkeypatch.setattr(comparing, "run_member", lambda member, runs, servers: finish(member, targets=()) or True)
    monkeypatch.setattr(comparing, "extra_evaluations", lambda plan, runs, servers: [("targets", lambda: judged(plan))])
    monkeypatch.setattr(report, "write_table", lambda folder, table: None)
    monkeypatch.setattr(report, "FIGURES", {})

    def judged(plan):
        (member,) = members(plan)
        base = base_folder(plan, member.config.model.path)
        for run, skill in ((base, 0.4), (RunFolder(f"{member.config.run_dir}/targets"), 0.7)):
            run.begin("physics-0", {"model": "1"})
            judge(run.stage_dir("physics-0"), "model", {"physics": skill}, 0, member.config)
            run.commit("physics-0", {"model": "1"})

    tables, failed = comparing.run_all(plan)
    assert not failed
    cross = next(t for t in tables if t.name == "table3").rows[2]
    assert cross[1] == "cross" and cross[2].value == 68.75 and cross[2].delta > 30
