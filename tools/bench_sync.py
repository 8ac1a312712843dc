"""Cost of a weight sync against a plain gloo broadcast of the same bytes, in one run.

    python tools/bench_sync.py                              # 100 MB, one server, buckets of 4, 16, 64 and 256 MiB
    python tools/bench_sync.py --mb 400 --servers 2 --json sync.json
    python tools/bench_sync.py --mb 400 --link 10gbit       # over a link of that rate (Linux, root, iproute2)

A Qwen3 of random weights is served by real vLLM servers on this host; its plain module is pushed to them. Beside each
push the same bytes go by one `broadcast` of one tensor from this process to another (to as many as there are servers),
so that both meet the same load of the machine. Median seconds of each phase:

    plain       the broadcast alone: what the link costs
    transfer    gather, pack, broadcast in buckets, and vLLM's loading of them into its layers
    push        the whole of it: health, pause, transfer, reset of the prefix cache, resume, version read back

`--link RATE` puts both on a link such as hosts have between them: the whole runs in a network namespace of its own,
whose loopback carries no more than RATE (a token bucket of `tc`). Without it the "link" is this machine's memory, which
both ends, and the loading of the weights into vLLM's layers, share.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nopsd.cluster.servers.local import start_servers, stop_servers
from nopsd.config import ServerConfig
from nopsd.engine.store import join_store, open_store
from nopsd.rollout.pool import connect
from nopsd.rollout.transport import finish, gloo_group, nbytes, start_broadcast
from nopsd.rollout.weight_source import WeightSource
from nopsd.rollout.weight_sync import open_weight_sync

ADDRESS = "127.0.0.1"
TIMEOUT_S = 300.0
LINK_VARIABLE = "NOPSD_BENCH_LINK"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--mb", type=float, default=100.0, help="millions of bytes of weights, about")
    top.add_argument("--servers", type=int, default=1)
    top.add_argument("--buckets", type=int, nargs="+", default=[4, 16, 64, 256], metavar="MiB")
    top.add_argument("--repeats", type=int, default=5)
    top.add_argument("--backend", choices=("gloo", "disk", "ipc"), default="gloo")
    top.add_argument("--link", metavar="RATE", help="the link's rate as tc writes it, e.g. 10gbit")
    top.add_argument("--json", type=Path, help="write the rows here too")
    return top


def make_model(folder: Path, mb: float) -> torch.nn.Module:
    """A float32 Qwen3 of 8 layers in FOLDER, with the lab's tokenizer, its width chosen by the size asked for."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from nopsd.models import LAB_MODEL

    tokenizer = AutoTokenizer.from_pretrained(LAB_MODEL)
    vocabulary, layers = len(tokenizer), 8
    width = 64
    while _bytes(width + 64, vocabulary, layers) <= mb * 1e6:
        width += 64
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=1,
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def _bytes(width: int, vocabulary: int, layers: int) -> int:
    return 4 * (width * vocabulary + layers * (9 * width * width + 2 * width * width + 128 * width))


def receive(port: int, name: str, rank: int, world: int, sizes: Sequence[int], times: int) -> None:
    """The other end of a broadcast: a process of its own."""
    group = gloo_group(join_store(ADDRESS, port, TIMEOUT_S), name, ADDRESS, rank, world, TIMEOUT_S)
    buffers = [torch.empty(size, dtype=torch.uint8) for size in sizes]
    for _ in range(times):
        for buffer in buffers:
            finish(start_broadcast(group, buffer))


