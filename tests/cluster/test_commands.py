"""The command lines, taken apart by DeepSpeed's own runner: what it would start, for every launcher."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from deepspeed.launcher import multinode_runner, runner

from nopsd.cluster import planning
from nopsd.cluster.commands import Plan, runner_environment, sbatch_script, shown, stage_command
from nopsd.cluster.hostfile import Host, read_hostfile
from nopsd.cluster.launch_file import LaunchFile, passed_on, read_launch_file, write_env_file, write_launch_file
from nopsd.cluster.preflight import HostsError
from nopsd.cluster.rank import numbered
from nopsd.cluster.verdict import Failure
from nopsd.commands.launch import by_chance, launch, without, worth_another_start
from nopsd.config import Config, DistConfig, RolloutConfig
from nopsd.errors import ServerError, UserError

CONFIG = Path("/shared/run/config.yaml")
HOSTS = (Host("node1", 2), Host("node2", 2))


def plan(launcher: str, **more) -> Plan:
    return Plan(HOSTS, "/shared/hosts", (), launcher, "10.0.0.1", 29511, "/shared/run/launch/env", **more)


def understood(command):
    """The runner's own reading of our words."""
    return runner.parse_args(command[3:])


@pytest.mark.parametrize("launcher", ["pdsh", "openmpi", "mpich", "slurm"])
def test_deepspeed_understands_every_launcher(launcher):
    """If this fails, `dist.launcher` ends in DeepSpeed's usage message."""
    seen = understood(stage_command(plan(launcher), "train", CONFIG))
    assert (seen.hostfile, seen.launcher, seen.master_addr, seen.master_port) == (
        "/shared/hosts",
        launcher,
        "10.0.0.1",
        29511,
    )
    assert seen.no_local_rank and seen.force_multi and not seen.no_ssh
    assert seen.user_args == ["train", "--config", str(CONFIG)]
    if launcher in ("slurm", "mpich"):  # their runners overlook --module, or trip over it: they are given a script
        assert not seen.module and Path(seen.user_script).is_file()
    else:
        assert seen.module and seen.user_script == "nopsd"
    if launcher == "openmpi":
        assert "--allow-run-as-root" in shlex.split(seen.launcher_args)


def test_what_pdsh_and_mpi_would_run_on_each_host():
    """The runner's classes, given our words: the module and its configuration reach every host."""
    world = runner.encode_world_info({"node1": [0, 1], "node2": [0, 1]})
    seen = understood(stage_command(plan("pdsh"), "train", CONFIG))
    command, _, _ = multinode_runner.PDSHRunner(seen, world).get_cmd({}, {"node1": [0, 1], "node2": [0, 1]})
    assert command[command.index("-w") + 1] == "node1,node2"
    assert command[-4:] == ["nopsd", "train", "--config", str(CONFIG)] and "--module" in command
    seen = understood(stage_command(plan("openmpi"), "train", CONFIG))
    command = multinode_runner.OpenMPIRunner(seen, world, {"node1": 2, "node2": 2}).get_cmd({}, {})
    assert command[:3] == ["mpirun", "-n", "4"] and command[-5:-3] == ["-m", "nopsd"]
    seen = understood(stage_command(plan("mpich"), "train", CONFIG))
    command = multinode_runner.MPICHRunner(seen, world, {"node1": 2, "node2": 2}).get_cmd({}, {})
    assert "-m" not in command, "it would run a path as a module"
    assert Path(command[-4]).is_file() and command[-3:] == ["train", "--config", str(CONFIG)]


def test_one_host_and_excluded_hosts():
    """The same command with less: no hostfile; and rollout hosts named in the hostfile don't get ranks."""
    seen = understood(stage_command(Plan((Host("localhost", 3),), master_port=4), "neurons", CONFIG))
    assert (seen.num_gpus, seen.master_port, seen.hostfile) == (3, 4, runner.DLTS_HOSTFILE)
    left_out = Plan(HOSTS, "/shared/hosts", ("node3", "node4"), "pdsh", "10.0.0.1", 4)
    seen = understood(stage_command(left_out, "neurons", CONFIG))
    pool = {"node1": 2, "node2": 2, "node3": 1, "node4": 1}
    assert list(runner.parse_inclusion_exclusion(pool, "", seen.exclude)) == ["node1", "node2"]


