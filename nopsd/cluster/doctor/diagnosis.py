"""Every check of `nopsd doctor` in turn: model, memory, prompts, hosts, links, servers.

In: the configuration, with `dist.hostfile` or without. Out: a `Diagnosis`. A check that fails is a finding, so that one
problem does not hide the others.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nopsd.cluster.doctor import checks, links, prompts
from nopsd.cluster.doctor.fitting import shares_devices
from nopsd.cluster.doctor.memory import GIB, Needs, needs_of, shape_of
from nopsd.cluster.findings import ERROR, OK, WARNING, Finding, names, shared_folder, versions
from nopsd.cluster.host_facts import Wanted, facts
from nopsd.cluster.hostfile import Host, ranks_of_each, world_size
from nopsd.cluster.planning import hosts_that_train
from nopsd.cluster.preflight import address_of, facts_of, shared_mark
from nopsd.cluster.ssh import ask_all, module_command, ssh_command
from nopsd.config import Config
from nopsd.data.demonstrations import display_order
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.sources import load_splits
from nopsd.engine.device import device
from nopsd.engine.ds_config import built_operator, role_configs
from nopsd.errors import ServerError, UserError
from nopsd.model_check import check_model
from nopsd.models import ModelFiles, resolve_model
from nopsd.rollout.pool import connect, server_urls

CHECKPOINT_PARTS = ("student weights", "optimizer", "EMA master")
T = TypeVar("T")


@dataclass
class Diagnosis:
    """All that was found. `server_bytes`: for keys and values on one of the server's devices, where it is known."""

    ranks: int
    findings: list[Finding] = field(default_factory=list)
    needs: Needs | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: links.Links = field(default_factory=dict)
    prompts: str = ""
    server_bytes: int | None = None
    built: str | None = None  # the setting that has DeepSpeed compile an operator

    def attempt(self, check: str, call: Callable[[], T]) -> T | None:
        """What `call` returns; None, and its error among the findings, if it raises a UserError."""
        try:
            return call()
        except UserError as error:
            self.findings.append(Finding(check, "all", ERROR, str(error)))
            return None


def diagnose(config: Config) -> Diagnosis:
    """Make every check."""
    hosts = hosts_that_train(config)
    found = Diagnosis(world_size(hosts))
    model = usable_model(config, found)
    if model is not None:
        kind = "gpu" if device() == "cuda" else "cpu"
        student, teacher = found.attempt("memory", partial(role_configs, config, kind, ranks_of_each(hosts))) or (
            {},
            {},
        )
        shape = shape_of(str(model.path), config.model.trust_remote_code)
        found.needs = needs_of(config, shape, found.ranks, student, teacher)
        found.built = built_operator(student) or built_operator(teacher)
        found.attempt("prompts", partial(check_prompts, config, model.path, found))
    check_hosts(config, hosts, model.path if model else None, found)
    found.attempt("server", partial(check_servers, config, found))
    found.server_bytes = _server_bytes(config, found)
    return found


def usable_model(config: Config, found: Diagnosis) -> ModelFiles | None:
    """The model, if a run could start with it; else the fault is a finding."""

    def look() -> ModelFiles:
        model = resolve_model(config.model)
        check_model(model.path, config)
        return model

    return found.attempt("model", look)


def check_prompts(config: Config, model: Path, found: Diagnosis) -> None:
    """Both roles' prompts of a question of the pool."""
    pool = load_splits(config.data).pool
    tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
    renderer = PromptRenderer(tokenizer, config.prompt, config.context.placement)
    shown = min(config.context.m, len(pool) - 1)
    order = display_order(shown, config.context.order, str(config.context.seed))
    pair = prompts.render_pair(renderer, pool, shown, config.context.max_prompt, order)
    found.prompts = prompts.side_by_side(pair)
    found.findings += prompts.check_pair(pair, shown)


def check_hosts(config: Config, hosts: Sequence[Host], model: Path | None, found: Diagnosis) -> None:
    """Every host's facts, compared with the head's and with what the run needs."""
    training = [host.name for host in hosts]
    asked = [*training, *(h for h in config.rollout.hosts if h not in training)]
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
        found.findings += check_facts(config, hosts, token, asked_at, found)
    if len(found.facts) > 1 and not failures:
        found.attempt("links", partial(check_links, training, found))


def check_facts(
    config: Config, hosts: Sequence[Host], token: str, asked_at: dict[str, float], found: Diagnosis
) -> list[Finding]:
    """All checks on the hosts' facts.

    Args:
        config: The run's.
        hosts: Those that train, with their slots.
        token: What the head wrote into the run folder; a host that reads another doesn't share it.
        asked_at: By host, seconds of the head's clock halfway through the question.
        found: What is known so far: facts, memory, CUDA builds.
    """
    given, slots, on_gpu = found.facts, {host.name: host.slots for host in hosts}, device() == "cuda"
    findings = [
        *versions(given),
        *checks.clocks(given, asked_at),
        *names(given),
        *checks.ports(given),
        *shared_folder({name: given[name] for name in slots if name in given}, token),
        *checks.devices(given, slots, on_gpu),
    ]
    findings += checks.shared_memory(given, on_gpu)
    if on_gpu:
        findings += checks.compiler(given, found.built)
    if found.needs is None:  # no model was found, which is a finding already
        return findings
    served = config.server.gpu_memory_utilization if on_gpu and shares_devices(config) else 0.0
    sleeps = bool(served) and config.server.sleep
    in_host = sum(found.needs.host.values()) + (found.needs.server_weights if sleeps else 0)  # where weights sleep
    resting = found.needs.resting if sleeps else None
    per_rank, kept = found.needs.total, config.train.keep_checkpoints + config.train.keep_best
    saved = sum({**found.needs.device, **found.needs.host}.get(part, 0) for part in CHECKPOINT_PARTS)
    needed = world_size(hosts) * saved * (kept + 1)  # one more is written before the oldest is removed
    return [
        *findings,
        *checks.model(given),
        *checks.disk(given, needed),
        *checks.memory(given, slots, per_rank, in_host, on_gpu, served, resting),
    ]


def check_links(hosts: Sequence[str], found: Diagnosis) -> None:
    """Latency and bandwidth between the hosts."""
    addresses = {name: address_of(found.facts, name) for name in hosts}
    found.links, findings = links.measure_pairs(addresses, start_link)
    found.findings += findings


def start_link(host: str) -> subprocess.Popen[str]:
    """One end of a link, on a host."""
    pipe = subprocess.PIPE
    command = ssh_command(host, module_command("nopsd.cluster.doctor.link"))
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def check_servers(config: Config, found: Diagnosis) -> None:
    """The rollout servers that run already; of those the launcher will start only the memory is estimated.

    Raises:
        ServerError: None answers, or its window is shorter than server.max_model_len.
    """
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


def _server_bytes(config: Config, found: Diagnosis) -> int | None:
    """Bytes for keys and values on one of the server's devices, as it will be started."""
    if device() != "cuda":
        return config.server.kv_cache_mib << 20
    gpus = [d for own in found.facts.values() for d in own["devices"] if d["total"]]
    if not gpus or found.needs is None:
        return None
    whole = min(d["total"] for d in gpus)
    return int(config.server.gpu_memory_utilization * whole) - found.needs.server_weights - GIB
