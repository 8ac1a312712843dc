"""Runs of a comparison side by side: if these fail, runs share devices, or one failure or Ctrl-C loses the others."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import yaml
from omegaconf import OmegaConf

from nopsd.errors import ConfigError, Stopped
from nopsd.files import read_json
from nopsd.reporting.compare.plan import members, read_plan, read_plan_file
from nopsd.tasks import compare_parallel as parallel
from nopsd.tasks.compare_parallel import Share, Task, Workers, outcome, refuse_shared, shares_of
from nopsd.tasks.compare_stages import unmade
from tests.reporting.compare.conftest import finish
from tests.tasks.test_compare import SMALL, nopsd


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Workers of this folder are `worker_fake`'s."""
    monkeypatch.setattr(parallel, "MODULE", "tests.tasks.worker_fake")
    return tmp_path


def task(name, does="works"):
    return Task(name, {"member": [name, does]})


def children():
    """This process's, by id; another test may have left one, as multiprocessing's resource tracker."""
    return {child.pid for child in psutil.Process().children()}


def work_off(root, tasks, shares):
    """The answers by name; no process is left."""
    found, before = {}, children()
    with Workers(root, shares) as workers:
        workers.work_off(tasks, lambda task, answer, seconds: found.update({task.name: answer}))
    assert children() <= before
    return found


def facts(root, name):
    return read_json(root / f"{name}.json")


def test_each_worker_has_its_own_devices_and_two_run_at_a_time(root):
    """Broken if two runs compute on one device, if they wait for each other, or if this process stays on its part."""
    cores = os.sched_getaffinity(0)
    shares = [Share((), (min(cores),)), Share((), (max(cores),))]
    assert work_off(root, [task("a"), task("b"), task("c")], shares) == dict.fromkeys("abc", {"worked": True})
    a, b, c = (facts(root, name) for name in "abc")
    assert (a["cores"], b["cores"]) == ([min(cores)], [max(cores)]) and a["pid"] != b["pid"]
    assert b["began"] < a["ended"], "one after the other"
    assert c["pid"] in (a["pid"], b["pid"]), "a worker, and its servers, weren't kept"
    assert os.sched_getaffinity(0) == cores
    assert work_off(root, [task("g")], [Share((2, 3), ())]) and facts(root, "g")["gpus"] == "2,3"
    assert facts(root, "g")["cores"] == sorted(cores)


def test_a_failure_and_a_process_that_dies_lose_no_other_run(root):
    tasks = [task("dead", "dies"), task("wrong", "fails"), task("a"), task("b"), task("c")]
    found = work_off(root, tasks, [Share((), ()), Share((), ())])
    assert "exit code 9" in found["dead"]["failed"] and "out of memory" in found["dead"]["failed"]
    assert found["wrong"] == {"failed": "no such model"} and (root / "wrong.servers-ended").exists()
    assert [found[name] for name in "abc"] == [{"worked": True}] * 3
    assert (
        outcome(found["wrong"], 1.0) == "FAILED: no such model" and outcome({"worked": False}, 0) == "finished before"
    )


def test_a_run_waits_for_stages_that_another_is_making(root, capsys):
    """Broken if the pool is answered and scored once for every run in place of once."""
    made = set()

    class Sharing(Task):
        def unmade(self):
            return {"rollout"} - made

    first, second = (Sharing(name, {"member": [name, "works"]}) for name in ("first", "second"))
    with Workers(root, [Share((), ()), Share((), ())]) as workers:
        done = lambda task, answer, seconds: made.update({"rollout"} if task is first else ())  # noqa: E731
        workers.work_off([first, second, task("other")], done)
    assert facts(root, "second")["began"] > facts(root, "first")["ended"]
    begun = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("=== ")]
    assert begun == ["first:", "other:", "second:"]


def test_what_is_shared_is_what_two_runs_would_make_alike(plan_of):
    """Broken if runs of one source and seed begin together, or runs of different ones wait for each other."""
    plan = plan_of(seeds=[0])
    by = {(m.label, m.source): m for m in members(plan)}
    nopsd, top, chemistry = by["nopsd", "biology"], by["top", "biology"], by["nopsd", "chemistry"]
    assert unmade(nopsd) & unmade(top) and not unmade(nopsd) & unmade(chemistry)
    before = unmade(nopsd)
    finish(nopsd)  # without data, neurons, signals and select
    assert len(unmade(nopsd)) == len(before) - 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_every_run_in_an_orderly_way(root, number):
    """Broken if servers of a comparison live on after Ctrl-C, or SIGTERM starts new runs."""
    before, tasks = children(), [task("a", "hangs"), task("b", "hangs"), task("quick"), task("last")]
    ended = KeyboardInterrupt if number == signal.SIGINT else Stopped

    def interrupt(*_):
        while not (root / "a.hangs").exists() or not (root / "b.hangs").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    with pytest.raises(ended), Workers(root, [Share((), ())] * 3) as workers:
        workers.work_off([tasks[2], *tasks[:2], tasks[3]], interrupt)
    assert (root / "a.ended").exists() and (root / "b.ended").exists()
    assert children() <= before
    assert number == signal.SIGINT or not (root / "last.json").exists()


