"""From the configuration to where ranks run: this host alone, or the training hosts of `dist.hostfile`.

In: `Config`. Out: `Plan`. With a hostfile its slots say how many ranks there are and where; `dist.ranks` is for one
host alone.
"""

from __future__ import annotations

import socket
from pathlib import Path

from nopsd.cluster.deepspeed_command import MPI, Plan
from nopsd.cluster.hostfile import Host, read_hostfile, training_hosts, world_size
from nopsd.cluster.preflight import address_of, facts_of_all, master_address, master_port
from nopsd.cluster.servers.remote import RemoteServers
from nopsd.config import Config
from nopsd.config.rules import check_groups
from nopsd.errors import ConfigError, UserError
from nopsd.gpus import visible_gpus
from nopsd.network import address_towards, is_loopback, is_this_host, resolve
from nopsd.rollout.pool import server_urls

BY_SSH = ("pdsh", *MPI)
STANDARD_PORT = 29500  # of DeepSpeed and PyTorch, where nodes can't be asked


def hosts_that_train(config: Config) -> list[Host]:
    """Of dist.hostfile, without those in rollout.hosts; without one this host, with dist.ranks.

    ConfigError if they can't share the work.
    """
    if config.dist.hostfile is None:
        return [Host("localhost", config.dist.ranks)]
    hosts = training_hosts(read_hostfile(config.dist.hostfile), config.rollout.hosts)
    world = world_size(hosts)
    check_groups(config, world, f"the {world} slots of {config.dist.hostfile}")
    if len({host.slots for host in hosts}) > 1 and config.dist.launcher in ("mpich", "slurm"):
        raise ConfigError(
            f"dist.launcher={config.dist.launcher} needs the same slots on every host of {config.dist.hostfile}: "
            "use pdsh"
        )
    return hosts


def gpus_of_ranks(ranks: int) -> tuple[int, ...]:
    """The GPU of each rank on this host alone; () on a CPU. ConfigError if there are fewer than ranks."""
    gpus = visible_gpus()
    if gpus and len(gpus) < ranks:
        raise ConfigError(
            f"dist.ranks={ranks}: a rank needs a GPU of its own, and this command sees {len(gpus)} "
            f"(CUDA_VISIBLE_DEVICES counts): set dist.ranks={len(gpus)}"
        )
    return tuple(gpus[:ranks])


def check_hosts(config: Config, run_dir: Path, served: bool = False) -> None:
    """At a command's start, before hours of other stages: can the ranks be started, and served, later?

    Args:
        config: The run's.
        run_dir: The run folder.
        served: Whether a stage's ranks will ask the rollout servers.

    Raises:
        HostsError: Hosts that can't be reached or used.
        ConfigError: The hostfile, or a key, doesn't fit.
    """
    if config.dist.hostfile is None:
        gpus_of_ranks(config.dist.ranks)
        return
    if config.dist.launcher == "no_ssh":
        raise ConfigError(
            "dist.launcher=no_ssh: this command can't start ranks on other nodes; start a stage's on each node by "
            "`nopsd launch --hostfile FILE --node-rank I STAGE`"
        )
    plan = make_plan(config, run_dir)
    if served and not server_urls(config):
        check_reach(config, plan)


def check_reach(config: Config, plan: Plan) -> None:
    """Whether rank 0 will reach the servers that this command starts; says where hosts would idle through rollouts.

    Raises:
        ConfigError: They would listen on this host's loopback alone, and rank 0 runs on another host.
    """
    first, dist = plan.hosts[0].name, config.dist
    if serving_hosts(config):
        return
    if is_loopback(config.server.host) and not is_this_host(plan.master_addr):
        raise ConfigError(
            f"server.host={config.server.host}: the rollout server would listen on this host alone, and rank 0 runs on "
            f"{first}, the first of {dist.hostfile}: start this command on {first}, set rollout.colocate=true (servers "
            "beside the ranks), or give this host's address as server.host"
        )
    if len(plan.hosts) > 1 and dist.launcher in BY_SSH:
        print(
            f"rollouts come from {first} alone, and the other hosts of {dist.hostfile} wait for them: "
            "rollout.colocate=true starts servers on every host",
            flush=True,
        )


def make_plan(config: Config, run_dir: Path, ask: bool = True) -> Plan:
    """Where the ranks run.

    Args:
        config: Its `dist` and `rollout.hosts`.
        run_dir: The run folder, which every host must see.
        ask: Every host first, where the launcher uses ssh; False: use only what this host knows, for commands that are
            only printed.

    Raises:
        HostsError: Hosts that can't be reached or used.
        ConfigError: The hostfile, or a key, doesn't fit.
    """
    dist = config.dist
    if dist.hostfile is None:
        return Plan((Host("localhost", dist.ranks),), gpus=gpus_of_ranks(dist.ranks))
    hosts = hosts_that_train(config)
    names, all_hosts = [host.name for host in hosts], [host.name for host in read_hostfile(dist.hostfile)]
    hostfile = str(Path(dist.hostfile).absolute())
    excluded = tuple(name for name in all_hosts if name not in names)
    if excluded and dist.launcher in MPI:
        hostfile, excluded = str(run_dir.absolute() / "launch" / "hostfile"), ()
    if dist.launcher in BY_SSH and ask:
        facts = facts_of_all([*names, *config.rollout.hosts], run_dir)
        address, port = dist.master_addr or master_address(facts), master_port(facts)
    else:
        address, port = dist.master_addr or _as_seen_here(names), STANDARD_PORT
    env_file = str(run_dir.absolute() / "launch" / "env")
    return Plan(tuple(hosts), hostfile, excluded, dist.launcher, address, port, env_file)


def _as_seen_here(names: list[str]) -> str:
    """The first host's address as far as this one knows; its name where nothing resolves it."""
    known = {names[0]: {"names": {names[0]: resolve(names[0])}}}
    try:
        return address_of(known, names[0])
    except UserError:  # many hosts know themselves by loopback alone
        itself = names[0] == socket.gethostname() and len(names) > 1 and resolve(names[-1])
        return address_towards(names[-1]) if itself else names[0]


def serving_hosts(config: Config) -> dict[str, int]:
    """The hosts on which servers are started over ssh, and how many ranks train on each; {}: here, without ssh.

    Raises:
        ConfigError: `rollout.colocate` where ranks aren't started over ssh.
    """
    if not (config.rollout.colocate and config.dist.hostfile):
        return dict.fromkeys(config.rollout.hosts, 0)
    if config.dist.launcher not in BY_SSH:
        raise ConfigError(
            f"rollout.colocate=true starts servers over ssh, and dist.launcher={config.dist.launcher}: leave it out, "
            "or start servers by `nopsd serve` on each host and name them in rollout.urls"
        )
    return {host.name: host.slots for host in hosts_that_train(config)}


def start_rollout_servers(config: Config, run_dir: Path, config_file: Path) -> RemoteServers:
    """Those of other hosts too, each listening on its host's own address, not on every one."""
    serving = serving_hosts(config)
    facts = facts_of_all(list(serving), run_dir)
    addresses = {host: address_of(facts, host) for host in serving}
    return RemoteServers(addresses, config_file, config.server.startup_timeout_s, serving)
