"""What the neuron stage, the selection and the context search take on paper: time, memory and bytes.

    python tools/plan_selection.py                                  # Qwen3-4B, to a million questions
    python tools/plan_selection.py --models all --ranks 8 64 --tflops 400 --overhead 1.35

Measured here at the start: the search's time for a pair of sets and for preparing one, at each model's number of
neurons, and the rate of a float32 matrix product (`--tflops` states another machine's). All else is arithmetic:

    forward   2 x active weights (attention and MLP) x tokens; scoring = forward x `--overhead`
    search    |S| x N x ns a pair / (ranks x threads) + (|S| + batches x N / ranks) x ns a set
              |S| = floor(fraction x N); batches: of queries that fit `--block-mib`
    memory    of a rank: its own sets 4 K N / R, the queries 4 K |S| twice while they are gathered, blocks, results
    bytes     of all ranks together, evenly shared; a ring sends (R - 1) / R of them

Model sizes: the `config.json` of Qwen/Qwen3-* on the Hugging Face Hub (Qwen3 Technical Report, arXiv 2505.09388,
tables 1 and 2): hidden_size, num_hidden_layers, intermediate_size or num_experts x moe_intermediate_size,
num_attention_heads, num_key_value_heads, head_dim = 128.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from bench_selection import make_sets

from nopsd.selection.bitcount import GROUP, planes_for
from nopsd.selection.sets import all_of
from nopsd.selection.tiles import MIB, make_layout, make_parts, plan_blocks, sweep

HEAD_DIM = 128


@dataclass(frozen=True)
class Model:
    """A decoder's sizes. `experts`: of each layer, `active` of them for a token; 1 and 1 where there are none."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_value_heads: int
    experts: int = 1
    active: int = 1

    @property
    def neurons(self) -> int:
        """M."""
        return self.layers * self.experts * self.intermediate

    @property
    def active_weights(self) -> int:
        """Weights that a token meets, embeddings left out."""
        attention = 2 * self.hidden * HEAD_DIM * (self.heads + self.key_value_heads)
        mlp = 3 * self.hidden * self.intermediate * self.active
        return self.layers * (attention + mlp)


MODELS = {
    "Qwen3-0.6B": Model(1024, 28, 3072, 16, 8),
    "Qwen3-1.7B": Model(2048, 28, 6144, 16, 8),
    "Qwen3-4B": Model(2560, 36, 9728, 32, 8),
    "Qwen3-8B": Model(4096, 36, 12288, 32, 8),
    "Qwen3-14B": Model(5120, 40, 17408, 40, 8),
    "Qwen3-32B": Model(5120, 64, 25600, 64, 8),
    "Qwen3-30B-A3B": Model(2048, 48, 768, 32, 4, experts=128, active=8),
}


@dataclass(frozen=True)
class Job:
    """How much is selected and compared: N questions, |S| = floor(fraction N), K, m, n a layer, R ranks."""

    questions: int
    ranks: int = 1
    fraction: float = 0.2
    k: int = 5_000
    m: int = 10

    @property
    def selected(self) -> int:
        return math.floor(self.fraction * self.questions + 1e-9)


def sample_bytes(job: Job, neurons: int) -> dict[str, float]:
    """What ranks hold or send, for either dist.context_exchange; samples are shared over the ranks."""
    n, s = job.questions, job.selected
    return {
        "counts and uids": 8 * n,
        "ids, gather-all": 4 * job.k * n,
        "ids packed": math.ceil(math.log2(neurons)) / 8 * job.k * n,
        "bitset": neurons / 8 * n,
        "ids, queries-only": 4 * job.k * s,
        "candidates, queries-only": 8 * job.m * job.ranks * s,
        "intersections": 4 * s * n,
    }


def rank_memory(job: Job, block_mib: int) -> float:
    """Bytes on a rank in the context search, queries-only."""
    own = 4 * job.k * job.questions / job.ranks
    queries = 2 * 4 * job.k * job.selected if job.ranks > 1 else 0  # a group of one reads its own sets
    candidates = 8 * job.m * job.ranks * job.selected + 5 * 8 * job.m * job.selected
    return own + queries + block_mib * MIB + candidates


@dataclass(frozen=True)
class Speed:
    """CPU nanoseconds of one thread for a pair of sets, and for preparing one set."""

    pair: float
    one: float


