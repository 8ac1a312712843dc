"""What only a GPU can show, part by part: kernels, loss, scoring, the teacher's forward, a step, the longest context.

    python tools/gpu_check.py --out gpu_check                        # one GPU; each part under 8 minutes
    python tools/gpu_check.py --out gpu_check --parts kernels loss   # some of them
    python tools/gpu_check.py --out gpu_check --tiny                 # on a CPU, tiny sizes: that the tool works

Each part is a process of its own, so that one that fails costs none of the others; it leaves OUT/PART.json, and the
table of all is printed and left as OUT/gpu_check.md. Random weights of Qwen3's shapes, bfloat16. Utilisation is of the
best large matrix product on the same device in the same process. How to send a result: docs/contributing.md.

    kernels   each loss kernel against float64 at V = 151,936 (float32: relative errors of loss and gradients)
    loss      the fused reverse KL, forward and backward: time, utilisation, memory above its inputs
    scoring   the scoring pass against a bare forward (tools/bench_scoring.py)
    teacher   a teacher's forward over a long prompt
    step      two ZeRO-3 steps of student and teacher on canned responses: time by phase, peak memory against the
              estimate of `nopsd doctor`
    context   the longest teacher's prompt with which such a step fits, found by doubling
    shared    memory of the device that another process reads in place, written twice (server.weight_sync=ipc)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from canned_run import canned_run, save_random
from scoring_arms import SHAPES, model_config
from shared_memory import shared_memory

from nopsd.config import Config, DistillConfig, TrainConfig
from nopsd.engine.distributed import init_distributed, shutdown_distributed
from nopsd.engine.packed_attention import use_packed_attention
from nopsd.train.losses.fused_linear import DistillInputs, fused_linear_divergence

GIB = 2**30
BOUND = 2e-5  # relative, of float32 kernels: some 150,000 terms a row added up pairwise or by blocks
PART_S = 8 * 60
Rows = list[dict[str, Any]]


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    """What a part is run with; tiny on a CPU."""
    if args.tiny:
        return {"shapes": ["tiny"], "tokens": 16, "vocabulary": 4096, "prompt": 64, "response": 8, "context": 64}
    return {
        "shapes": ["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"],
        "tokens": 4096,
        "vocabulary": 151_936,
        "prompt": 256,
        "response": 1024,
        "context": 8192,
    }


def kernels(args: argparse.Namespace) -> Rows:
    """Every divergence by the device's kernel and by torch in float64."""
    given, rows = sizes(args), []
    for keys in ({"divergence": "reverse_kl"}, {"divergence": "forward_kl"}, {"divergence": "jsd", "beta": 0.3}):
        name = "triton" if args.device == "cuda" else "torch"
        found = loss_of(args.device, 64, 64, given["vocabulary"], torch.float32, DistillConfig(**keys, kernel=name))
        wanted = loss_of(args.device, 64, 64, given["vocabulary"], torch.float64, DistillConfig(**keys, kernel="torch"))
        errors = {k: float((found[k].double() - wanted[k]).norm() / wanted[k].norm()) for k in wanted}
        rows.append({"objective": keys["divergence"], "kernel": name, **errors, "right": max(errors.values()) < BOUND})
    return rows


def loss_of(
    device: str, tokens: int, hidden: int, vocabulary: int, dtype: torch.dtype, config: DistillConfig
) -> dict[str, torch.Tensor]:
    """Loss and gradients; the same float32 numbers whatever the dtype."""
    generator = torch.Generator().manual_seed(0)
    h, w, th, tw = (
        (torch.randn(n, hidden, generator=generator) * scale).to(device, dtype)
        for n, scale in ((tokens, 1.0), (vocabulary, 0.3), (tokens, 1.0), (vocabulary, 0.3))
    )
    h.requires_grad_(), w.requires_grad_()
    weight = torch.full((tokens,), 1.0 / tokens, device=device, dtype=torch.float32)
    result = fused_linear_divergence(h, w, DistillInputs(th, tw, weight), config)
    result.loss.backward()
    assert h.grad is not None and w.grad is not None
    return {"loss": result.loss.detach(), "hidden": h.grad, "weight": w.grad}


