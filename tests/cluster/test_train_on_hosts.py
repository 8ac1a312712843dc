"""Training on two real hosts, and what breaks in the middle.

What needs no rollout server is shown on fine-tuning (method=lmsi on a stand-in's answers), whose loop ends its steps,
checkpoints and restarts as every method's does. One test of the paper's method is in the ordinary suite; the others
take minutes each: --soak. Times are from the fault to the command's end,
and to the last process gone on either host; they are printed (pytest -rP).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.engine
NOPSD = (sys.executable, "-m", "nopsd")
COMMON = (
    "--preset",
    "lab",
    "train.steps=8",
    "train.batch=4",
    "train.micro=2",
    "train.probe_every=0",
    "train.checkpoint_every=2",
    "dist.heartbeat_s=8",
    "dist.timeout_s=180",
)
SERVED = (
    *COMMON,
    "data.pool_limit=30",
    "select.fraction=0.3",
    "context.m=2",
    "server.kv_cache_mib=64",
    "server.stall_timeout_s=15",
)
RANK, SERVER = "-u -m nopsd train", ("nopsd.cluster.servers.vllm_main", "VLLM::")
OURS = ("-m nopsd", "nopsd.cluster", "deepspeed", "pdsh", "guardian.py", "VLLM::", "vllm_main")
PATIENCE_S = 900


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"PATH": path, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **more}


@dataclass(frozen=True)
class Prepared:
    """A run folder with all that training reads, and its settings."""

    run: Path
    given: tuple[str, ...]

    @property
    def settings(self) -> list[str]:
        return [*self.given, f"run_dir={self.run}"]

    def copied(self, folder: Path) -> Prepared:
        shutil.copytree(self.run, folder / "run")
        return Prepared(folder / "run", self.given)


def prepared(hosts, run: Path, given: tuple[str, ...]) -> Prepared:
    made = Prepared(run, given)
    done = hosts.run("node1", [*NOPSD, "select", *made.settings], PATIENCE_S, environment())
    assert done.returncode == 0, done.stdout[-3000:]
    return made


class Job:
    """`nopsd launch train` on node1, in the background."""

    def __init__(self, hosts, prepared: Prepared, *more: str, env: dict[str, str] | None = None) -> None:
        self.run = prepared.run
        self.log = self.run.parent / f"{self.run.name}.log"
        words = [*NOPSD, "launch", "--hostfile", str(hosts.hostfile), "train", *prepared.settings, *more]
        with open(self.log, "wb") as log:
            env = environment(**(env or {}))
            self.process = hosts.popen("node1", words, env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def steps(self) -> list[dict]:
        file = self.run / "train" / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def losses(self) -> list[float]:
        rows = self.steps()
        assert [row["step"] for row in rows] == list(range(8)), "a step is missing, or there twice"
        return [row["loss"] for row in rows]

    def until_step(self, step: int) -> Job:
        deadline = time.monotonic() + PATIENCE_S
        while not any(row["step"] >= step for row in self.steps()):
            assert self.process.poll() is None, self.printed()[-3000:]
            assert time.monotonic() < deadline, "training did not get so far"
            time.sleep(0.2)
        return self

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> int:
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running: {self.printed()[-3000:]}") from None


def alive(hosts) -> list[tuple[str, int]]:
    return [(name, pid) for name in hosts.names for word in OURS for pid in hosts.pids(name, word)]


def without_orphans(hosts, since: float) -> float:
    """Seconds from `since` to the last process of ours gone."""
    while left := alive(hosts):
        assert time.monotonic() - since < 180, f"orphans: {left}"
        time.sleep(0.1)
    return time.monotonic() - since


@pytest.fixture(scope="module")
def given(two_hosts, tmp_path_factory) -> Prepared:
    """Answers of a stand-in server are fine-tuned on, which takes no server while it trains."""
    command = [sys.executable, str(ROOT / "tests" / "cluster" / "worker_answers.py"), "8764"]
    stand_in = two_hosts.popen("node1", command, environment(), stdout=subprocess.PIPE)
    try:
        assert stand_in.stdout.readline() == b"up\n"
        data = ("method=lmsi", "zero_shot.n=2", "data.pool_limit=16", "server.url=http://127.0.0.1:8764")
        return prepared(two_hosts, tmp_path_factory.mktemp("given") / "run", (*COMMON, *data))
    finally:
        stand_in.kill()
        stand_in.wait()


@pytest.fixture(scope="module")
def served(two_hosts, tmp_path_factory) -> Prepared:
    """The paper's method, which samples from a vLLM server at every step."""
    return prepared(two_hosts, tmp_path_factory.mktemp("served") / "run", SERVED)


