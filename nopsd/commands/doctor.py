"""`nopsd doctor`: look at everything a run stands on, before it costs anything (issue 5, "Preflight").

In: the configuration, with `dist.hostfile` or without. Out: a table (or JSON) and an exit code: 0 if the run can start.
Nothing is written but, for a moment, a mark in run_dir that proves it is shared.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from nopsd.cluster.doctor import checks, links, prompts, table
from nopsd.cluster.doctor.checks import ERROR, GIB, OK, WARNING, Finding
from nopsd.cluster.doctor.host import Wanted, facts
from nopsd.cluster.doctor.memory import Needs, needs_of, shape_of
from nopsd.cluster.hostfile import Host, read_hostfile, training_hosts, world_size
from nopsd.cluster.preflight import address_of, facts_of, shared_mark
from nopsd.cluster.ssh import ask_all, module_command, ssh_command
from nopsd.config import Config
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.sources import load_splits
from nopsd.engine.ds_config import role_configs
from nopsd.errors import ServerError, UserError
from nopsd.models import resolve_model
from nopsd.rollout.pool import connect
from nopsd.run.session import device, server_urls

CHECKPOINT_PARTS = ("student weights", "optimizer", "EMA master")


@dataclass
class Diagnosis:
    """All that was found."""

    findings: list[Finding] = field(default_factory=list)
    needs: Needs | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: links.Links = field(default_factory=dict)
    prompts: str = ""


def doctor(config: Config, as_json: bool = False) -> tuple[str, int]:
    """What to print, and the exit code."""
    hosts = the_hosts(config)
    ranks = world_size(hosts)
    found = Diagnosis()
    model_folder = _noted(found, "model", partial(resolve_model, config.model))
    if model_folder is not None:
        kind = "gpu" if device() == "cuda" else "cpu"
        student, teacher = _noted(found, "memory", partial(role_configs, config, kind)) or ({}, {})
        shape = shape_of(str(model_folder.path), config.model.trust_remote_code)
        found.needs = needs_of(config, shape, ranks, student, teacher)
        _noted(found, "prompts", partial(look_at_prompts, config, model_folder.path, found))
    look_at_hosts(config, hosts, model_folder.path if model_folder else None, found)
    _noted(found, "server", partial(look_at_servers, config, found))
    if as_json:
        return table.as_json(found.findings, found.needs, found.facts, found.links), table.exit_code(found.findings)
    memory = table.memory_text(found.needs, ranks, _server_room(config, found)) if found.needs else ""
    parts = [found.prompts, memory, table.as_text(found.findings), table.summary(found.findings)]
    return "\n\n".join(part for part in parts if part), table.exit_code(found.findings)


def the_hosts(config: Config) -> list[Host]:
    """Hosts that train, with their ranks; this one alone without a hostfile."""
    if config.dist.hostfile is None:
        return [Host("localhost", config.dist.ranks)]
    return training_hosts(read_hostfile(config.dist.hostfile), config.rollout.hosts)


def _noted(found: Diagnosis, check: str, look: Any) -> Any:
    """What `look` returns; None, and its error among the findings, if it can't."""
    try:
        return look()
    except UserError as error:
        found.findings.append(Finding(check, "all", ERROR, str(error)))
        return None


def look_at_prompts(config: Config, model: Path, found: Diagnosis) -> None:
    pool = load_splits(config.data).pool
    renderer = PromptRenderer(load_tokenizer(model, trust_remote_code=config.model.trust_remote_code), config.prompt)
    shown = min(config.context.m, len(pool) - 1)
    pair = prompts.render_pair(renderer, pool, shown, config.context.max_prompt)
    found.prompts = prompts.side_by_side(pair)
    found.findings += prompts.judge(pair, shown)


