"""Checks of a configuration: each key's own, then which keys contradict each other. All raise ConfigError."""

from __future__ import annotations

from datetime import datetime
from functools import reduce
from typing import Any

from nopsd.config.distill_rules import check_distill
from nopsd.config.layers import chosen_layers
from nopsd.config.methods import METHODS
from nopsd.config.schema import Config, DataConfig, Key, all_keys
from nopsd.errors import ConfigError
from nopsd.network import is_address, is_wildcard, why_no_host_name, why_no_url
from nopsd.plugins import is_own

# Choices that compare several answers of one question.
NEED_SAMPLES = {
    "select.selector": ("majority_conf", "nad_agreement", "belief_shift", "learnability"),
    "select.quality": ("majority_conf", "nad_agreement", "learnability"),
    "context.retriever": ("same_prompt_rollout",),
    "context.filter": ("majority",),
    "distill.contrast": ("at_odds",),
}

# Selectors that keep all, or whose scores are places in an order that they make.
NO_ENDS = ("all", "random", "dual_neufs", "kcenter", "facility_location", "stratified")

_PUBLISHED = ("lab", "sciknoweval", "mmlu_pro", "edu_feedback", "svamp", "gsm8k")
NOT_READ = (
    (_PUBLISHED, ("config", "split")),
    ((*_PUBLISHED, "instructions"), ("test_path", "test_split", "option_columns", "first_index")),
)


def validate(config: Config) -> None:
    """ConfigError for values that have the right type and still can't be meant."""
    for key in all_keys():
        value = value_of(config, key.name)
        if not _own_code(key, value):
            key.check(value)
    _check_prompt(config)
    chosen_layers(config.neuron.layers)
    _check_trace(config.train.trace)
    _check_data(config.data)
    _check_samples(config)
    _check_selection(config)
    _check_checkpoints(config)
    _check_neurons(config)
    check_distill(config)
    _check_method(config)
    if config.dist.hostfile is None:  # with one its slots count: nopsd.cluster.planning
        check_groups(config, config.dist.ranks, f"dist.ranks={config.dist.ranks}")
    _check_servers(config)
    _check_partial(config)


def value_of(config: Any, name: str) -> Any:
    """The value of a dotted key."""
    return reduce(getattr, name.split("."), config)


def _own_code(key: Key, value: Any) -> bool:
    """Only recognised here; it is loaded where it is used, and before expensive work."""
    if key.entry_points is None or value in key.choices:
        return False
    return value is not None and is_own(str(value), key.entry_points)


def _check_prompt(config: Config) -> None:
    if "{question}" not in config.prompt.question:
        raise ConfigError(f"prompt.question={config.prompt.question!r}: has no {{question}}: say where it is to stand")
    try:
        datetime.fromisoformat(config.prompt.date)
    except ValueError as error:
        raise ConfigError(f"prompt.date={config.prompt.date}: write a date as 2026-07-02") from error


def _check_trace(trace: str) -> None:
    if trace not in ("all", "none") and not (trace.isascii() and trace.isdigit() and int(trace) > 0):
        raise ConfigError(f"train.trace={trace}: use all, none, or N for every N-th step's responses")


def _check_data(data: DataConfig) -> None:
    """ConfigError for a key that the data set doesn't read: it would be ignored without a word."""
    for names, keys in NOT_READ:
        for key in keys:
            value = getattr(data, key)
            if data.name in names and value != getattr(DataConfig(), key):
                raise ConfigError(f"data.{key}={value} is not read by data.name={data.name}: leave it out")


def _check_samples(config: Config) -> None:
    for key, choices in NEED_SAMPLES.items():
        if value_of(config, key) in choices and config.zero_shot.n < 2:
            raise ConfigError(
                f"{key}={value_of(config, key)} compares several answers of one question, and "
                f"zero_shot.n={config.zero_shot.n}: set zero_shot.n=8, say"
            )
    if config.select.selector == "nait" and not config.signal.reference:
        raise ConfigError("select.selector=nait needs signal.reference: a JSONL of the target ability's examples")


