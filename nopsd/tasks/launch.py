"""A stage, or all, on the hosts of a hostfile: the `deepspeed` commands, printed or run.

In: the configuration with its hostfile, a stage's name or `run`. `described` prints the commands, `one_node` starts one
node's ranks where there is no ssh, `launch` starts again from the newest checkpoint after a host or a rank was lost.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nopsd.cluster.deepspeed_command import Plan, runner_environment, sbatch_script, stage_command, typed_command
from nopsd.cluster.hostfile import read_hostfile, training_hosts
from nopsd.cluster.launch_context import ranks_environment, without_own, write_files
from nopsd.cluster.launch_files import LaunchFile
from nopsd.cluster.planning import make_plan
from nopsd.cluster.restarts import run_with_restarts
from nopsd.cluster.stage_launcher import launcher_environment
from nopsd.config import Config, to_yaml
from nopsd.errors import ConfigError, UserError
from nopsd.files import write_atomic
from nopsd.gpus import meant_for_gpus
from nopsd.keys import SERVER_KEY_VARIABLE, is_secret, without_keys
from nopsd.network import why_unusable
from nopsd.run import runner
from nopsd.stages.registry import STAGES
from nopsd.stages.report import final_message


def launch(config: Config, target: str, redo: str | None, restarts: int, min_nodes: int | None) -> None:
    """Run a stage, or all, on the hosts; after a lost rank or host again.

    Args:
        config: The run's.
        target: A stage, or `run`.
        redo: A stage to redo first.
        restarts: Times that it is run again, at most.
        min_nodes: Hosts that must be left to train; None: no host may be left out.
    """

    def run(config: Config, redo: str | None) -> None:
        if target == "run":
            print(final_message(runner.run_all(STAGES, config, redo)))
        else:
            runner.run_one(STAGES, config, target, redo)

    run_with_restarts(run, config, redo, restarts, min_nodes)


def described(config: Config, target: str, overrides: Sequence[str]) -> str:
    """The command of every stage that runs on ranks, fit to be typed: what they read is left in the run folder.

    Args:
        config: The run's.
        target: A stage, or `run`.
        overrides: KEY=VALUE of the command line, for a script that gives them again.
    """
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
    """What the printed commands read, in RUN/launch."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.dist.threads)}
    content = LaunchFile(without_own(ranks_environment(plan, environment)))
    return write_files(plan, Path(config.run_dir) / "launch", environment, content)


def slurm_script(config: Config, target: str, overrides: Sequence[str]) -> str:
    """cluster/slurm.sbatch filled in: it runs this command again, with the hosts that Slurm allocated.

    Args:
        config: The run's.
        target: A stage, or `run`.
        overrides: KEY=VALUE of the command line; secrets among them are left out, and named on standard error.
    """
    hosts = tuple(training_hosts(read_hostfile(config.dist.hostfile or ""), config.rollout.hosts))
    hidden = [item.split("=")[0] for item in overrides if is_secret(item.split("=")[0])]
    if hidden:
        print(
            f"nopsd: {', '.join(hidden)} is left out of the script: export {SERVER_KEY_VARIABLE} before sbatch",
            file=sys.stderr,
        )
    kept = [item for item in overrides if item.split("=")[0] not in ("dist.hostfile", *hidden)]
    command = ["nopsd", "launch", target, "--hostfile", "$HOSTFILE", "--config", str(left_files(config)), *kept]
    line = " ".join(word if word == "$HOSTFILE" else typed_command([word], {}) for word in command)
    log = Path(config.run_dir).absolute() / "logs" / "slurm-%j.log"
    return sbatch_script(line, Plan(hosts), meant_for_gpus(), log, Path.cwd())


def one_node(config: Config, target: str, node_rank: int, dry_run: bool) -> int:
    """This node's ranks of one stage, in the foreground; every other node runs the same with its own number.

    Args:
        config: The run's.
        target: The stage.
        node_rank: This node's place in the hostfile, from 0.
        dry_run: Print the command alone.

    Returns:
        The exit code.

    Raises:
        ConfigError: No stage that runs on ranks, no hostfile, or no such node.
        UserError: The ranks' port is in use here.
    """
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
    environment = launcher_environment(config.dist)
    return subprocess.run(command, env=environment, check=False).returncode