def search_seconds(job: Job, model: Model, speed: Speed, threads: int, block_mib: int) -> float:
    blocks = plan_blocks(block_mib * MIB, job.k, job.k, model.neurons, threads, planes_for(job.k))
    batches = -(-job.selected // blocks.queries)
    pairs = job.selected * job.questions * speed.pair / (job.ranks * threads)
    return (pairs + (job.selected + batches * job.questions / job.ranks) * speed.one) / 1e9


def scoring_seconds(job: Job, model: Model, tokens: int, flops: float, overhead: float) -> float:
    """On `job.ranks` ranks of `flops` each, questions of `tokens` tokens."""
    return 2 * model.active_weights * tokens * job.questions * overhead / (flops * job.ranks)


def measured_speed(k: int, neurons: int, queries: int = 2048, pool: int = 1024) -> Speed:
    """By the product's kernel, compiled before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sets = all_of(make_sets(queries, k, neurons, 50, 0.65, 0, 1))
    sweep(sets[:8], sets[:8], neurons, 512 * MIB, _nothing)
    start = time.process_time()
    layout = make_layout(sets, neurons)
    make_parts(sets, layout, GROUP)
    make_parts(sets[:pool], layout)
    prepared = time.process_time()
    sweep(sets, sets[:pool], neurons, 512 * MIB, _nothing)
    counted = time.process_time() - prepared
    torch.set_num_threads(threads)
    preparing = prepared - start
    return Speed(max(counted - preparing, 0.0) / (queries * pool) * 1e9, preparing / (queries + pool) * 1e9)


def measured_flops(size: int = 1536) -> float:
    """Of a float32 matrix product with torch's threads; the best of three."""
    a, best = torch.randn(size, size), math.inf
    for _ in range(3):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def human(amount: float, units: Sequence[str] = ("B", "KB", "MB", "GB", "TB", "PB"), step: float = 1000) -> str:
    """Three digits and a decimal unit."""
    place = 0
    while amount >= step and place < len(units) - 1:
        amount, place = amount / step, place + 1
    return f"{amount:.3g} {units[place]}"


def duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options().parse_args(arguments)
    torch.set_num_threads(options.threads)
    flops = options.tflops * 1e12 if options.tflops else measured_flops()
    print(f"matrix product: {flops / 1e12:.3g} TFLOP/s a rank ({'stated' if options.tflops else 'measured'})")
    for name in MODELS if options.models == ["all"] else options.models:
        model = MODELS[name]
        speed = Speed(options.ns_a_pair, 0) if options.ns_a_pair else measured_speed(options.k, model.neurons)
        print(f"\n{name}: L={model.layers}, M={model.neurons:,}, {model.active_weights / 1e9:.3g} G active weights")
        how = "stated" if options.ns_a_pair else f"measured; {speed.one / 1e3:.0f} us to prepare a set"
        print(f"K={options.k}, {speed.pair:.0f} ns a pair and thread ({how})")
        _print_table(_times(options, model, flops, speed))
        _print_table(_exchanges(options, model))
    return 0


def _times(options: argparse.Namespace, model: Model, flops: float, speed: Speed) -> list[list[str]]:
    rows = [["N", "ranks", "scoring", "context search", "memory a rank", "queries-only", "gather-all"]]
    for job in _jobs(options):
        sent = sample_bytes(job, model.neurons)
        rows.append(
            [
                f"{job.questions:,}",
                str(job.ranks),
                duration(scoring_seconds(job, model, options.tokens, flops, options.overhead)),
                duration(search_seconds(job, model, speed, options.threads, options.block_mib)),
                human(rank_memory(job, options.block_mib)),
                human(sent["ids, queries-only"] + sent["candidates, queries-only"]),
                human(sent["ids, gather-all"]),
            ]
        )
    return rows


def _exchanges(options: argparse.Namespace, model: Model) -> list[list[str]]:
    """Bytes of either exchange, with the most ranks."""
    jobs = [job for job in _jobs(options) if job.ranks == max(options.ranks)]
    columns = [sample_bytes(job, model.neurons) for job in jobs]
    rows = [[f"exchanged, {max(options.ranks)} ranks", *(f"N={job.questions:,}" for job in jobs)]]
    return rows + [[name, *(human(column[name]) for column in columns)] for name in columns[0]]


def _jobs(options: argparse.Namespace) -> list[Job]:
    return [Job(n, r, options.fraction, options.k, options.m) for n in options.questions for r in options.ranks]


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))


def _nothing(*block: object) -> None:
    pass


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["Qwen3-4B"], choices=[*MODELS, "all"])
    parser.add_argument("--questions", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--k", type=int, default=5_000)
    parser.add_argument("--m", type=int, default=10)
    parser.add_argument("--fraction", type=float, default=0.2)
    parser.add_argument("--tokens", type=int, default=2_000, help="of a prompt and its response")
    parser.add_argument("--overhead", type=float, default=1.35, help="scoring pass over bare forward, in time")
    parser.add_argument("--tflops", type=float, help="of a rank's matrix products (default: measured here)")
    parser.add_argument("--ns-a-pair", type=float, help="of a thread (default: measured here)")
    parser.add_argument("--threads", type=int, default=1, help="of a rank")
    parser.add_argument("--block-mib", type=int, default=512)
    return parser


if __name__ == "__main__":
    sys.exit(main())