class Plain:
    """The same bytes, broadcast to `receivers` processes that do nothing with them."""

    def __init__(self, sizes: Sequence[int], receivers: int, times: int) -> None:
        # Held until `close`: a receiver may still read the store when this process's own side of the group stands.
        self.store = store = open_store(ADDRESS, TIMEOUT_S)
        world, name = 1 + receivers, "plain"
        spawn = multiprocessing.get_context("spawn")
        self.processes = [
            spawn.Process(target=receive, args=(store.port, name, rank, world, list(sizes), times), daemon=True)
            for rank in range(1, world)
        ]
        for process in self.processes:
            process.start()
        own = join_store(ADDRESS, store.port, TIMEOUT_S)
        self.group = gloo_group(own, name, ADDRESS, 0, world, TIMEOUT_S)
        self.buffers = [torch.ones(size, dtype=torch.uint8) for size in sizes]

    def __call__(self) -> None:
        for buffer in self.buffers:
            finish(start_broadcast(self.group, buffer))

    def close(self) -> None:
        """Wait for the receivers, and only then close the store. RuntimeError if one failed."""
        for process in self.processes:
            process.join(TIMEOUT_S)
        del self.store
        if any(process.exitcode != 0 for process in self.processes):
            raise RuntimeError(f"receivers ended with exit codes {[process.exitcode for process in self.processes]}")


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(args: argparse.Namespace, model: torch.nn.Module, client: Any) -> list[dict[str, float]]:
    """A row a bucket size; the two arms take turns."""
    metas = WeightSource(model, is_sender=True).metas()
    total = sum(nbytes(m.dtype_name, m.shape) for m in metas)
    rows = []
    for number, mib in enumerate(args.buckets):
        row = {"bucket_mib": mib, "mb": total / 1e6, "servers": args.servers}
        row |= measure_bucket(args, model, client, mib, total, first_version=1 + number * (args.repeats + 1))
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    return rows


def measure_bucket(
    args: argparse.Namespace, model: torch.nn.Module, client: Any, mib: int, total: int, first_version: int
) -> dict[str, float]:
    """Medians without the first turn, which warms up; `least_*`: of the fastest turns, for a busy machine."""
    config = ServerConfig(weight_sync=args.backend, sync_bucket_mib=mib, sync_timeout_s=TIMEOUT_S)
    sync = open_weight_sync(model, client, config, rank=0, device="cpu")
    sender = Timed(sync._sender)
    sync._sender = sender
    plain = Plain([total], args.servers, args.repeats + 1)
    alone, pushes = [], []
    for version in range(first_version, first_version + args.repeats + 1):
        alone.append(seconds(plain))
        pushes.append(seconds(lambda version=version: sync.push(version)))  # type: ignore[misc]
    plain.close()
    sync.close()
    found = {"plain_s": alone, "transfer_s": sender.spent, "push_s": pushes}
    row = {name: statistics.median(values[1:]) for name, values in found.items()}
    return row | {
        "times_plain": row["push_s"] / row["plain_s"],
        "least_times_plain": min(pushes[1:]) / min(alone[1:]),
    }


class Timed:
    """A sender whose `send` is timed."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self.spent: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sender, name)

    def send(self, *given: Any) -> Any:
        start = time.perf_counter()
        failures = self._sender.send(*given)
        self.spent.append(time.perf_counter() - start)
        return failures


def on_link(rate: str, argv: Sequence[str]) -> None:
    """Start this tool again in a network namespace whose loopback has this rate; returns if it runs there already."""
    if os.environ.get(LINK_VARIABLE) == rate:
        return
    os.environ[LINK_VARIABLE] = rate
    limit = 'tc qdisc add dev lo root tbf rate "$1" burst 1mb latency 200ms'
    script = f'ip link set lo up && {limit} && shift && exec "$@"'
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", script, "sh", rate, sys.executable, __file__, *argv])


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.link:
        on_link(args.link, sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", args.mb)
        config = ServerConfig(max_model_len=128, max_num_seqs=4, kv_cache_mib=32)
        logs = [Path(folder) / f"server-{i}.log" for i in range(args.servers)]
        servers = start_servers(config, str(Path(folder) / "model"), "float32", logs)
        try:
            with connect(ServerConfig(api_key=servers[0].api_key), [s.url for s in servers]) as client:
                rows = measure(args, model, client)
        finally:
            stop_servers(servers)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