def _check_selection(config: Config) -> None:
    """ConfigError for keys that the selector or the retriever would pass over without a word."""
    select, context = config.select, config.context
    if select.quality is not None and select.selector != "kcenter":
        raise ConfigError(
            f"select.quality={select.quality} weights the distances of select.selector=kcenter, and "
            f"select.selector={select.selector}: leave it out"
        )
    if select.keep is not None and select.selector in NO_ENDS:
        raise ConfigError(
            f"select.keep={select.keep}: the scores of select.selector={select.selector} have no other end to keep: "
            "leave it out"
        )
    if context.pick != "first" and context.retriever != "same_prompt_rollout":
        raise ConfigError(
            f"context.pick={context.pick} is of context.retriever=same_prompt_rollout, and context.retriever="
            f"{context.retriever}: leave it out"
        )


def _check_checkpoints(config: Config) -> None:
    train = config.train
    if train.export not in ("last", "best") and not train.export_step:
        raise ConfigError(f"train.export={train.export}: use last, best, or the number of a step")
    if train.epochs is None and (train.export_step or 0) > train.steps:
        raise ConfigError(f"train.export={train.export} is after the last step: there are train.steps={train.steps}")
    if train.export == "best" and not train.keep_best:
        raise ConfigError("train.export=best needs a best checkpoint: set train.keep_best=1")
    if train.keep_best and train.best_by.startswith("probe/") and not 0 < train.probe_every <= train.checkpoint_every:
        raise ConfigError(
            f"train.best_by={train.best_by} needs a probe before each checkpoint: set train.probe_every (now "
            f"{train.probe_every}) to at most train.checkpoint_every={train.checkpoint_every}"
        )


def _check_neurons(config: Config) -> None:
    """ConfigError for what would move a neuron that is held, or a mask of nothing."""
    train, mask = config.train, config.train.neurons
    if mask.learn is None:
        return
    for key, value, off in (
        ("train.lora.r", train.lora.r, 0),
        ("train.weight_decay", train.weight_decay, 0.0),
        ("train.mlp_tile", train.mlp_tile, 0),
    ):
        if value != off:
            raise ConfigError(
                f"train.neurons.learn={mask.learn} holds weights as they are, and {key}={value}: set {key}=0"
            )
    if (mask.learn == "protect") != (mask.run is not None):
        raise ConfigError(
            f"train.neurons.learn={mask.learn} and train.neurons.run={mask.run}: protect keeps another run's neurons, "
            "and needs its folder; the others need none"
        )


def _check_method(config: Config) -> None:
    """ConfigError for keys by which the method would be another one, or could not be run."""
    method, train = METHODS[config.method], config.train
    for key, value in method.means.items():
        if value_of(config, key) != value:
            raise ConfigError(
                f"{key}={value_of(config, key)} is not method={config.method} ({method.does}), which means "
                f"{key}={value}: leave {key} out, or name another method (nopsd takes any selector and retriever)"
            )
    if method.trainer in ("sft", "grpo", "opsa") and config.context.retriever != "none":
        raise ConfigError(
            f"method={config.method} shows no demonstrations, and context.retriever={config.context.retriever}: "
            "set context.retriever=none"
        )
    _check_labels(config)
    if method.trainer == "sft" and not config.sft.train_on_labels and config.zero_shot.n < 2:
        raise ConfigError(
            f"method={config.method} votes over several answers of one question, and zero_shot.n="
            f"{config.zero_shot.n}: set zero_shot.n=8, say"
        )
    if method.trainer == "grpo" and train.n < 2:
        raise ConfigError(
            f"method={config.method} compares several responses to one question, and train.n={train.n}: "
            "set train.n=8, say"
        )
    if config.method in ("u_opsd", "ttpo") and train.n < 2:
        raise ConfigError(
            f"method={config.method} votes over several responses to one question, and train.n={train.n}: set "
            "train.n=8, say"
        )
    if config.method == "ttpo" and config.ttpo.train_n > train.n:
        raise ConfigError(
            f"ttpo.train_n={config.ttpo.train_n} responses can't be taken of train.n={train.n}: lower it, or "
            "raise train.n"
        )
    if method.trainer in ("grpo", "opsa") and train.temperature != 1:
        raise ConfigError(
            f"method={config.method} compares log-probs with the server's, which have temperature 1, and "
            f"train.temperature={train.temperature:g}: set train.temperature=1"
        )
    if method.trainer != "distill" and train.keep_best and train.best_by == "reverse_kl":
        raise ConfigError(
            f"train.best_by=reverse_kl: method={config.method} has no teacher to measure it to: set train.best_by=loss"
        )