def loss(args: argparse.Namespace) -> Rows:
    """Four matrix products of N x H x V, and what comes on top."""
    given, rate, rows = sizes(args), ceiling(args.device), []
    for shape in given["shapes"]:
        hidden, n, v = SHAPES[shape][0], given["tokens"], given["vocabulary"]
        call = partial(loss_of, args.device, n, hidden, v, torch.bfloat16, DistillConfig())
        seconds, peak = timed(args.device, call)
        inputs = 2 * 2 * (n + v) * hidden
        flops = 8 * n * hidden * v
        rows.append(
            {
                "shape": shape,
                "tokens": n,
                "ms": 1e3 * seconds,
                "utilisation": flops / seconds / rate,
                "GiB above inputs": (peak - inputs) / GIB,
            }
        )
    return rows


def scoring(args: argparse.Namespace) -> Rows:
    """tools/bench_scoring.py's figures, a shape at a time."""
    rows = []
    for shape in sizes(args)["shapes"]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "found.json"
            words = ["--shape", shape, "--device", args.device, "--json", str(file), "--repeats", "3"]
            words += ["--dtype", "bfloat16", "--batch", "8"] if args.device == "cuda" else ["--response", "64"]
            script = str(Path(__file__).with_name("bench_scoring.py"))
            subprocess.run([sys.executable, script, *words], check=True, stdout=subprocess.DEVNULL)
            found = json.loads(file.read_text())
        bare, ours = (min(found["seconds"][arm]) for arm in ("forward", "nopsd"))
        used = found["flops"]["forward"] / bare / found["ceiling_flops"]
        rows.append(
            {"shape": shape, "forward s": bare, "scoring s": ours, "ratio": ours / bare, "utilisation of forward": used}
        )
    return rows


def teacher(args: argparse.Namespace) -> Rows:
    """A forward over one prompt, without logits."""
    from transformers import AutoModelForCausalLM

    given, rate, rows = sizes(args), ceiling(args.device), []
    for shape in given["shapes"]:
        with torch.device(args.device):
            lm = AutoModelForCausalLM.from_config(model_config(shape, 0), dtype=torch.bfloat16).eval()
        use_packed_attention(lm)
        ids = torch.randint(SHAPES[shape][-1], (1, given["context"]), device=args.device)
        with torch.no_grad():
            seconds, peak = timed(args.device, lambda lm=lm, ids=ids: lm.base_model(ids, use_cache=False))
        hidden, width, layers, heads, kv_heads, head, _ = SHAPES[shape]
        length = given["context"]
        weights = hidden * head * (2 * heads + 2 * kv_heads) + 3 * hidden * width
        flops = layers * (2 * weights * length + 2 * length**2 * heads * head)
        rows.append(
            {
                "shape": shape,
                "context": length,
                "ms": 1e3 * seconds,
                "utilisation": flops / seconds / rate,
                "GiB": peak / GIB,
            }
        )
        del lm
    return rows


def step(args: argparse.Namespace) -> Rows:
    """Two steps; the second is measured."""
    given = sizes(args)
    return [one_step(args, shape, given["context"]) for shape in given["shapes"]]


def one_step(args: argparse.Namespace, shape: str, context: int) -> dict[str, Any]:
    """Time by phase and peak memory of a step with four questions, and doctor's estimate of that memory."""
    from nopsd.cluster.doctor.memory import needs_of, shape_of
    from nopsd.engine.ds_config import role_configs
    from nopsd.train.loop import train

    given = sizes(args)
    train_config = TrainConfig(steps=2, batch=4, micro=1, warmup=0, sync_check_every=0, checkpoint_every=2)
    config = Config(train=train_config)
    config.model.dtype = "bfloat16"
    config.teacher.kind = "frozen"
    config.context.max_prompt, config.train.max_response = context, given["response"]
    config.train.gradient_checkpointing = not args.tiny
    vocabulary = SHAPES[shape][-1]

    def ids(length: int, seed: int) -> list[int]:
        return torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(seed)).tolist()

    prompts = {f"q{i}": ids(given["prompt"], i) for i in range(4)}
    contexts = {uid: ids(context, 10 + i) for i, uid in enumerate(prompts)}
    with tempfile.TemporaryDirectory() as folder:
        model = save_random(model_config(shape, 0), Path(folder) / "model", torch.bfloat16)
        estimate = needs_of(config, shape_of(str(model)), 1, *role_configs(config, _kind(args.device), 1)).total
        ranks = init_distributed(config.dist)
        run = canned_run(config, model, ranks, prompts, contexts, ids(given["response"], 99))
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        train(run)
        rows = run.log.rows
    phases = {name: value for name, value in rows[-1].items() if name.startswith("time/")}
    peak = torch.cuda.max_memory_allocated() / GIB if args.device == "cuda" else float("nan")
    return {"shape": shape, "context": context, **phases, "peak GiB": peak, "estimated GiB": estimate / GIB}


