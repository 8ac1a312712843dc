"""The commands, parsed by DeepSpeed's own runner: what it would start, for every launcher."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from deepspeed.launcher import multinode_runner, runner

from nopsd.cluster.deepspeed_command import Plan, runner_environment, sbatch_script, stage_command, typed_command
from nopsd.cluster.hostfile import Host

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


def test_a_node_of_its_own():
    """Without ssh each node starts its part, by its number."""
    seen = understood(stage_command(plan("no_ssh"), "train", CONFIG, node_rank=1))
    assert seen.no_ssh and seen.node_rank == 1 and not seen.force_multi


def test_what_is_shown_is_what_is_run():
    """The printed line, taken apart by a shell, is the command; `deepspeed` stands for its module."""
    own = plan("pdsh")
    words = shlex.split(typed_command(stage_command(own, "train", CONFIG), runner_environment(own)))
    settings = dict(word.split("=", 1) for word in words[: words.index("deepspeed")])
    assert settings == runner_environment(own) and settings["DS_ENV_FILE"] == "/shared/run/launch/env"
    assert words[words.index("deepspeed") + 1 :] == stage_command(own, "train", CONFIG)[3:]


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


def test_the_gpus_that_the_user_chose_are_the_ranks(monkeypatch):
    """DeepSpeed's --num_gpus takes the first ones of the host and drops CUDA_VISIBLE_DEVICES."""
    alone = Plan((Host("localhost", 2),), gpus=(2, 5))
    seen = understood(stage_command(alone, "train", CONFIG))
    assert seen.include == "localhost:2,5" and seen.num_gpus == -1
    assert runner.parse_inclusion_exclusion({"localhost": 8}, seen.include, "") == {"localhost": [2, 5]}
    assert understood(stage_command(Plan((Host("localhost", 2),)), "train", CONFIG)).num_gpus == 2
