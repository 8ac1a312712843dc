"""The DeepSpeed commands that start ranks, one for each launcher. Pure: lists of words from a plan.

In: `Plan`. Out: the command of DeepSpeed's runner, which can also be typed by hand, a node's own command where there is
no ssh (Kubernetes), and an `sbatch` script. No secret is in any of them: DeepSpeed writes everything that it exports on
command lines and into its log.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nopsd.cluster.hostfile import Host, world_size
from nopsd.network import LOOPBACK

# A lost host must not keep ssh waiting for ever, and nobody is there to type a password.
SSH_OPTIONS = tuple("-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3".split())
RUNNER = (sys.executable, "-m", "deepspeed.launcher.runner")
SCRIPT = Path(sys.executable).with_name("nopsd")
MPI = ("openmpi", "mpich")  # they put ranks on every host of the hostfile
# Open MPI refuses root and more ranks than cores otherwise; no rank calls MPI, so that nothing of it needs tuning.
LAUNCHER_ARGS = {"openmpi": "--allow-run-as-root --oversubscribe --bind-to none"}
# DeepSpeed 0.19.8's Slurm runner overlooks --module; its MPICH runner gives it to a helper's path too, and fails.
SCRIPT_ALONE = ("slurm", "mpich")
SBATCH = Path(__file__).parent / "slurm.sbatch"


@dataclass(frozen=True)
class Plan:
    """Where ranks run and their rendezvous. `hostfile` None: this host alone, with `hosts[0].slots` ranks."""

    hosts: tuple[Host, ...]  # that train
    hostfile: str | None = None
    excluded: tuple[str, ...] = ()  # in the hostfile, but not of those that train
    launcher: str = "pdsh"
    master_addr: str = LOOPBACK
    master_port: int = 29500
    env_file: str | None = None  # what DeepSpeed exports to each rank (DS_ENV_FILE)
    gpus: tuple[int, ...] = ()  # of this host alone, one a rank; () on a CPU

    @property
    def world(self) -> int:
        return world_size(self.hosts)

    @property
    def several(self) -> bool:
        """Whether ranks are started over a network."""
        return self.hostfile is not None


def stage_command(plan: Plan, stage: str, config_path: Path, node_rank: int | None = None) -> list[str]:
    """DeepSpeed's command for one stage.

    Args:
        plan: Where the ranks run.
        stage: Its name.
        config_path: The run folder's config.yaml.
        node_rank: Only this node's ranks (launcher no_ssh); None: all.
    """
    where = _on_hosts(plan, node_rank) if plan.several else _on_this_host(plan)
    rendezvous = ["--master_addr", plan.master_addr] if plan.several else []
    rendezvous += ["--master_port", str(plan.master_port)]
    program = [str(SCRIPT)] if plan.several and plan.launcher in SCRIPT_ALONE else ["--module", "nopsd"]
    return [*RUNNER, *where, *rendezvous, "--no_local_rank", *program, stage, "--config", str(config_path)]


def _on_this_host(plan: Plan) -> list[str]:
    if plan.gpus:  # --num_gpus would take the first GPUs of the host, whatever CUDA_VISIBLE_DEVICES says
        return ["--include", f"localhost:{','.join(map(str, plan.gpus))}"]
    return ["--num_gpus", str(plan.world)]


def _on_hosts(plan: Plan, node_rank: int | None) -> list[str]:
    assert plan.hostfile is not None
    words = ["--hostfile", plan.hostfile]
    if plan.excluded:
        words += ["--exclude", "@".join(plan.excluded)]
    if plan.launcher == "no_ssh":
        return [*words, "--no_ssh", "--node_rank", str(0 if node_rank is None else node_rank)]
    # --force_multi: with a single host left the runner would start the ranks here, whatever the host's name.
    words += ["--launcher", plan.launcher, "--force_multi", "--no_ssh_check"]
    if plan.launcher in LAUNCHER_ARGS:
        words += [f"--launcher_args={LAUNCHER_ARGS[plan.launcher]}"]
    return words


def runner_environment(plan: Plan) -> dict[str, str]:
    """What DeepSpeed's runner itself must find in its environment."""
    if not plan.several:
        return {}
    environment = {"PDSH_SSH_ARGS_APPEND": " ".join(SSH_OPTIONS)} if plan.launcher == "pdsh" else {}
    return environment | ({"DS_ENV_FILE": plan.env_file} if plan.env_file else {})


def typed_command(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """A command as a user types it: `deepspeed` for its module, environment variables before it."""
    words = list(command)
    if tuple(words[: len(RUNNER)]) == RUNNER:
        words = ["deepspeed", *words[len(RUNNER) :]]
    settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*settings, shlex.join(words)])


def sbatch_script(command: str, plan: Plan, gpus: bool, log: Path, cwd: Path) -> str:
    """The template filled in: one task a rank is what srun, which DeepSpeed calls inside, will ask for.

    Args:
        gpus: whether a rank computes on a GPU; a login node that has none may write the script of nodes that do.
    """
    values = {
        "NODES": str(len(plan.hosts)),
        "RANKS_PER_NODE": str(plan.hosts[0].slots),
        "GPUS": f"#SBATCH --gpus-per-node={plan.hosts[0].slots}\n" if gpus else "",
        "LOG": str(log),
        "FOLDER": shlex.quote(str(cwd)),
        "BIN": shlex.quote(str(Path(sys.executable).parent)),
        "COMMAND": command,
    }
    text = SBATCH.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