def context(args: argparse.Namespace) -> Rows:
    """Doubled until a step no longer fits, each length in a process of its own."""
    rows = []
    for shape in sizes(args)["shapes"]:
        longest, tried = 0, sizes(args)["context"]
        while tried <= (128 if args.tiny else 131_072):
            words = ["--device", args.device, "--one-step", shape, str(tried), *(["--tiny"] if args.tiny else [])]
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
            if done.returncode:
                break
            longest, tried = tried, 2 * tried
        rows.append({"shape": shape, "longest context that fits": longest})
    return rows


def shared(args: argparse.Namespace) -> Rows:
    """What another process reads of a buffer in memory that both see."""
    return [shared_memory(args.device, (1 if args.tiny else 256) << 20)]


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "kernels": kernels,
    "loss": loss,
    "scoring": scoring,
    "teacher": teacher,
    "step": step,
    "context": context,
    "shared": shared,
}


def _kind(device: str) -> str:
    return "gpu" if device == "cuda" else "cpu"


def ceiling(device: str) -> float:
    """FLOP/s of one large bfloat16 matrix product: the best of five."""
    n = 8192 if device == "cuda" else 256
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    return 2 * n**3 / min(timed(device, lambda: a @ b)[0] for _ in range(5))


def timed(device: str, call: Callable[[], Any]) -> tuple[float, int]:
    """Seconds of the best of three calls after a first, and the most bytes that were allocated in them (GPU)."""
    call()
    best = float("inf")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return best, torch.cuda.max_memory_allocated() if device == "cuda" else 0


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def run_part(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The part in a process of its own; its rows, or why there are none."""
    words = [sys.executable, __file__, "--device", args.device, "--part", name, *(["--tiny"] if args.tiny else [])]
    start = time.perf_counter()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PART_S)
    except subprocess.TimeoutExpired:
        return {"part": name, "failed": f"took over {PART_S} s"}
    if done.returncode:
        return {"part": name, "failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return {"part": name, "seconds": time.perf_counter() - start, "rows": json.loads(done.stdout.splitlines()[-1])}


def table(found: Sequence[dict[str, Any]], device: str) -> str:
    """Markdown, a table a part."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    lines = [f"gpu_check on {name}, torch {torch.__version__}"]
    for part in found:
        lines += ["", f"## {part['part']}", ""]
        if "failed" in part:
            lines.append(f"failed: {part['failed']}")
            continue
        titles = list(part["rows"][0])
        lines += ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
        lines += ["| " + " | ".join(_shown(row[title]) for title in titles) + " |" for row in part["rows"]]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the figures")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--part", choices=list(PARTS), help="only print this part's rows (used by the tool)")
    parser.add_argument("--one-step", nargs=2, metavar=("SHAPE", "CONTEXT"), help="only this step (used by the tool)")
    args = parser.parse_args(argv)
    try:
        if args.part:
            print(json.dumps(PARTS[args.part](args)))
            return 0
        if args.one_step:
            print(json.dumps(one_step(args, args.one_step[0], int(args.one_step[1]))))
            return 0
    finally:
        shutdown_distributed()
    if args.out is None:
        parser.error("--out FOLDER")
    args.out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in args.parts:
        found.append(run_part(name, args))
        (args.out / f"{name}.json").write_text(json.dumps(found[-1], indent=1) + "\n")
        print(f"{name}: {found[-1].get('failed', 'done')}", file=sys.stderr, flush=True)
    text = table(found, args.device)
    (args.out / "gpu_check.md").write_text(text + "\n")
    print(text)
    return int(any("failed" in part or not all(row.get("right", True) for row in part["rows"]) for part in found))


if __name__ == "__main__":
    sys.exit(main())