def look_at_hosts(config: Config, hosts: Sequence[Host], model: Path | None, found: Diagnosis) -> None:
    """Every host's own word, judged against the head's and against what the run needs."""
    names = [host.name for host in hosts]
    asked = [*names, *(h for h in config.rollout.hosts if h not in names)]
    run_dir = Path(config.run_dir).absolute()
    port = [config.server.port] if config.server.port else []
    wanted = Wanted({"run_dir": str(run_dir)}, str(model) if model else None, asked, port)
    asked_at: dict[str, float] = {}

    def ask_one(name: str, wanted: Wanted) -> dict[str, Any]:
        before = time.time()
        answer = facts(replace(wanted, names=[])) if config.dist.hostfile is None else facts_of(name, wanted)
        asked_at[name] = answer["clock"] if config.dist.hostfile is None else (before + time.time()) / 2
        return answer

    with shared_mark(run_dir) as (mark, token):
        found.facts, failures = ask_all(asked, partial(ask_one, wanted=replace(wanted, token=str(mark))))
    found.findings += [Finding("hosts", failure.host, ERROR, str(failure)) for failure in failures]
    if not failures:
        found.findings.append(Finding("hosts", "all", OK, f"{len(asked)} reached"))
    if found.facts:
        found.findings += judged(config, hosts, token, asked_at, found)
    if len(found.facts) > 1 and not failures:
        _noted(found, "links", partial(look_at_links, names, found))


def judged(
    config: Config, hosts: Sequence[Host], token: str, asked_at: dict[str, float], found: Diagnosis
) -> list[Finding]:
    """All checks on what the hosts said."""
    said, slots, on_gpu = found.facts, {host.name: host.slots for host in hosts}, device() == "cuda"
    findings = [
        *checks.versions(said),
        *checks.clocks(said, asked_at),
        *checks.names(said),
        *checks.ports(said),
        *checks.shared_folder({name: said[name] for name in slots if name in said}, token),
        *checks.devices(said, slots, on_gpu),
    ]
    if found.needs is None:  # no model was found, which has been said
        return findings
    a_rank, kept = found.needs.total, config.train.keep_checkpoints + config.train.keep_best
    saved = sum({**found.needs.device, **found.needs.host}.get(part, 0) for part in CHECKPOINT_PARTS)
    needed = world_size(hosts) * saved * (kept + 1)  # one more is written before the oldest goes
    return [
        *findings,
        *checks.model(said),
        *checks.disk(said, needed),
        *checks.memory(said, slots, a_rank, sum(found.needs.host.values()), on_gpu),
    ]


def look_at_links(names: Sequence[str], found: Diagnosis) -> None:
    addresses = {name: address_of(found.facts, name) for name in names}
    found.links, said = links.measured(addresses, start_link)
    found.findings += said


def start_link(host: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = ssh_command(host, module_command("nopsd.cluster.doctor.link"))
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def look_at_servers(config: Config, found: Diagnosis) -> None:
    """The rollout servers that run already; those the launcher will start are only reckoned."""
    urls = server_urls(config)
    if not urls:
        found.findings.append(Finding("server", "all", OK, "started by the run itself"))
        return
    client = connect(config.server, urls)
    try:
        window, version = client.max_model_len(), client.policy_version()
    finally:
        client.close()
    if window < config.server.max_model_len:
        raise ServerError(
            f"the window of {', '.join(urls)} is {window} tokens, server.max_model_len={config.server.max_model_len}: "
            "restart it with a longer one, or lower the key"
        )
    level = OK if version == 0 else WARNING
    message = f"{len(urls)} healthy, policy version {version}" + ("" if version == 0 else ": a run has used it")
    found.findings.append(Finding("server", "all", level, message))


def _server_room(config: Config, found: Diagnosis) -> int | None:
    """Bytes for keys and values on one of the server's devices, as it will be started."""
    if device() != "cuda":
        return config.server.kv_cache_mib << 20
    gpus = [d for own in found.facts.values() for d in own["devices"]]
    if not gpus or found.needs is None:
        return None
    whole = min(d["total"] for d in gpus)
    return int(config.server.gpu_memory_utilization * whole) - found.needs.server_weights - GIB
