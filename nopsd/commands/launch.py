"""`nopsd launch`: a stage, or all, on the hosts of a hostfile; prints the `deepspeed` command that it runs (issue 5,
"Launch").

In: a hostfile, a stage or `run`, configuration. Out: the same as `nopsd STAGE dist.hostfile=…`, with what belongs to
several hosts alone: --dry-run prints the commands, --node-rank starts one node's ranks where there is no ssh,
--restarts starts again from the newest checkpoint after a host or a rank was lost, --min-nodes also without the lost
host.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nopsd.cluster.commands import Plan, runner_environment, sbatch_script, shown, stage_command
from nopsd.cluster.doctor.host import in_use
from nopsd.cluster.hostfile import hostfile_text, read_hostfile, training_hosts
from nopsd.cluster.launch_file import LaunchFile, passed_on
from nopsd.cluster.launching import write_files
from nopsd.cluster.planning import make_plan
from nopsd.cluster.preflight import HostsError
from nopsd.cluster.stage_launch import RankLost
from nopsd.cluster.verdict import CONSEQUENCE, Failure
from nopsd.commands.names import ALIASES, STAGE_NAMES
from nopsd.config import Config, load_config, to_yaml
from nopsd.errors import ConfigError, ServerError, UserError
from nopsd.files import write_atomic
from nopsd.run import runner
from nopsd.stages.registry import STAGE_BY_NAME, planned, works_here

TARGETS = ("run", *STAGE_NAMES, *ALIASES)
# Said once servers that were healthy are gone, were restarted, or stopped taking weights.
SERVER_LOST = re.compile(r"no rollout server is left|holds policy version|weight sync of version")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="nopsd launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("target", choices=TARGETS, metavar="run|STAGE")
    top.add_argument("overrides", nargs="*", metavar="key=value")
    top.add_argument("--hostfile", help="lines `HOST slots=N` (dist.hostfile)")
    top.add_argument("--launcher", help="pdsh, openmpi, mpich, slurm or no_ssh (dist.launcher)")
    top.add_argument("--preset")
    top.add_argument("--config")
    top.add_argument("--redo", metavar="STAGE")
    top.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    top.add_argument("--node-rank", type=int, metavar="I", help="start this node's ranks alone, the I-th's")
    top.add_argument("--restarts", type=int, default=0, metavar="N", help="start again, N times at most, after a loss")
    top.add_argument("--min-nodes", type=int, metavar="M", help="start again also with fewer hosts, M at least")
    return top


def launch(argv: Sequence[str]) -> int:
    arguments = parser().parse_intermixed_args(list(argv))
    overrides = list(arguments.overrides)
    if arguments.hostfile:
        overrides.append(f"dist.hostfile={Path(arguments.hostfile).absolute()}")
    if arguments.launcher:
        overrides.append(f"dist.launcher={arguments.launcher}")
    config = load_config(arguments.config or arguments.preset, overrides)
    target = ALIASES.get(arguments.target, arguments.target)
    if arguments.min_nodes is not None and config.dist.hostfile is None:
        raise ConfigError("--min-nodes needs a hostfile: give --hostfile FILE")
    if arguments.node_rank is not None:
        return one_node(config, target, arguments.node_rank, arguments.dry_run)
    if arguments.dry_run:
        print(described(config, target, overrides))
        return 0
    with_restarts(config, target, ALIASES.get(arguments.redo, arguments.redo), arguments.restarts, arguments.min_nodes)
    return 0


def with_restarts(config: Config, target: str, redo: str | None, restarts: int, min_nodes: int | None) -> None:
    """Run; after a lost rank or host again, as it is or with the hosts that are left."""
    for left in range(restarts, -1, -1):
        try:
            return start(config, target, redo)
        except (RankLost, HostsError, ServerError) as error:
            if left == 0 or not worth_another_start(error):
                raise
            print(f"nopsd: {error}\nnopsd: starting again from what is done ({left} restarts left)", file=sys.stderr)
            lost = error.hosts if isinstance(error, HostsError) else _unreachable(config)
            config, redo = without(config, lost, min_nodes), None


def worth_another_start(error: UserError) -> bool:
    if isinstance(error, RankLost):
        return by_chance(error.failure)
    return isinstance(error, HostsError) or bool(SERVER_LOST.search(str(error)))


def by_chance(failure: Failure) -> bool:
    """Whether it may go better the next time: a rank's own error, unless of the network, comes again. Servers that the
    command started are started anew with it."""
    words = failure.words
    return failure.kind != "raised" or bool(CONSEQUENCE.search(words)) or bool(SERVER_LOST.search(words))


def start(config: Config, target: str, redo: str | None) -> None:
    if target == "run":
        runner.run_all(config, redo)
    else:
        runner.run_one(config, target, redo)


def _unreachable(config: Config) -> Sequence[str]:
    try:
        make_plan(config, Path(config.run_dir))
    except HostsError as error:
        return error.hosts
    return ()


def without(config: Config, lost: Sequence[str], min_nodes: int | None) -> Config:
    """The configuration without these hosts, be they of those that train or that serve. UserError if fewer than
    `min_nodes` would be left to train, or none may be, or none to serve."""
    if not lost:
        return config
    assert config.dist.hostfile is not None
    hosts = [host for host in read_hostfile(config.dist.hostfile) if host.name not in lost]
    serving = [name for name in config.rollout.hosts if name not in lost]
    if config.rollout.hosts and not serving:
        raise UserError(f"lost for good: {', '.join(lost)}; no host of rollout.hosts is left: name others, or none")
    training = [host for host in hosts if host.name not in serving]
    if min_nodes is None or len(training) < min_nodes:
        allowed = "give --min-nodes to go on without" if min_nodes is None else f"--min-nodes={min_nodes} forbids less"
        raise UserError(f"lost for good: {', '.join(lost)}; {len(training)} hosts are left, {allowed}")
    file = Path(config.run_dir).absolute() / "launch" / "hostfile.left"
    write_atomic(file, hostfile_text(hosts))
    print(f"nopsd: going on without {', '.join(lost)}: {file}", file=sys.stderr)
    rollout = replace(config.rollout, hosts=serving)
    return replace(config, dist=replace(config.dist, hostfile=str(file)), rollout=rollout)


def described(config: Config, target: str, overrides: Sequence[str]) -> str:
    """The command of every stage that runs on ranks, fit to be typed: what they read is left in the run folder."""
    if config.dist.hostfile is not None and config.dist.launcher == "slurm":
        return slurm_script(config, target, overrides)
    plan, config_path = make_plan(config, Path(config.run_dir), ask=False), left_files(config)
    leave_launch_files(config, plan)
    lines = []
    for stage in planned(config) if target == "run" else [STAGE_BY_NAME[target]]:
        if not works_here(stage, config):
            lines.append(shown(stage_command(plan, stage.name, config_path), runner_environment(plan)))
    alone = f"stage {target} runs in one process here: nopsd {target} --config {config_path}"
    return "\n".join(lines) if lines else alone


def left_files(config: Config) -> Path:
    """The resolved configuration where the ranks read it."""
    path = Path(config.run_dir).absolute() / "launch" / "config.yaml"
    write_atomic(path, to_yaml(runner.without_secrets(config)))
    return path


def leave_launch_files(config: Config, plan: Plan) -> Path:
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.dist.threads)}
    content = {k: v for k, v in passed_on(environment).items() if not k.startswith("NOPSD_")} if plan.several else {}
    if plan.several:
        content |= {"MASTER_ADDR": plan.master_addr, "MASTER_PORT": str(plan.master_port)}
    return write_files(plan, Path(config.run_dir) / "launch", environment, LaunchFile(environment=content))


def slurm_script(config: Config, target: str, overrides: Sequence[str]) -> str:
    """launcher/slurm.sbatch filled in: inside, this command again, with the hosts that Slurm gave."""
    from nopsd.run.session import device

    hosts = tuple(training_hosts(read_hostfile(config.dist.hostfile or ""), config.rollout.hosts))
    kept = [item for item in overrides if not item.startswith("dist.hostfile=")]
    command = ["nopsd", "launch", target, "--hostfile", "$HOSTFILE", "--config", str(left_files(config)), *kept]
    line = " ".join(word if word == "$HOSTFILE" else shown([word], {}) for word in command)
    log = Path(config.run_dir).absolute() / "logs" / "slurm-%j.log"
    return sbatch_script(line, Plan(hosts), device() == "cuda", log, Path.cwd())


def one_node(config: Config, target: str, node_rank: int, dry_run: bool) -> int:
    """This node's ranks of one stage, in the foreground; every other node runs the same with its own number."""
    if target == "run":
        raise ConfigError("--node-rank starts the ranks of one stage: name it (neurons, signals, select, train)")
    if config.dist.hostfile is None:
        raise ConfigError("--node-rank needs to know all nodes: give --hostfile FILE")
    config = replace(config, dist=replace(config.dist, launcher="no_ssh"))
    plan = make_plan(config, Path(config.run_dir))
    if not 0 <= node_rank < len(plan.hosts):
        raise ConfigError(f"--node-rank={node_rank}: the hostfile has nodes 0 to {len(plan.hosts) - 1}")
    config_path = left_files(config)
    command = stage_command(plan, target, config_path, node_rank)
    print(shown(command, {}), flush=True)
    if dry_run:
        return 0
    if node_rank == 0 and in_use(plan.master_port):
        raise UserError(
            f"{plan.master_addr}:{plan.master_port}: a process here listens on the ranks' port already, left over "
            "perhaps: `ss -ltnp` names it; end it and start this node again"
        )
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.dist.threads), "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(command, env=environment, check=False).returncode
