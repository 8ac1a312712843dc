"""A model of what a training step costs on many GPUs: compute, ZeRO-3's gathers, rollouts, weight sync.

In: a model's shape, a machine's constants, a step's work, how many GPUs train and how many serve. Out: seconds by
phase. Pure arithmetic; `tools/scaling.py` prints the table. What it leaves out: start-up, data, checkpoints,
stragglers, a network shared with others, and everything that a real cluster has of its own.

Per token a forward costs 2 FLOPs a weight that is multiplied (Kaplan et al., arXiv 2001.08361) and attention
4 · layers · width · (positions seen); a backward twice that, and checkpointing one forward more. ZeRO-3 gathers the
weights in the forward and again in the backward, and reduce-scatters the gradients, in every micro-batch (Rajbhandari
et al., arXiv 1910.02054, Section 7): three times the model's bytes through each host's link, and once more for the
teacher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BF16 = 2
STATE_BYTES = 20  # a parameter: bf16 weights, float32 gradients, master weights and two moments, the teacher's bf16
UPDATE_BYTES = 28  # moved by AdamW a parameter: float32 gradient, weights and moments read, three written


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes. `width`: heads x head width, of the queries; `kv_width` of the keys."""

    layers: int
    hidden: int
    mlp: int
    width: int
    kv_width: int
    vocabulary: int
    tied: bool
    stored: int = (
        0  # parameters of a mixture of experts, whose `mlp` are those that a token meets; 0: what is multiplied
    )

    @property
    def multiplied(self) -> int:
        """Weights that a token is multiplied by: the layers' and the output head."""
        layer = 2 * self.hidden * self.width + 2 * self.hidden * self.kv_width + 3 * self.hidden * self.mlp
        return self.layers * layer + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Without norms, which are thousands among billions."""
        return self.stored or self.multiplied + (0 if self.tied else self.vocabulary * self.hidden)

    @property
    def kv_bytes(self) -> int:
        """Of one position's keys and values."""
        return 2 * self.layers * self.kv_width * BF16


QWEN3 = {  # from the config.json of each on the hub
    "Qwen3-4B": Shape(36, 2560, 9728, 4096, 1024, 151936, True),
    "Qwen3-8B": Shape(36, 4096, 12288, 4096, 1024, 151936, False),
    "Qwen3-14B": Shape(40, 5120, 17408, 5120, 1024, 151936, False),
    "Qwen3-32B": Shape(64, 5120, 25600, 8192, 1024, 151936, False),
}


@dataclass(frozen=True)
class Machine:
    """A GPU, its host and the network. The defaults are assumptions for H100 hosts with eight 400 Gb/s cards, not
    measurements; `sync_factor` and `control_s` stand for what tools/bench_sync.py measures."""

    peak: float = 989e12  # FLOP/s, dense bf16, data sheet
    efficiency: float = 0.40  # of it, in training and prefill
    memory_rate: float = 3.35e12  # bytes/s, data sheet
    memory_efficiency: float = 0.6  # of it, in decoding
    memory: float = 80e9  # bytes
    room: float = 0.65  # of it for states; the rest is activations and buffers
    gpus_per_host: int = 8
    inside_rate: float = 350e9  # bytes/s a GPU, NVLink's all-gather
    network_rate: float = 50e9  # bytes/s a GPU's network card, data sheet
    network_efficiency: float = 0.8
    hop_s: float = 10e-6  # latency of a ring's step between hosts
    overlap: float = 0.7  # of the shorter of compute and communication that hides behind the longer
    sync_factor: float = 1.5  # weight sync against a plain transfer of the same bytes
    control_s: float = 0.1  # a sync's requests


@dataclass(frozen=True)
class Work:
    """One step. Lengths are tokens, means but for `longest`."""

    sequences: int = 512  # prompts x rollouts
    question: int = 256
    context: int = 6144  # the teacher's prompt with its demonstrations
    response: int = 2048
    longest: int = 8192  # the response that the others wait for
    micro_tokens: int = 32768  # of a micro-batch on a GPU
    checkpointing: bool = True
    at_once: int = 256  # sequences that a server decodes together
    together: int = 1  # ranks that compute one sequence (dist.sequence_parallel)


def states_fit(shape: Shape, machine: Machine, train: int) -> bool:
    """Whether weights, gradients, optimizer and teacher have room without offload.

    Args:
        shape: The model's.
        machine: GPUs and networks.
        train: GPUs that train.
    """
    return STATE_BYTES * shape.parameters / train <= machine.room * machine.memory


def server_gpus(shape: Shape, machine: Machine) -> int:
    """Least power of two whose memory holds the weights in half of it: server.tensor_parallel."""
    return 1 << max(0, math.ceil(math.log2(BF16 * shape.parameters / (0.5 * machine.memory))))


