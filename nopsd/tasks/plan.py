"""`nopsd plan`: what a run needs and costs on given GPUs, before any is rented.

In: the configuration, the GPUs. Out: a text. Memory is `nopsd doctor`'s estimate with the first of our DeepSpeed
settings that fits; time is arithmetic (`nopsd.cluster.doctor.scaling`) with the constants of `Machine`, which are
assumptions: no run on GPUs has confirmed them. Lengths are assumed too: a response has a share of the most that it may
have. Nothing is started, fetched or written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nopsd.cluster.doctor.fitting import Room, room_on, shares_devices
from nopsd.cluster.doctor.memory import GIB, ModelShape, Needs, needs_of, shape_of
from nopsd.cluster.doctor.scaling import BF16, Machine, Shape, Work, forward_flops, rollout_s, step_s
from nopsd.config import METHODS, Config
from nopsd.engine.ds_config import role_configs
from nopsd.errors import ConfigError
from nopsd.files import read_json
from nopsd.run.stage import Counts
from nopsd.signals.needs import FROM_FORWARD, needed
from nopsd.stages.registry import STAGES
from nopsd.stages.workload import chosen
from nopsd.tasks.dry_run import Preview, count_questions, find_model
from nopsd.train.planning import settled

UNUSED = {
    "distill": (),
    "grpo": ("teacher",),
    "opsa": ("teacher",),
    "sft": ("rollout", "teacher", "sync"),
}  # phases that a trainer lacks
SCORING = 1.14  # of a bare forward's time (docs/results.md)
# Student's and teacher's DeepSpeed JSON, the fastest first.
CANDIDATES = (
    ("student_gpu.json", "teacher_gpu.json"),
    ("student_gpu.json", "teacher_gpu_offload.json"),
    ("student_gpu_offload.json", "teacher_gpu_offload.json"),
)


@dataclass(frozen=True)
class Gpus:
    """Hosts of `per_host` GPUs, each of `memory` GiB that PyTorch may use."""

    hosts: int
    per_host: int
    memory: float

    @property
    def ranks(self) -> int:
        return self.hosts * self.per_host


@dataclass(frozen=True)
class Lengths:
    """Tokens, as assumed: a question, a response as a share of the most that it may have."""

    question: int = 256
    share: float = 0.4


@dataclass(frozen=True)
class Cost:
    """One stage: tokens computed or sampled, bytes of weights sent to a server, seconds."""

    stage: str
    tokens: float
    sent: float
    seconds: float


def plan(config: Config, gpus: Gpus, lengths: Lengths) -> tuple[str, int]:
    """What a run would need and cost.

    Args:
        config: The run's.
        gpus: Which need not be there.
        lengths: Of questions in tokens, and the share of a limit that responses take.

    Returns:
        What to print, and the exit code: 1 if none of our DeepSpeed settings fits.

    Raises:
        ConfigError: The model's shape, the questions' number or the steps aren't known.
    """
    found = Preview()
    folder, counts = find_model(config, found), count_questions(config, found)
    if folder is None:
        raise ConfigError(f"model.path={config.model.path}: its config.json isn't here: give model.path=FOLDER")
    if counts is None:
        raise ConfigError(f"data.name={config.data.name}: how many questions it has isn't known: set data.path=FILE")
    shape = shape_of(str(folder), config.model.trust_remote_code)
    settings, needs, room = fitting_settings(config, shape, gpus)
    work = shape_for_work(folder, shape)
    machine = Machine(memory=gpus.memory * GIB, gpus_per_host=gpus.per_host)
    costs = costs_of(config, work, machine, gpus.ranks, counts, lengths)
    parts = [
        f"plan of method {config.method} with {config.model.path} on {gpus.hosts} x {gpus.per_host} GPUs of "
        f"{gpus.memory:g} GiB: {gpus.ranks} ranks, servers on {serving(config, gpus.per_host, gpus.ranks)} "
        f"{'of the same' if shares_devices(config) else 'other'} GPUs",
        memory_text(settings, needs, room),
        cost_text(costs, gpus.ranks),
        assumptions(machine, lengths),
    ]
    return "\n\n".join(parts), 0 if room.fits else 1


def fitting_settings(config: Config, shape: ModelShape, gpus: Gpus) -> tuple[tuple[str, str], Needs, Room]:
    """DeepSpeed's settings for these GPUs: the first of CANDIDATES with which a rank and its server fit, else the last.

    What the configuration names itself is taken alone.

    Args:
        config: The run's.
        shape: The model's.
        gpus: How many, and their memory.

    Returns:
        The files of student and teacher, what they need, and what is left.
    """
    dist = config.dist
    named = (dist.student_config or "student_gpu.json", dist.teacher_config or "teacher_gpu.json")
    own = bool(dist.student_config or dist.teacher_config)
    tried = []
    for student, teacher in [named] if own else CANDIDATES:
        ranks = replace(dist, ranks=gpus.ranks, hostfile=None)
        trial = replace(config, dist=replace(ranks, student_config=_path(student), teacher_config=_path(teacher)))
        needs = needs_of(trial, shape, gpus.ranks, *role_configs(trial, "gpu", gpus.per_host))
        tried.append(((student, teacher), needs, room_on(trial, needs, gpus.memory)))
        if tried[-1][2].fits:
            break
    return tried[-1]


def _path(name: str) -> str:
    return name if "/" in name else f"ds_configs/{name}"


def shape_for_work(folder: Path, shape: ModelShape) -> Shape:
    """The sizes that arithmetic depends on: of a mixture of experts those that a token meets."""
    config: Mapping[str, Any] = read_json(folder / "config.json")
    experts = config.get("num_experts_per_tok")
    mlp = experts * config.get("moe_intermediate_size", shape.mlp) if experts else shape.mlp
    return Shape(
        layers=shape.layers,
        hidden=shape.hidden,
        mlp=mlp,
        width=shape.heads * shape.head_width,
        kv_width=shape.kv_heads * shape.head_width,
        vocabulary=shape.vocabulary,
        tied=bool(config.get("tie_word_embeddings")),
        stored=shape.parameters,
    )


def costs_of(
    config: Config, shape: Shape, machine: Machine, ranks: int, counts: Counts, lengths: Lengths
) -> list[Cost]:
    """Every stage that takes GPUs for longer than a minute, in order.

    Args:
        config: The run's.
        shape: The model's.
        machine: GPUs and networks.
        ranks: GPUs.
        counts: Questions of pool and tests.
        lengths: Of questions in tokens, and the share of a limit that responses take.
    """
    tested, answered = sum(counts.tests.values()) * config.eval.n, counts.pool * config.zero_shot.n
    serve = serving(config, machine.gpus_per_host, ranks)
    evaluation = sampled("evaluate", shape, machine, serve, tested, config.eval.max_new, lengths)
    each = lengths.question + lengths.share * config.zero_shot.max_new
    scoring_s = SCORING * forward_flops(shape, each) * answered / (ranks * machine.peak * machine.efficiency)
    every = {
        "rollout": lambda: sampled("rollout", shape, machine, serve, answered, config.zero_shot.max_new, lengths),
        "evaluate_base": lambda: replace(evaluation, stage="evaluate_base"),
        "neurons": lambda: Cost("neurons", each * answered, 0.0, scoring_s),
        "signals": lambda: signalled(config, shape, machine, ranks, counts.pool, lengths),
        "train": lambda: trained(config, shape, machine, ranks, lengths, counts.pool),
        "evaluate": lambda: evaluation,
    }
    costs = [every[stage.name]() for stage in STAGES.planned(config) if stage.name in every]
    return [cost for cost in costs if cost.stage != "signals" or cost.seconds]


def signalled(config: Config, shape: Shape, machine: Machine, ranks: int, pool: int, lengths: Lengths) -> Cost:
    """The cost of the columns that selection goes by: passes over the stored answers, and answers with demonstrations.

    Args:
        config: The run's.
        shape: The model's.
        machine: GPUs and networks.
        ranks: GPUs.
        pool: Questions.
        lengths: Of questions in tokens, and the share of a limit that responses take.
    """
    columns = needed(config.select, config.context)
    response = lengths.share * config.zero_shot.max_new
    plain, taught = lengths.question + response, config.context.max_prompt + response
    # one pass for all columns of the forward; teacher_shift reads each answer behind both of its prompts
    read = [plain] * bool(columns & FROM_FORWARD) + [plain, taught] * ("teacher_shift" in columns)
    answered = pool * config.zero_shot.n
    flops = sum(forward_flops(shape, tokens) for tokens in read) * answered
    cost = Cost("signals", sum(read) * answered, 0.0, SCORING * flops / (ranks * machine.peak * machine.efficiency))
    if "belief_shift" not in columns:
        return cost
    serve, asked = serving(config, machine.gpus_per_host, ranks), replace(lengths, question=config.context.max_prompt)
    shown = sampled(
        "signals", shape, machine, serve, pool * config.signal.belief_samples, config.zero_shot.max_new, asked
    )
    return replace(shown, tokens=shown.tokens + cost.tokens, seconds=shown.seconds + cost.seconds)


def serving(config: Config, per_host: int, ranks: int) -> int:
    """GPUs that serve rollouts: of rollout.hosts, of every host with rollout.colocate, else of the first host; of
    running servers, as many as train."""
    if config.server.url or config.rollout.urls:
        return ranks
    wanted = config.rollout.servers_per_host * config.server.tensor_parallel or per_host
    hosts = -(-ranks // per_host) if config.rollout.colocate else len(config.rollout.hosts)
    return min(wanted, per_host) * max(1, hosts)


def sampled(
    stage: str, shape: Shape, machine: Machine, serve: int, sequences: int, longest: int, lengths: Lengths
) -> Cost:
    """The cost of responses to prompts, by servers on `serve` GPUs.

    Args:
        stage: Its name.
        shape: The model's.
        machine: GPUs and networks.
        serve: GPUs that serve.
        sequences: Responses.
        longest: Tokens of a response, at most.
        lengths: Of questions in tokens, and the share of `longest` that responses take.
    """
    response = round(lengths.share * longest)
    work = Work(sequences=sequences, question=lengths.question, response=response, longest=longest)
    tokens = sequences * (lengths.question + response)
    return Cost(stage, tokens, 0.0, rollout_s(shape, machine, work, serve))


def trained(config: Config, shape: Shape, machine: Machine, ranks: int, lengths: Lengths, pool: int) -> Cost:
    """The cost of all training steps, in which the phases follow each other.

    Args:
        config: The run's.
        shape: The model's.
        machine: GPUs and networks.
        ranks: GPUs.
        lengths: Of questions in tokens, and the share of a limit that responses take.
        pool: Questions, of which selection leaves some: epochs are over these.
    """
    trainer = METHODS[config.method].trainer
    train = settled(config.train, chosen(config, pool))
    response = round(lengths.share * train.max_response)
    work = Work(
        sequences=train.batch * train.n,
        question=lengths.question,
        context=config.context.max_prompt if trainer == "distill" else lengths.question,
        response=response,
        longest=train.max_response,
        micro_tokens=train.micro_tokens or train.micro * (config.context.max_prompt + train.max_response),
        checkpointing=train.gradient_checkpointing,
        together=config.dist.sequence_parallel,
    )
    question, taught = work.question + response, work.context + response
    # each sequence is sampled, read by the teacher, and read by the student
    tokens = (
        work.sequences
        * {"distill": 2 * question + taught, "grpo": 2 * question, "opsa": 3 * question, "sft": question}[
            trainer or "sft"
        ]
    )
    sent = 0 if trainer == "sft" else BF16 * shape.parameters  # to the server
    phases = step_s(shape, machine, work, ranks, serving(config, machine.gpus_per_host, ranks))
    seconds = sum(spent for phase, spent in phases.items() if phase not in UNUSED[trainer or "sft"])
    return Cost("train", tokens * train.steps, sent * train.steps, train.steps * seconds)


def memory_text(settings: tuple[str, str], needs: Needs, room: Room) -> str:
    """A rank's memory by part, and whether it fits."""
    rows = [f"memory of a GPU, with {settings[0]} and {settings[1]}:"]
    rows += [f"  {name:20} {size / GIB:8.2f} GiB" for name, size in needs.device.items() if size]
    rows += [f"  {name:20} {size / GIB:8.2f} GiB of the host's" for name, size in needs.host.items() if size]
    rows.append(f"  {'a rank':20} {needs.total / GIB:8.2f} GiB")
    if room.fits:
        server = "" if room.tokens is None else f", room for {room.tokens:,} tokens in its server"
        rows.append(f"  fits: {room.left / GIB:.1f} GiB left{server}")
    else:
        why = f"{-room.left / GIB:.1f} GiB are missing" if room.left < 0 else f"its server has room for {room.tokens:,}"
        why += "" if room.left < 0 else f" tokens, and one sequence may have {room.wanted:,}"
        rows.append(
            f"  does not fit: {why}; take more or larger GPUs, train.lora.r=16, or a smaller train.micro_tokens"
        )
    return "\n".join(rows)


def cost_text(costs: list[Cost], ranks: int) -> str:
    """Work and time by stage."""
    rows = [f"{'stage':14} {'tokens':>10} {'to server':>9} {'hours':>8} {'GPU-hours':>10}"]
    for cost in [*costs, Cost("all", *(sum(getattr(c, f) for c in costs) for f in ("tokens", "sent", "seconds")))]:
        hours = cost.seconds / 3600
        work = f"{cost.tokens / 1e6:>8.1f} M {cost.sent / GIB:>5.0f} GiB"
        rows.append(f"{cost.stage:14} {work} {hours:>8.2f} {hours * ranks:>10.1f}")
    return "\n".join(rows)


def assumptions(machine: Machine, lengths: Lengths) -> str:
    """What the times stand on."""
    return (
        f"assumed, not measured: {machine.peak / 1e12:g} TFLOP/s a GPU of which {machine.efficiency:.0%} are reached, "
        f"{machine.memory_rate / 1e12:g} TB/s of which {machine.memory_efficiency:.0%}, {machine.network_rate / 1e9:g} "
        f"GB/s a network card;\n  questions of {lengths.question} tokens, responses of {lengths.share:.0%} of the most "
        "that they may have.\nLeft out: start-up, checkpoints, stragglers."
    )
