"""On two real hosts (network namespaces, sshd): `deepspeed --hostfile` by `nopsd launch`, and what a failure does.

Times are from the fault to the last process gone, on both hosts; they are printed (pytest -rP shows them).
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nopsd.files import read_json
from nopsd.lab.world import DOMAIN_BY_NAME, make_split
from tests.command import SMALL
from tests.programs import require_program

ROOT = Path(__file__).resolve().parents[2]
HEARTBEAT_S = 3.0
NOPSD = (sys.executable, "-m", "nopsd")


def load_hosts():
    return sys.modules["hosts"]  # loaded by the fixture


def environment(**more):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {"PATH": path, "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **more}


def given_answers(folder: Path, count: int) -> list[str]:
    """Instruction data, so that no rollout server is needed, and the command's configuration for it."""
    questions = make_split(DOMAIN_BY_NAME["chemistry"], "pool").questions[:count]
    rows = [{"instruction": q.question, "output": f"It is at {q.uid}, {'by one ' * 5}then."} for q in questions]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "--preset",
        "lab",
        "data.name=instructions",
        f"data.path={folder / 'rows.jsonl'}",
        "select.fraction=0.25",
        "select.ties=exact",
        "context.m=2",
        f"run_dir={folder / 'run'}",
        f"dist.heartbeat_s={HEARTBEAT_S}",
    ]


def test_the_hosts_are_separate(two_hosts):
    """If this fails, none of the tests here shows anything about several hosts."""
    printed = two_hosts.run("node1", ["pdsh", "-R", "ssh", "-S", "-w", "node1,node2", "hostname; hostname -I; echo $$"])
    assert printed.returncode == 0
    assert {line for line in printed.stdout.splitlines() if "10.77" in line} == {
        "node1: 10.77.0.1 ",
        "node2: 10.77.0.2 ",
    }
    own = [f"/proc/{two_hosts.inner(name)}/ns/{kind}" for name in two_hosts.names for kind in ("net", "pid")]
    assert len({os.stat(path).st_ino for path in own}) == 4