def rollout_s(shape: Shape, machine: Machine, work: Work, serve: int) -> float:
    """Seconds in which the servers answer a step's prompts.

    Decoding reads all weights and all keys and values for every token; the prompts' prefill comes first.

    Args:
        shape: The model's.
        machine: GPUs and networks.
        work: A step's sequences and their lengths in tokens.
        serve: GPUs that serve.
    """
    together = min(server_gpus(shape, machine), serve)
    servers = serve // together
    queue = math.ceil(work.sequences / servers)
    decoded = min(queue, work.at_once)
    kept = work.question + work.response / 2
    read = (BF16 * shape.parameters + decoded * kept * shape.kv_bytes) / together
    token = max(
        read / (machine.memory_rate * machine.memory_efficiency),
        2 * shape.multiplied * decoded / (together * machine.peak * machine.efficiency),
    )
    waves = queue / decoded  # of which the last alone waits for its longest response
    prefill = forward_flops(shape, work.question) * queue / (together * machine.peak * machine.efficiency)
    return prefill + token * ((waves - 1) * work.response + work.longest)


def forward_flops(shape: Shape, tokens: float, before: float = 0.0) -> float:
    """Floating-point operations of a forward pass: those of the weights, and causal attention.

    Args:
        shape: The model's.
        tokens: Positions that are computed.
        before: Positions before them, whose keys and values are kept.
    """
    return 2 * shape.multiplied * tokens + 4 * shape.layers * shape.width * tokens * (before + tokens / 2)


def sequences_of(work: Work, train: int) -> int:
    """Of the GPU, or of the group that computes them together, that has the most; the others wait for it."""
    return math.ceil(work.sequences * work.together / train)


def compute_s(shape: Shape, machine: Machine, work: Work, train: int) -> tuple[float, float]:
    """Seconds of the teacher's and of the student's arithmetic on a GPU.

    Args:
        shape: The model's.
        machine: GPUs and networks.
        work: A step's sequences and their lengths in tokens.
        train: GPUs that train.
    """
    forwards = 4 if work.checkpointing else 3  # a backward counts as two
    rate = work.together * machine.peak * machine.efficiency / sequences_of(work, train)
    teacher = forward_flops(shape, work.context + work.response)
    return teacher / rate, forwards * forward_flops(shape, work.question + work.response) / rate


def gather_s(shape: Shape, machine: Machine, train: int) -> float:
    """Seconds in which all weights are gathered once over the GPUs that train.

    The slower of what comes in through the host's cards and what goes round inside, and the rings' latency. Gradients
    take as long to be reduce-scattered.

    Args:
        shape: The model's.
        machine: GPUs and networks.
        train: GPUs that train.
    """
    size, hosts = BF16 * shape.parameters, math.ceil(train / machine.gpus_per_host)
    cards = machine.network_rate * machine.network_efficiency * min(train, machine.gpus_per_host)
    between = size * (hosts - 1) / hosts / cards
    inside = size * (train - 1) / train / machine.inside_rate
    return max(between, inside) + shape.layers * (hosts - 1) * machine.hop_s


def micro_batches(work: Work, train: int, length: float) -> int:
    """Micro-batches of a step on a GPU; no sequence is cut.

    Args:
        work: A step's sequences and their lengths in tokens.
        train: GPUs that train.
        length: Of a sequence, in tokens.
    """
    a_time = max(1, int(work.micro_tokens // length))
    return math.ceil(sequences_of(work, train) / a_time)


def sync_s(shape: Shape, machine: Machine) -> float:
    """Through the sender's one card, bucket by bucket while the next is gathered."""
    size = BF16 * shape.parameters
    return machine.sync_factor * size / (machine.network_rate * machine.network_efficiency) + machine.control_s


def step_s(shape: Shape, machine: Machine, work: Work, train: int, serve: int) -> dict[str, float]:
    """Seconds by phase of one strictly on-policy step, in which the phases follow each other.

    Args:
        shape: The model's.
        machine: GPUs and networks.
        work: A step's sequences and their lengths in tokens.
        train: GPUs that train.
        serve: GPUs that serve.
    """
    once = gather_s(shape, machine, train)
    teacher, student = compute_s(shape, machine, work, train)
    return {
        "rollout": rollout_s(shape, machine, work, serve),
        "teacher": together(teacher, once * micro_batches(work, train, work.context + work.response), machine),
        "student": together(student, 3 * once * micro_batches(work, train, work.question + work.response), machine),
        "update": UPDATE_BYTES * shape.parameters / train / (machine.memory_rate * machine.memory_efficiency),
        "sync": sync_s(shape, machine),
    }


def together(compute: float, communication: float, machine: Machine) -> float:
    """Seconds of both, `machine.overlap` of the shorter hidden behind the longer.

    Args:
        compute: Seconds of arithmetic.
        communication: Seconds of the networks.
        machine: GPUs and networks.
    """
    return max(compute, communication) + (1 - machine.overlap) * min(compute, communication)
