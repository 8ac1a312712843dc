"""`nopsd launch`: a stage, or all, on the hosts of a hostfile; prints the `deepspeed` command that it runs.

In: a hostfile, a stage or `run`, configuration. Out: the same as `nopsd STAGE dist.hostfile=…`, with what belongs to
several hosts alone: --dry-run prints the commands, --node-rank starts one node's ranks where there is no ssh,
--restarts starts again from the newest checkpoint after a host or a rank was lost, --min-nodes also without the lost
host.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nopsd.cluster.deepspeed_command import Plan, runner_environment, sbatch_script, stage_command, typed_command
from nopsd.cluster.hostfile import read_hostfile, training_hosts
from nopsd.cluster.launch_context import ranks_environment, without_own, write_files
from nopsd.cluster.launch_files import LaunchFile
from nopsd.cluster.planning import make_plan
from nopsd.cluster.restarts import run_with_restarts
from nopsd.commands.names import ALIASES, STAGE_NAMES
from nopsd.config import Config, load_config, to_yaml
from nopsd.engine.device import device
from nopsd.errors import ConfigError, UserError
from nopsd.files import write_atomic
from nopsd.keys import without_keys
from nopsd.network import why_unusable
from nopsd.run import runner
from nopsd.stages.registry import STAGES
from nopsd.stages.report import closing_words

TARGETS = ("run", *STAGE_NAMES, *ALIASES)


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

    def run(config: Config, redo: str | None) -> None:
        if target == "run":
            print(closing_words(runner.run_all(STAGES, config, redo)))
        else:
            runner.run_one(STAGES, config, target, redo)

    redo = ALIASES.get(arguments.redo, arguments.redo)
    run_with_restarts(run, config, redo, arguments.restarts, arguments.min_nodes)
    return 0


def described(config: Config, target: str, overrides: Sequence[str]) -> str:
    """The command of every stage that runs on ranks, fit to be typed: what they read is left in the run folder."""
    if config.dist.hostfile is not None and config.dist.launcher == "slurm":
        return slurm_script(config, target, overrides)
    plan, config_path = make_plan(config, Path(config.run_dir), ask=False), left_files(config)
    leave_launch_files(config, plan)
    lines = []
    for stage in STAGES.planned(config) if target == "run" else [STAGES[target]]:
        if not stage.runs_here(config):
            lines.append(typed_command(stage_command(plan, stage.name, config_path), runner_environment(plan)))
    alone = f"stage {target} runs in one process here: nopsd {target} --config {config_path}"
    return "\n".join(lines) if lines else alone


def left_files(config: Config) -> Path:
    """The resolved configuration where the ranks read it."""
    path = Path(config.run_dir).absolute() / "launch" / "config.yaml"
    write_atomic(path, to_yaml(without_keys(config)))
    return path


def leave_launch_files(config: Config, plan: Plan) -> Path:
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.dist.threads)}
    content = LaunchFile(without_own(ranks_environment(plan, environment)))
    return write_files(plan, Path(config.run_dir) / "launch", environment, content)


def slurm_script(config: Config, target: str, overrides: Sequence[str]) -> str:
    """cluster/slurm.sbatch filled in: it runs this command again, with the hosts that Slurm allocated."""
    hosts = tuple(training_hosts(read_hostfile(config.dist.hostfile or ""), config.rollout.hosts))
    kept = [item for item in overrides if not item.startswith("dist.hostfile=")]
    command = ["nopsd", "launch", target, "--hostfile", "$HOSTFILE", "--config", str(left_files(config)), *kept]
    line = " ".join(word if word == "$HOSTFILE" else typed_command([word], {}) for word in command)
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
    print(typed_command(command, {}), flush=True)
    if dry_run:
        return 0
    if node_rank == 0 and why_unusable(plan.master_port):
        raise UserError(
            f"{plan.master_addr}:{plan.master_port}: a process here listens on the ranks' port already, left over "
            "perhaps: `ss -ltnp` names it; end it and start this node again"
        )
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.dist.threads), "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(command, env=environment, check=False).returncode