def test_only_chance_is_worth_another_start():
    """--restarts must not run a bug again and again; a torn connection, or a lost rank, is another matter."""
    assert by_chance(Failure("vanished", 1, "a")) and by_chance(Failure("silent", 1, "a"))
    assert by_chance(Failure("raised", 1, "a", words="RuntimeError: [gloo] Connection closed by peer"))
    lost = "no rollout server is left: http://a (no answer to 3 calls of /health in a row): see their logs"
    assert by_chance(Failure("raised", 0, "a", words=lost)), "the command's servers are started anew with it"
    assert not by_chance(Failure("raised", 1, "a", words="ValueError: bad row"))
    assert worth_another_start(ServerError(lost)) and worth_another_start(HostsError(["a"], "host a can't be reached"))
    assert not worth_another_start(ServerError("the server at http://a refuses our API key: set server.api_key"))


def test_hosts_are_left_out_only_if_enough_remain(tmp_path):
    """--min-nodes: without it, or with too few left, nothing starts; else the next hostfile lacks the lost host."""
    (tmp_path / "hosts").write_text("a slots=2\nb slots=2\nc slots=2\n")
    config = Config(run_dir=str(tmp_path), dist=DistConfig(hostfile=str(tmp_path / "hosts")))
    left = without(config, ["b"], 2)
    assert [host.name for host in read_hostfile(left.dist.hostfile)] == ["a", "c"]
    assert without(config, [], None) is config
    for lost, least in ((["b"], None), (["a", "b"], 2), (["a", "b", "c"], 1)):
        with pytest.raises(UserError, match="lost for good: a|lost for good: b"):
            without(config, lost, least)
    serving = replace(config, rollout=RolloutConfig(hosts=["b", "c"]))
    left = without(serving, ["c"], 1)
    assert left.rollout.hosts == ["b"] and [h.name for h in read_hostfile(left.dist.hostfile)] == ["a", "b"]
    with pytest.raises(UserError, match="no host of rollout.hosts is left"):
        without(serving, ["b", "c"], 1)


def test_a_node_of_its_own():
    """Without ssh each node starts its part, by its number."""
    seen = understood(stage_command(plan("no_ssh"), "train", CONFIG, node_rank=1))
    assert seen.no_ssh and seen.node_rank == 1 and not seen.force_multi


def test_what_is_shown_is_what_is_run():
    """The printed line, taken apart by a shell, is the command; `deepspeed` stands for its module."""
    own = plan("pdsh")
    words = shlex.split(shown(stage_command(own, "train", CONFIG), runner_environment(own)))
    settings = dict(word.split("=", 1) for word in words[: words.index("deepspeed")])
    assert settings == runner_environment(own) and settings["DS_ENV_FILE"] == "/shared/run/launch/env"
    assert words[words.index("deepspeed") + 1 :] == stage_command(own, "train", CONFIG)[3:]


def test_secrets_stay_out_of_what_deepspeed_exports(tmp_path, monkeypatch):
    """DeepSpeed puts DS_ENV_FILE's lines on command lines; if this fails, `ps` on any host shows the server's key."""
    environment = {
        "NOPSD_SERVER_KEY": "s3cret",
        "HF_TOKEN": "s3cret",
        "DS_ACCELERATOR": "cpu",
        "HOME": "/root",
        "CUDA_VISIBLE_DEVICES": "3",
        "NCCL_DEBUG": "INFO",
        "PATH": "/bin",
    }
    file, env_file = tmp_path / "launch.json", tmp_path / "env"
    write_launch_file(file, LaunchFile(passed_on(environment), key="k"))
    write_env_file(env_file, file, "pdsh", environment)
    assert "s3cret" not in env_file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600 and env_file.stat().st_mode & 0o777 == 0o600
    passed = read_launch_file(file).environment
    assert passed == {k: environment[k] for k in ("NOPSD_SERVER_KEY", "HF_TOKEN", "DS_ACCELERATOR", "NCCL_DEBUG")}
    # DeepSpeed's own way of reading it, line by line.
    monkeypatch.setattr(runner, "DEEPSPEED_ENVIRONMENT_NAME", str(env_file))
    pairs = [line.split("=", maxsplit=1) for line in env_file.read_text().splitlines()]
    assert {k for k, _ in pairs} == {"NOPSD_LAUNCH", "NOPSD_LAUNCHER", "DS_ACCELERATOR", "PATH"}


def test_values_that_a_shell_would_change_are_refused(tmp_path):
    with pytest.raises(UserError, match="PATH"):
        write_env_file(tmp_path / "env", tmp_path / "launch.json", "pdsh", {"PATH": "/bin:$HOME"})