def test_workers_end_with_a_command_that_is_killed(root):
    program = (
        "import sys; from pathlib import Path; from nopsd.tasks import compare_parallel as p\n"
        "p.MODULE = 'tests.tasks.worker_fake'\n"
        "with p.Workers(Path(sys.argv[1]), [p.Share((), ())]) as workers:\n"
        "    workers.work_off([p.Task('a', {'member': ['a', 'hangs']})], print)"
    )
    command = subprocess.Popen([sys.executable, "-c", program, str(root)])
    while not (root / "a.hangs").exists():
        assert command.poll() is None
        time.sleep(0.05)
    worker = psutil.Process(facts(root, "a")["pid"])
    command.kill()
    command.wait()
    worker.wait(10)


def test_shares_are_equal_and_too_many_are_refused(monkeypatch):
    monkeypatch.setattr(parallel, "visible_gpus", lambda: [1, 2, 4, 5, 7])
    assert [str(share) for share in shares_of(2)] == ["GPUs 1, 2", "GPUs 4, 5"]
    with pytest.raises(ConfigError, match=r"may use 5 GPUs: set parallel=5 or less"):
        shares_of(6)
    monkeypatch.setattr(parallel, "visible_gpus", list)
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda pid: {3, 0, 2})
    assert [str(share) for share in shares_of(3)] == ["core 0", "core 2", "core 3"]


@pytest.mark.parametrize(
    "key, value", [("server.port", 8000), ("rollout.urls", ["http://a:1"]), ("dist.hostfile", "h")]
)
def test_runs_that_would_share_a_server_a_port_or_hosts_are_refused(plan_of, key, value):
    runs = members(plan_of(seeds=[0]))
    section, name = key.split(".")
    changed = replace(getattr(runs[0].config, section), **{name: value})
    runs[0] = replace(runs[0], config=replace(runs[0].config, **{section: changed}))
    refuse_shared(1, runs)
    with pytest.raises(ConfigError, match=f"parallel=2 and {key}="):
        refuse_shared(2, runs)


def test_workers_read_the_plan_that_the_command_has(plan_of, tmp_path):
    """Broken if a worker's runs differ from the command's, by a list, a number or a null in the plan's file."""
    settings = {"train.steps": 3, "train.betas": [0.9, 0.95], "train.epochs": None, "eval.targets": ["physics"]}
    plan = plan_of(parallel=2, set=settings, methods={"mine": {"method": "nopsd", "set": {"train.packing": False}}})
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(OmegaConf.to_container(OmegaConf.structured(plan))))
    assert members(read_plan(read_plan_file(file), "file")) == members(plan)


@pytest.mark.engine
@pytest.mark.soak
def test_two_real_runs_side_by_side_equal_one_after_the_other(tmp_path):
    """Two sources on the real engines: interrupted in training, continued, and equal to the runs of one at a time."""

    def command(folder, *more):
        plan = ("--preset", "lab", "--folder", str(tmp_path / folder), "--sources", "biology,chemistry")
        return ("compare", *plan, "--methods", "nopsd", "--no-diagnostics", *more, *SMALL)

    folders = [tmp_path / "beside" / "runs" / f"nopsd-{source}-0" for source in ("biology", "chemistry")]
    with open(tmp_path / "log", "w") as log:
        process = nopsd(*command("beside", "--parallel", "2"), wait=False, log=log)
        while process.poll() is None and not (folders[0] / "select" / "manifest.json").exists():
            time.sleep(0.2)
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    assert not [p for p in below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    done = nopsd(*command("beside", "--parallel", "2"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (folders[1] / "train" / "manifest.json").exists()
    alone = nopsd(*command("alone"))
    assert alone.returncode == 0, alone.stdout[-3000:] + alone.stderr[-3000:]
    for folder in folders:
        other = tmp_path / "alone" / "runs" / folder.name
        losses = [
            [row["loss"] for row in map(json.loads, open(f / "train" / "metrics.jsonl"))] for f in (folder, other)
        ]
        assert losses[0] == losses[1] and len(losses[0]) == 2
        assert read_json(folder / "select" / "selected.json") == read_json(other / "select" / "selected.json")
        assert read_json(folder / "evaluate" / "metrics.json") == read_json(other / "evaluate" / "metrics.json")
