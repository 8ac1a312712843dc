"""What every test may use: the lab's model, the shared data, and real multi-rank runs under DeepSpeed's launcher.

Fixtures: `lab_model_dir`, `shared_data`, `alone`, `unrendered`, `free_port`, `deepspeed_run`, `run_ranks`.
Options: `--soak` selects the long tests too, `--fast` leaves out those marked `engine`. A test that asks for a fixture
which starts ranks, a server or hosts carries that mark by itself; programs and peers that a test needs are asked for by
tests/programs.py.
"""

from __future__ import annotations

import os

# Before torch, transformers or deepspeed is imported anywhere.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from nopsd import network
from nopsd.engine.distributed import Ranks

ROOT = Path(__file__).resolve().parents[1]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what it puts into the background so
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Whoever asks for one of these, directly or through another fixture, starts ranks, a server or hosts.
ENGINE_FIXTURES = frozenset({"deepspeed_run", "run_ranks", "server", "start_group", "two_hosts"})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the tests marked soak too: they take minutes each")
    parser.addoption("--fast", action="store_true", help="leave out the tests marked engine")


# First of all plugins: pytest's own -m then sees the marks that are set here.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if ENGINE_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("engine")
    left_out = set() if config.getoption("--soak") else {"soak"}
    if config.getoption("--fast"):
        left_out |= {"engine", "soak"}
    dropped = [item for item in items if any(item.get_closest_marker(mark) for mark in left_out)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]
    if hasattr(config, "workerinput"):  # a worker of several: the long ones first, the short ones fill the gaps
        items.sort(key=lambda item: item.get_closest_marker("engine") is None)


@pytest.fixture(scope="session")
def lab_model_dir() -> Path:
    """The embedded model's folder. It ships in the package, so its absence is a failure, not a skip."""
    folder = ROOT / "nopsd" / "lab" / "model"
    assert (folder / "config.json").is_file(), f"{folder} has no model: run tools/make_lab.py"
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """../shared/data beside the checkout: real data sets, too large for the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    return folder


@pytest.fixture(scope="session")
def alone() -> Ranks:
    """The one rank of a process that no launcher started."""
    return Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not rendered, which takes most of the time; a test of a page's images does without."""
    from nopsd.reporting.figures import style

    pixel = style.png(style.panels(1, 1.5, 1.5)[0])
    monkeypatch.setattr(style, "png", lambda figure: pixel)


@pytest.fixture
def free_port() -> int:
    return network.free_port()


@dataclass(frozen=True)
class Finished:
    """A run under a launcher that has ended: its exit code and all it printed (stdout and stderr together)."""

    returncode: int
    output: str


def rank_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a launched rank: this checkout and this interpreter first, one thread, no network."""
    env = dict(os.environ)
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    env.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    env.update(extra or {})
    return env


def end_group(leader: int) -> None:
    """Kill what is left of the process group `leader` and of that process's descendants, by id."""
    try:
        descendants = psutil.Process(leader).children(recursive=True)
    except psutil.NoSuchProcess:
        descendants = []
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for process in descendants:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass


def run_to_end(
    command: list[str], timeout: float, env: Mapping[str, str] | None = None, check: bool = True
) -> Finished:
    """Run in a session of its own; kill all of it at `timeout` seconds. Fails the test with the output's tail."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=rank_environment(env),
            start_new_session=True,
        )
        timed_out = False
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            end_group(process.pid)
            process.wait()
        log.seek(0)
        output = log.read()
    if timed_out:
        pytest.fail(f"{' '.join(command)}: not done in {timeout:g} s; killed. Its output ended:\n{output[-6000:]}")
    if check and process.returncode != 0:
        pytest.fail(f"{' '.join(command)}: exit code {process.returncode}. Its output ended:\n{output[-6000:]}")
    return Finished(process.returncode, output)


@pytest.fixture(scope="session")
def deepspeed_run() -> Callable[..., Finished]:
    """`deepspeed_run(script, *args, ranks=2, timeout=240, env=None, check=True)`: a real `deepspeed` launch here.

    `script` is a path, or `module:NAME` for `python -m NAME`. Returns exit code and output; with `check` a
    non-zero exit fails the test. No process outlives the call.
    """

    def run(
        script: str | Path,
        *args: object,
        ranks: int = 2,
        timeout: float = 240.0,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Finished:
        launcher = Path(sys.executable).with_name("deepspeed")
        target = ["--module", str(script)[7:]] if str(script).startswith("module:") else [str(script)]
        command = [sys.executable, str(launcher), "--num_gpus", str(ranks), "--master_addr", "127.0.0.1"]
        command += ["--master_port", str(network.free_port()), *target, *map(str, args)]
        return run_to_end(command, timeout, env, check)

    return run


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., Finished]:
    """`run_ranks(worker, job, *sizes, timeout=400)`: tests/engine/worker_ranks.py, once for each number of ranks.

    `worker` is the script whose `main(ranks, job)` runs, `job` what it is given; the file lies at job["out"], which
    therefore every job has, as job.json. An exit code other than 0 fails the test. No process outlives the call.
    """

    def run(worker: Path, job: Mapping[str, object], *sizes: int, timeout: float = 400.0) -> Finished:
        described = Path(str(job["out"])) / "job.json"
        described.parent.mkdir(parents=True, exist_ok=True)
        described.write_text(json.dumps(job, default=str))
        launcher = ROOT / "tests" / "engine" / "worker_ranks.py"
        command = [sys.executable, "-W", "ignore", launcher, worker, described, *sizes]
        return run_to_end([str(part) for part in command], timeout)

    return run