def _check_labels(config: Config) -> None:
    """Given outputs are trained on by the method for it alone, and only where the user asks for labels."""
    method, asked = METHODS[config.method], config.sft.train_on_labels
    if asked and not method.reads_labels:
        raise ConfigError(
            f"sft.train_on_labels=true, and method={config.method} ({method.does}) is label-free: leave it out, or "
            "name method=sft_given, which is compared with no label-free method"
        )
    if config.method == "sft_given" and not asked:
        raise ConfigError(
            "method=sft_given trains on the data's given outputs, which are labels: set sft.train_on_labels=true if "
            "that is what you mean; nait_sft is the label-free one"
        )


def check_groups(config: Config, world: int, ranks: str) -> None:
    """Can `world` ranks share a step's sequences?

    Args:
        world: how many ranks there are: `dist.ranks`, or the slots of the hostfile's training hosts.
        ranks: the key that sets it, for the message.

    Raises:
        ConfigError: for groups of ranks that aren't whole, or that would get no sequence.
    """
    together, sequences = config.dist.sequence_parallel, config.train.batch * config.train.n
    if world % together:
        raise ConfigError(f"dist.sequence_parallel={together} doesn't divide {ranks}: make one a multiple of the other")
    if METHODS[config.method].trainer is not None and sequences < world // together:
        raise ConfigError(
            f"train.batch={config.train.batch} x train.n={config.train.n} sequences a step are fewer than the "
            f"{world // together} groups of dist.sequence_parallel={together} that {ranks} make: some ranks would "
            "always be idle; raise train.batch, or lower the ranks"
        )


def _check_servers(config: Config) -> None:
    rollout = config.rollout
    given = {"server.url": config.server.url, "rollout.urls": rollout.urls, "rollout.hosts": rollout.hosts}
    named = [key for key, value in given.items() if value]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} both say where the rollout servers are: keep one")
    if rollout.colocate and named:
        raise ConfigError(f"rollout.colocate and {named[0]} both say where the rollout servers are: keep one")
    running = [key for key in ("server.url", "rollout.urls") if given[key]]
    if config.server.args and running:
        raise ConfigError(
            f"server.args are for servers that the run starts, and {running[0]} names a running one: leave them out"
        )
    for key, urls in (("server.url", [config.server.url or ""]), ("rollout.urls", rollout.urls)):
        for url in filter(None, (one.strip() for listed in urls for one in listed.split(","))):
            if why := why_no_url(url):
                raise ConfigError(f"{key}={url}: {why}")
    for host in rollout.hosts:
        if why := why_no_host_name(host):
            raise ConfigError(f"rollout.hosts: {why}")
        if rollout.hosts.count(host) > 1:
            raise ConfigError(
                f"rollout.hosts: {host} is there twice: see rollout.servers_per_host for several servers of it"
            )
    _check_addresses(config)


def _check_partial(config: Config) -> None:
    """ConfigError for what needs whole answers, all of one version, or a step's own questions alone."""
    share, train = config.rollout.partial, config.train
    if share is None:
        return
    trainer, weight = METHODS[config.method].trainer, config.distill.position_weight
    for key, value, meant, why in (
        ("method", config.method, trainer == "distill", "needs finished answers"),
        ("train.n", train.n, train.n == 1, "compares whole answers to one question: set train.n=1"),
        ("train.ahead", train.ahead, train.ahead == 0, "samples before a step knows what it cuts: set train.ahead=0"),
        ("train.replay", train.replay, train.replay is None, "has another run's answers: leave it out"),
        ("distill.position_weight", weight, weight is None, "goes by a token's place in the whole answer: set null"),
    ):
        if not meant:
            raise ConfigError(f"rollout.partial={share:g} cuts answers, and {key}={value} {why}; or leave it out")


def _check_addresses(config: Config) -> None:
    host, master = config.server.host, config.dist.master_addr
    if is_wildcard(host):
        raise ConfigError(
            f"server.host={host} would listen on every interface, and is no address to reach it by: give this host's "
            "address on the network that the trainer is on"
        )
    if master is not None and (is_wildcard(master) or (not is_address(master) and why_no_host_name(master))):
        raise ConfigError(f"dist.master_addr={master}: give the first host's name, or its address as the others see it")
    last = config.server.port + config.rollout.servers_per_host - 1
    if config.server.port and last > 65535:
        raise ConfigError(
            f"server.port={config.server.port} and the {config.rollout.servers_per_host - 1} after it go beyond 65535: "
            "give a lower one, or 0"
        )