def losses_of(hosts, made: Prepared) -> list[float]:
    """Of an undisturbed run on both hosts."""
    job = Job(hosts, made)
    assert job.end() == 0, job.printed()[-3000:]
    return job.losses()


@pytest.fixture(scope="module")
def undisturbed(two_hosts, given, tmp_path_factory) -> list[float]:
    return losses_of(two_hosts, given.copied(tmp_path_factory.mktemp("undisturbed")))


@pytest.fixture(scope="module")
def undisturbed_served(two_hosts, served, tmp_path_factory) -> list[float]:
    return losses_of(two_hosts, served.copied(tmp_path_factory.mktemp("undisturbed")))


def test_the_method_trains_on_two_hosts_and_goes_on_when_one_is_lost(two_hosts, served, tmp_path):
    """Student and teacher sharded over both, weights sent to the server, a checkpoint resharded for the host left."""
    job = Job(two_hosts, served.copied(tmp_path), "--restarts", "1", "--min-nodes", "1").until_step(3)
    two_hosts.cut("node2")
    try:
        assert job.end() == 0, job.printed()[-3000:]
    finally:
        two_hosts.reconnect("node2")
    assert "going on without node2" in job.printed()
    assert all(0 < loss < 10 for loss in job.losses()), "eight steps, each once"
    assert [row["policy_version"] for row in job.steps()] == list(range(8)), (
        "each step samples from the last one's weights"
    )
    without_orphans(two_hosts, time.monotonic())


REQUESTS = """
import json, sys, httpx
given = json.load(open(sys.argv[1]))["environment"]
key = {"Authorization": f"Bearer {given['NOPSD_SERVER_KEY']}"}
for url in given["NOPSD_SERVER_URL"].split(","):
    answer = httpx.get(f"{url}/metrics", headers=key, trust_env=False)
    done = [row for row in answer.text.splitlines() if row.startswith("vllm:request_success_total")]
    print(url, sum(float(row.rsplit(" ", 1)[1]) for row in done))
"""


def test_servers_on_every_host_share_the_rollouts(two_hosts, served, tmp_path, request):
    """rollout.colocate: else one host idles while the other samples, or serves an old policy."""
    job = Job(two_hosts, served.copied(tmp_path), "rollout.colocate=true").until_step(3)
    file = job.run / "launch" / "launch.json"
    asked = two_hosts.run("node1", [sys.executable, "-c", REQUESTS, str(file)], env=environment())
    counts = dict(line.split() for line in asked.stdout.splitlines())
    assert {url.split(":")[1] for url in counts} == {"//10.77.0.1", "//10.77.0.2"}, asked.stdout
    assert all(float(count) >= 3 for count in counts.values()), "a server was passed over"
    assert job.end() == 0, job.printed()[-3000:]
    assert [row["policy_version"] for row in job.steps()] == list(range(8)), "each step samples from the last weights"
    if request.config.getoption("--soak"):
        assert job.losses() == pytest.approx(request.getfixturevalue("undisturbed_served"), rel=1e-6)
    without_orphans(two_hosts, time.monotonic())


@pytest.mark.soak
def test_a_rank_killed_in_training_is_started_again(two_hosts, given, undisturbed, tmp_path):
    """--restarts 1: from the newest checkpoint, by itself, with the losses of a run that nothing befell."""
    job = Job(two_hosts, given.copied(tmp_path), "--restarts", "1").until_step(3)
    began = time.monotonic()
    os.kill(two_hosts.pids("node2", RANK)[0], signal.SIGKILL)
    assert job.end() == 0, job.printed()[-3000:]
    print(f"rank killed: done {time.monotonic() - began:.0f} s later")
    assert "rank 1 on node2 was killed" in job.printed() and "starting again from what is done" in job.printed()
    assert job.losses() == pytest.approx(undisturbed, rel=1e-6)
    without_orphans(two_hosts, time.monotonic())


@pytest.mark.soak
def test_training_goes_on_without_a_lost_host(two_hosts, given, undisturbed, tmp_path):
    """--min-nodes 1: the checkpoint of two ranks is resharded for the one that is left."""
    job = Job(two_hosts, given.copied(tmp_path), "--restarts", "1", "--min-nodes", "1").until_step(3)
    began = time.monotonic()
    two_hosts.cut("node2")
    try:
        assert job.end() == 0, job.printed()[-3000:]
    finally:
        two_hosts.reconnect("node2")
    print(f"host lost: done {time.monotonic() - began:.0f} s later")
    assert "going on without node2" in job.printed()
    assert job.losses() == pytest.approx(undisturbed, rel=1e-4)