@pytest.mark.parametrize(
    ("launcher", "given"),
    [
        ("openmpi", {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}),
        ("mpich", {"PMI_RANK": "3", "MPI_LOCALRANKID": "1", "PMI_SIZE": "4"}),
        ("slurm", {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}),
    ],
)
def test_ranks_know_their_number_from_mpi_and_slurm(launcher, given):
    """Without mpi4py. A user's own command in a batch script is no rank, though Slurm numbers it too."""
    assert numbered({**given, "NOPSD_LAUNCHER": launcher}) == {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    assert numbered(given) == {} and numbered({**given, "NOPSD_LAUNCHER": launcher, "RANK": "0"}) == {}


@pytest.mark.parametrize("gpus", [True, False])
def test_the_slurm_script_is_whole(gpus, tmp_path):
    """No placeholder is left, bash reads it, and it asks for what the ranks need."""
    text = sbatch_script("nopsd launch train --hostfile $HOSTFILE", plan("slurm"), gpus, tmp_path / "log", tmp_path)
    assert not re.search(r"@[A-Z_]+@", text)
    assert "#SBATCH --nodes=2\n" in text and "#SBATCH --ntasks-per-node=2\n" in text
    assert ("--gpus-per-node=2" in text) == gpus
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    slurm = "scontrol() { printf 'n1\\nn2\\n'; }\nSLURM_JOB_ID=7; SLURM_JOB_NODELIST=n\n"
    stand_in = slurm + "nopsd() { cat $4; exit 3; }\n"
    done = subprocess.run(["bash"], input=stand_in + text, text=True, capture_output=True, check=False)
    assert done.stdout == "n1 slots=2\nn2 slots=2\n" and done.returncode == 3, done.stderr
    assert json.dumps(str(tmp_path)).strip('"') in text


@pytest.mark.parametrize("launcher", ["pdsh", "mpich"])
def test_a_dry_run_asks_no_host(launcher, tmp_path, capsys, monkeypatch):
    """It only prints, also where the hosts aren't there (yet): else nobody can look at the command beforehand."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a host was asked")

    monkeypatch.setattr(planning, "look_at", asked)
    monkeypatch.setattr(subprocess, "Popen", asked)
    (tmp_path / "hosts").write_text("nowhere1.invalid slots=1\nnowhere2.invalid slots=1\nnowhere3.invalid slots=1\n")
    given = ["train", "--preset", "lab", "--hostfile", str(tmp_path / "hosts"), "--launcher", launcher, "--dry-run"]
    assert launch([*given, f"run_dir={tmp_path / 'run'}", "rollout.hosts=[nowhere3.invalid]"]) == 0
    line = next(text for text in capsys.readouterr().out.splitlines() if " deepspeed --hostfile " in text)
    seen = understood(["", "", "", *shlex.split(line.split(" deepspeed ", 1)[1])])
    assert seen.launcher == launcher and seen.master_addr == "nowhere1.invalid" and seen.user_args[0] == "train"
    assert Path(seen.user_args[2]).is_file(), "the configuration that the printed command names"


def test_the_first_host_by_its_address(monkeypatch):
    """Ranks must not be sent to 127.0.1.1, which is what many hosts know themselves by."""
    table = {"a": ["10.0.0.1", "fe80::1"], "b": ["10.0.0.2"], "me": ["127.0.1.1"], "nobody": []}
    monkeypatch.setattr(planning, "resolved", table.__getitem__)
    monkeypatch.setattr(planning.socket, "gethostname", lambda: "me")
    monkeypatch.setattr(planning, "address_towards", lambda host: f"the one towards {host}")
    assert planning._as_seen_here(["a", "b"]) == "10.0.0.1"
    assert planning._as_seen_here(["me", "b"]) == "the one towards b"
    assert planning._as_seen_here(["me", "nobody"]) == "me" and planning._as_seen_here(["nobody", "b"]) == "nobody"


MEET = """
import sys, time
from nopsd.cluster import rank
rank.MEETING_S = 0.0
with rank.meeting(0.5): time.sleep(float(sys.argv[1]))
time.sleep(1.0)
print("met")
"""


@pytest.mark.parametrize(("wait", "code"), [("0", 0), ("60", 1)])
def test_who_meets_a_stranger_does_not_wait_for_ever(wait, code):
    """PyTorch's store has no time-out for one who listens and says nothing: on 29500, a left-over process."""
    environment = {**os.environ, "RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    words = [sys.executable, "-c", MEET, wait]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == code and (done.stdout == "met\n") == (code == 0), done.stderr
    assert ("rank 1 on" in done.stderr and "10.0.0.1:29500" in done.stderr) == (code == 1)