@pytest.mark.slow
def test_a_stage_runs_on_two_hosts(two_hosts, tmp_path, monkeypatch):
    """`nopsd launch` prints DeepSpeed's command, and its ranks run on both hosts; if this fails, nobody can use two. It
    is started in a folder with a `random.py` of the user's, which would stand in for Python's own on every host."""
    config = given_answers(tmp_path, 12)
    (tmp_path / "work").mkdir()
    for name in ("random.py", "torch.py", "yaml.py"):
        (tmp_path / "work" / name).write_text(f"raise SystemExit('the wrong {name}')")
    monkeypatch.chdir(tmp_path / "work")
    done = two_hosts.run(
        "node1", [*NOPSD, "launch", "--hostfile", str(two_hosts.hostfile), "neurons", *config], 300, environment()
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"deepspeed --hostfile {two_hosts.hostfile} --launcher pdsh" in done.stdout
    made = read_json(tmp_path / "run" / "neurons" / "manifest.json")["files"]
    assert "neurons.rank00000.npz" in made and "neurons.rank00001.npz" in made
    log = (tmp_path / "run" / "logs" / "neurons.log").read_text()
    assert "node1: " in log and "node2: " in log
    assert read_json(tmp_path / "run" / "launch" / "launch.json")["key"] == ""
    for name in two_hosts.names:
        assert not two_hosts.pids(name, "nopsd"), "a process was left behind"


LOOK = (
    "import sys; from pathlib import Path; from nopsd.cluster.preflight import *\n"
    "try: f = facts_of_all(sys.argv[2:], Path(sys.argv[1])); print('fine', master_address(f), master_port(f))\n"
    "except HostsError as error: print('refused', ','.join(error.hosts)); print(error)"
)


def test_hosts_are_checked_before_anything_starts(two_hosts, tmp_path):
    """A host that isn't there, or has another run folder, is named with the remedy; else ranks wait for it in vain."""

    def look(run_dir: Path, *hosts: str) -> str:
        command = [sys.executable, "-c", LOOK, str(run_dir), *hosts]
        return two_hosts.run("node1", command, 120, environment()).stdout

    assert look(tmp_path / "run", "node1", "node2").startswith("fine 10.77.0.1 2")
    printed = look(tmp_path / "run", "node1", "node9", "node2")
    assert printed.startswith("refused node9\n") and "ssh -o BatchMode=yes node9 true" in printed
    printed = look(two_hosts.local / "run", "node1", "node2")
    assert printed.startswith("refused node2\n") and "a disk that all hosts share" in printed


def start_ranks(start_group, two_hosts):
    return start_group(HEARTBEAT_S, hosts=two_hosts.names, launch=two_hosts.popen)


def test_a_cut_link_ends_the_ranks_on_both_sides(two_hosts, start_group):
    """No message says that the other host is gone: silence must be enough. Else a cut-off host computes on."""
    group = start_ranks(start_group, two_hosts)
    began, cut_at = time.monotonic(), time.time()
    two_hosts.cut("node2")
    try:
        result = group.result()
        noticed = result["at"] - cut_at
        assert (result["kind"], result["rank"]) == ("silent", 1) and "rank 1 on node2" in result["message"]
        print(f"link cut: noticed after {noticed:.1f} s, all gone after {group.ended_after(began, 20):.1f} s")
    finally:
        two_hosts.reconnect("node2")


# ------------------------------------------------------------------ the real stage, with a real fault (by hand: --soak)

RANK, NODE_LAUNCHER = "-u -m nopsd neurons", "-u -m deepspeed.launcher.launch"
RUNNER = "-m deepspeed.launcher.runner"
FAULTS = {
    "rank killed": lambda hosts, job: os.kill(hosts.pids("node2", RANK)[0], signal.SIGKILL),
    "rank stopped": lambda hosts, job: os.kill(hosts.pids("node2", RANK)[0], signal.SIGSTOP),
    "rank 0 stopped": lambda hosts, job: os.kill(hosts.pids("node1", RANK)[0], signal.SIGSTOP),
    "link cut": lambda hosts, job: hosts.cut("node2"),
    "node launcher killed": lambda hosts, job: os.kill(hosts.pids("node2", NODE_LAUNCHER)[-1], signal.SIGKILL),
    "runner killed": lambda hosts, job: os.kill(hosts.pids("node1", RUNNER)[-1], signal.SIGKILL),
    "launching command killed": lambda hosts, job: os.kill(_command(hosts), signal.SIGKILL),
    "Ctrl-C": lambda hosts, job: os.kill(_command(hosts), signal.SIGINT),
}
PRINTED = {
    "rank killed": "rank 1 on node2 was killed",
    "rank stopped": "rank 1 on node2 has not run",
    "rank 0 stopped": "rank 0 on node1 has not run",
    "link cut": "nothing was heard from rank 1 on node2",
    "node launcher killed": "rank 1 on node2 was killed",
    "Ctrl-C": "stopped; the same command continues",
}


def _command(hosts) -> int:
    return hosts.pids("node1", "-m nopsd launch")[0]


@pytest.fixture(scope="module")
def before_neurons(two_hosts, tmp_path_factory):
    """A run folder with all that the neurons stage reads, and the command's configuration."""
    folder = tmp_path_factory.mktemp("faults")
    config = given_answers(folder, 1500)
    done = two_hosts.run("node1", [*NOPSD, "rollout", *config], 300, environment())
    assert done.returncode == 0, done.stdout[-3000:]
    return folder / "run", config


def in_the_middle(two_hosts, run: Path, config) -> subprocess.Popen:
    """`nopsd launch … neurons` on node1, once its ranks on both hosts are at work."""
    progress = run / "logs" / "neurons.progress.json"
    progress.unlink(missing_ok=True)
    command = [*NOPSD, "launch", "--hostfile", str(two_hosts.hostfile), "--redo", "neurons", "neurons", *config]
    job = two_hosts.popen("node1", command, environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 300
    while not progress.exists():
        assert job.poll() is None, job.stdout.read()[-3000:]
        assert time.monotonic() < deadline, "the stage did not begin"
        time.sleep(0.2)
    return job


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_everything_and_says_so(two_hosts, before_neurons, fault):
    """All processes on both hosts go within a bound, the exit code tells, one sentence names host, rank and phase, and
    a process of somebody else that DeepSpeed's `pkill -f` would have ended lives on."""
    run, config = before_neurons
    name = f"{sys.executable} -u -m deepspeed.launcher.launch"
    stranger = two_hosts.popen("node2", ["bash", "-c", f"exec -a '{name} of somebody else' sleep 600"])
    job = in_the_middle(two_hosts, run, config)
    began = time.monotonic()
    FAULTS[fault](two_hosts, job)
    try:
        output, _ = job.communicate(timeout=90)
        ended = time.monotonic() - began
        while left := [(n, p) for n in two_hosts.names for p in _ours(two_hosts, n)]:
            assert time.monotonic() - began < 90, f"orphans: {left}"
            time.sleep(0.1)
        last = time.monotonic() - began
        print(f"{fault}: the command ended after {ended:.1f} s, the last process after {last:.1f} s")
        print(output[-700:])
        assert job.returncode != 0
        assert PRINTED.get(fault, "") in output
        assert fault in ("Ctrl-C", "launching command killed", "runner killed") or "neurons, " in output
        assert stranger.poll() is None, "somebody else's process was ended"
    finally:
        two_hosts.reconnect("node2")
        stranger.kill()
        stranger.wait()
        if job.poll() is None:
            job.kill()


def _ours(two_hosts, name) -> list[int]:
    strangers = set(two_hosts.pids(name, "of somebody else"))
    words = ("-m nopsd", "nopsd.cluster", "deepspeed", "pdsh", "guardian.py")
    return [pid for word in words for pid in two_hosts.pids(name, word) if pid not in strangers]


@pytest.mark.soak
def test_the_printed_command_works_typed_by_hand(two_hosts, before_neurons, tmp_path):
    """--dry-run's line, given to a shell as it stands; its ranks watch each other too."""
    run, config = before_neurons
    result = two_hosts.run(
        "node1",
        [*NOPSD, "launch", "--hostfile", str(two_hosts.hostfile), "--dry-run", "neurons", *config],
        120,
        environment(),
    ).stdout
    line = next(text for text in result.splitlines() if " deepspeed --hostfile " in text)
    if (run / "neurons").exists():
        (run / "neurons").rename(tmp_path / "neurons")
    done = two_hosts.run("node1", ["bash", "-c", line], 400, environment())
    assert done.returncode == 0, done.stdout[-3000:]
    assert (run / "neurons" / "manifest.json").exists()


@pytest.mark.soak
@pytest.mark.parametrize("launcher", ["openmpi"])
def test_other_launchers(two_hosts, tmp_path, launcher):
    """Ranks find their number without mpi4py's help, and the run is sealed."""
    require_program("mpirun", "openmpi-bin")
    config = given_answers(tmp_path, 12)
    command = [*NOPSD, "launch", "--hostfile", str(two_hosts.hostfile), "--launcher", launcher, "neurons", *config]
    done = two_hosts.run("node1", command, 400, environment())
    assert done.returncode == 0, done.stdout[-3000:]
    assert "neurons.rank00001.npz" in read_json(tmp_path / "run" / "neurons" / "manifest.json")["files"]


@pytest.mark.soak
def test_without_ssh_each_node_starts_its_own(two_hosts, tmp_path):
    """As on Kubernetes: the same command on every node, with its number."""
    config = [*given_answers(tmp_path, 12), "dist.master_addr=10.77.0.1"]
    done = two_hosts.run("node1", [*NOPSD, "rollout", *config], 300, environment())
    assert done.returncode == 0, done.stdout[-3000:]
    nodes = []
    for number, name in enumerate(two_hosts.names):
        command = [*NOPSD, "launch", "--hostfile", str(two_hosts.hostfile), "--node-rank", str(number), "neurons"]
        nodes.append(two_hosts.popen(name, [*command, *config], environment(), stdout=subprocess.PIPE, text=True))
    printed = [node.communicate(timeout=400)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert (tmp_path / "run" / "neurons" / "manifest.json").exists()


@pytest.mark.soak
def test_a_lost_rank_is_started_again(two_hosts, before_neurons):
    """--restarts 1: after a killed rank the same command goes on to the end by itself."""
    run, config = before_neurons
    job = in_the_middle(two_hosts, run, [*config, "--restarts", "1"])
    os.kill(two_hosts.pids("node2", RANK)[0], signal.SIGKILL)
    output, _ = job.communicate(timeout=400)
    assert job.returncode == 0 and "starting again from what is done" in output, output[-3000:]
    assert (run / "neurons" / "manifest.json").exists()


@pytest.mark.soak
def test_a_lost_host_is_gone_on_without(two_hosts, tmp_path):
    """--min-nodes 1: a host that is cut off and stays so is left out."""
    config = given_answers(tmp_path, 1500)
    done = two_hosts.run("node1", [*NOPSD, "rollout", *config], 300, environment())
    assert done.returncode == 0, done.stdout[-3000:]
    job = in_the_middle(two_hosts, tmp_path / "run", [*config, "--restarts", "1", "--min-nodes", "1"])
    two_hosts.cut("node2")
    try:
        output, _ = job.communicate(timeout=500)
        assert job.returncode == 0 and "going on without node2" in output, output[-3000:]
    finally:
        two_hosts.reconnect("node2")
    assert list(read_json(tmp_path / "run" / "neurons" / "manifest.json")["files"]).count("neurons.rank00001.npz") == 0


RUN = ("run", "--preset", "lab", *SMALL)


@pytest.mark.soak
def test_the_whole_job_on_three_hosts_gives_what_one_gives(two_hosts, tmp_path):
    """A real vLLM server on a host of its own, ZeRO-3 training over two others: selection and losses as on one host."""
    hosts = sys.modules["hosts"]
    with hosts.Hosts(tmp_path / "cluster", 3) as three:
        command = [*NOPSD, "launch", "--hostfile", str(three.hostfile), *RUN, f"run_dir={tmp_path / 'many'}"]
        done = three.run("node1", [*command, "rollout.hosts=[node3]"], 1500, environment())
        assert done.returncode == 0, done.stdout[-4000:]
        assert "--exclude node3" in done.stdout
        left = {name: three.pids(name, "vllm") + three.pids(name, "-m nopsd") for name in three.names}
        assert not any(left.values()), f"left behind: {left}"
    (tmp_path / "alone").mkdir()
    alone = two_hosts.run("node1", [*NOPSD, *RUN, f"run_dir={tmp_path / 'alone'}"], 1500, environment())
    assert alone.returncode == 0, alone.stdout[-4000:]
    for name in ("select/selected.json", "select/contexts.json"):
        assert read_json(tmp_path / "many" / name) == read_json(tmp_path / "alone" / name)
    losses = [
        [json.loads(row)["loss"] for row in (tmp_path / run / "train" / "metrics.jsonl").read_text().splitlines()]
        for run in ("many", "alone")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