def servers_of(hosts, *words: str) -> list[int]:
    """Without their guardians, which name them on their own command lines."""
    guardians = set(hosts.pids("node1", "guardian.py"))
    return [pid for word in words or SERVER for pid in hosts.pids("node1", word) if pid not in guardians]


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["killed", "hung"])
def test_the_only_server_fails_in_training(two_hosts, served, undisturbed_served, tmp_path, fault):
    """The command ends, names host, phase, server and remedy, leaves no process on any host, and can go on."""
    made = served.copied(tmp_path)
    job = Job(two_hosts, made).until_step(3)
    began = time.monotonic()
    for pid in servers_of(two_hosts):
        os.kill(pid, {"killed": signal.SIGKILL, "hung": signal.SIGSTOP}[fault])
    code, ended = job.end(), time.monotonic() - began
    last = without_orphans(two_hosts, began)
    print(f"server {fault}: the command ended after {ended:.1f} s, the last process after {last:.1f} s")
    print(job.printed()[-900:])
    assert code != 0 and "rank 0 on node1 failed (in train" in job.printed()
    assert "no rollout server is left: http://127.0.0.1:" in job.printed() and "run the command again" in job.printed()
    again = Job(two_hosts, made)
    assert again.end() == 0, again.printed()[-3000:]
    assert again.losses() == pytest.approx(undisturbed_served, rel=1e-6)


@pytest.mark.soak
def test_one_of_two_servers_killed_costs_nothing(two_hosts, served, undisturbed_served, tmp_path):
    """Its requests are sent to the other, its weights are no longer pushed, and the losses are the same."""
    job = Job(two_hosts, served.copied(tmp_path), "rollout.servers_per_host=2").until_step(3)
    began = time.monotonic()
    os.kill(servers_of(two_hosts, SERVER[0])[-1], signal.SIGKILL)
    assert job.end() == 0, job.printed()[-3000:]
    print(f"one of two servers killed: done {time.monotonic() - began:.0f} s later")
    assert "is lost" in (job.run / "logs" / "train.log").read_text()
    assert job.losses() == pytest.approx(undisturbed_served, rel=1e-6)


@pytest.mark.soak
def test_a_server_that_somebody_restarts_is_noticed(two_hosts, served, tmp_path):
    """It answers as before, but with the base model's weights: not one sample of it may be trained on."""
    env = {"NOPSD_SERVER_KEY": "a-key-of-somebody"}
    words = [*NOPSD, "serve", *SERVED, f"run_dir={tmp_path / 'serve'}", "server.port=8765"]

    def serve() -> subprocess.Popen:
        up = two_hosts.popen("node1", words, environment(**env), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert b"url" in up.stdout.readline()
        return up

    server = serve()
    # The rank is stopped for as long as a server takes to start, which its watchdog must bear.
    given = ("server.url=http://127.0.0.1:8765", "dist.heartbeat_s=240")
    job = Job(two_hosts, served.copied(tmp_path), *given, env=env).until_step(3)
    os.kill(two_hosts.pids("node1", RANK)[0], signal.SIGSTOP)  # between two requests, or in one: both must be noticed
    server.stdin.close()
    server.wait(60)
    server = serve()
    os.kill(two_hosts.pids("node1", RANK)[0], signal.SIGCONT)
    try:
        began = time.monotonic()
        code = job.end()
        print(f"server restarted: ended {time.monotonic() - began:.1f} s after it\n{job.printed()[-900:]}")
        assert code != 0 and "rank 0 on node1 failed (in train" in job.printed() and "127.0.0.1:8765" in job.printed()
    finally:
        server.stdin.close()
        server.wait(60)


@pytest.mark.soak
def test_a_full_disk_on_one_host(two_hosts, given, undisturbed, tmp_path):
    """A stand-in for a disk that is full: node2's rank may write no file longer than 64 KiB (RLIMIT_FSIZE, set from
    outside), so its part of the next checkpoint fails. The one before stays whole, and the run goes on from it."""
    made = given.copied(tmp_path)
    job = Job(two_hosts, made).until_step(3)
    began = time.monotonic()
    rank = two_hosts.pids("node2", RANK)[0]
    subprocess.run(["prlimit", "--pid", str(rank), "--fsize=65536"], check=True)
    code, ended = job.end(), time.monotonic() - began
    last = without_orphans(two_hosts, began)
    print(f"disk full: the command ended after {ended:.1f} s, the last process after {last:.1f} s")
    print(job.printed()[-900:])
    assert code != 0 and "failed (in train" in job.printed()
    assert "can't be written (rank 1 on node2: " in job.printed()
    assert "is the disk full, or a quota reached? Make room" in job.printed()
    again = Job(two_hosts, made)
    assert again.end() == 0, again.printed()[-3000:]
    assert again.losses() == pytest.approx(undisturbed, rel=1e-6)
