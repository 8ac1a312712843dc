"""A whole training step, nopsd against TRL's trainers on equal tokens: time and memory.

    python tools/bench_step.py --peer-python PATH                  # 4 questions, 1 response each
    python tools/bench_step.py --peer-python PATH --samples 4      # 1 question, 4 responses
    python tools/bench_step.py --hidden 64 --layers 2 --vocab 2100 --context 40 --repeats 1    # a quick look

PATH: an interpreter with trl==1.16.0 transformers==5.23.0 (tools/peers/README.md); or set NOPSD_TRL_PYTHON. A tiny
Qwen3 of real vocabulary width, float32, frozen teacher, full-vocabulary reverse KL, AdamW, clip 1. Every question has
a context of its own, which the teacher reads before it; responses are canned, of ragged lengths, the same for every
arm, and generation is not timed. Each run of an arm is a process of its own and the arms take turns, every other turn
in reverse order.

Time is CPU seconds of all threads, the mean over the steps after the first, each from its batch's making to the
optimizer's step and the log's row. Memory is the most resident (the kernel's VmHWM) in any step, above the process
with its imports alone: weights of both roles, gradients, optimizer state and activations. The loss of the first step
must equal SDFTTrainer's. Ratios are of runs of the same turn: median [least, most].

    nopsd             DeepSpeed ZeRO-3 on one rank      nopsd-plain   the same loop without DeepSpeed
    nopsd-again       nopsd, the same questions in every step: stored contexts are used
    trl-sdft          SDFTTrainer, full_logits, its limit on prompts lifted
    trl-distillation  DistillationTrainer: no context, so it computes less than the others
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_loss import TOOLS, environment, has, ratios

from nopsd.train.batches import batch_uids

OWN = ("nopsd", "nopsd-again", "nopsd-plain")
PEERS = ("trl-sdft", "trl-distillation")
ARMS = OWN + PEERS
SAME_TASK = ("nopsd", "nopsd-plain", "trl-sdft")  # their losses must be equal
TOLERANCE = 1e-4  # relative, of float32 losses of a step
WORDS = 2000
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
Run = dict[str, Any]


# What all arms read.


def prepare(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """FOLDER/model, questions.json (in the order of nopsd's steps) and settings.json. The questions."""
    tokenizer = make_model(args, folder / "model")
    batch = args.sequences // args.samples
    uids = [f"q{i:03d}" for i in range(batch * args.steps)]
    in_order = [uid for step in range(args.steps) for uid in batch_uids(uids, step, batch, 0)]
    made = [question(args, uid, tokenizer) for uid in in_order]
    (folder / "questions.json").write_text(json.dumps(made))
    keys = ("sequences", "samples", "micro", "steps", "max_response", "threads", "lr", "clip")
    overrides = dict(read_override(item) for item in args.set)
    settings = {key: getattr(args, key) for key in keys} | {"folder": str(folder), "set": overrides}
    (folder / "settings.json").write_text(json.dumps(settings))
    return made


def make_model(args: argparse.Namespace, folder: Path) -> Any:
    """A Qwen3 with random weights and a tokenizer of whole words, saved; the tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    named = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[UNK]", "user", "assistant"]
    vocabulary = {word: i for i, word in enumerate(named + [f"w{i}" for i in range(WORDS)])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=named[0],
        eos_token=named[2],
        unk_token=named[3],
        padding_side="left",
        additional_special_tokens=[named[1]],
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=args.hidden // 8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def question(args: argparse.Namespace, uid: str, tokenizer: Any) -> dict[str, Any]:
    """Prompt, context and responses, of lengths drawn log-normally; a pure function of the uid."""
    rng = random.Random(uid)
    text, context = (" ".join(f"w{rng.randrange(WORDS)}" for _ in range(n)) for n in (args.prompt, args.context))

    def ids(content: str) -> list[int]:
        message = [{"role": "user", "content": content}]
        made = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=True)
        return list(made["input_ids"])

    def response() -> list[int]:
        drawn = int(rng.lognormvariate(0.0, 0.6) * args.response)
        length = max(min(8, args.max_response), min(args.max_response, drawn))
        return [rng.randrange(6, 6 + WORDS) for _ in range(length - 1)] + [2]

    return {
        "uid": uid,
        "text": text,
        "context": context,
        "student_ids": ids(text),
        "teacher_ids": ids(f"{context} {text}"),
        "responses": [response() for _ in range(args.samples)],
    }


def read_override(item: str) -> tuple[str, Any]:
    key, _, value = item.partition("=")
    return key, json.loads(value)


# Running and reporting.


def start(arm: str, folder: Path, args: argparse.Namespace, profiled: int = -1) -> Run:
    python = sys.executable if arm in OWN or not args.peer_python else args.peer_python
    script = "nopsd_step.py" if arm in OWN else "trl_step.py"
    command = [python, str(TOOLS / "peers" / script), arm, str(folder), str(profiled)]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment(python), check=False)
    if finished.returncode:
        raise SystemExit(f"{arm} failed under {python}:\n{finished.stdout[-500:]}\n{finished.stderr[-3000:]}")
    if profiled >= 0:
        print(finished.stderr)
    found: Run = json.loads(next(x for x in reversed(finished.stdout.splitlines()) if x.startswith("{")))
    found["step_cpu_s"] = statistics.mean(found["cpu_s"][1:])
    found["step_wall_s"] = statistics.mean(found["wall_s"][1:])
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    arms, left_out = list(args.arms), {}
    for arm in set(arms) & set(PEERS):
        if not (has(sys.executable, "trl") or (args.peer_python and has(args.peer_python, "trl"))):
            arms.remove(arm)
            left_out[arm] = "no interpreter with trl: give --peer-python or NOPSD_TRL_PYTHON"
    runs: dict[str, list[Run]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(args.keep or name)
        questions = prepare(args, folder)
        if args.profile:
            start(args.profile, folder, args, profiled=1)
            return {}
        for turn in range(args.repeats):
            for arm in arms[:: 1 if turn % 2 == 0 else -1]:
                runs[arm].append(start(arm, folder, args))
                print(f"turn {turn + 1}/{args.repeats} {arm}: {runs[arm][-1]}", file=sys.stderr)
            check_losses({arm: runs[arm][turn] for arm in arms})
    lengths = [len(y) for q in questions for y in q["responses"]]
    given = {k: v for k, v in vars(args).items() if k != "peer_python"}
    return {"arguments": given, "response_lengths": lengths, "left_out": left_out, "runs": runs}


def check_losses(runs: Mapping[str, Run]) -> None:
    """SystemExit unless the arms that do the same have the same losses: else they did different work."""
    losses = {arm: run["losses"] for arm, run in runs.items() if arm in SAME_TASK}
    for step in zip(*losses.values()):
        if max(step) - min(step) > TOLERANCE * max(abs(x) for x in step):
            raise SystemExit(f"losses differ: {losses}")


def table(found: Mapping[str, Any]) -> str:
    args, runs, lengths = found["arguments"], found["runs"], found["response_lengths"]
    base = "trl-sdft" if "trl-sdft" in runs else next(iter(runs))
    head = (
        f"{args['sequences'] // args['samples']} question(s) x {args['samples']} response(s) a step, prompt "
        f"{args['prompt']}, context {args['context']}, responses of {min(lengths)} to {max(lengths)} tokens (mean "
        f"{statistics.mean(lengths):.0f}); Qwen3 H={args['hidden']}, {args['layers']} layers, V={args['vocab']}, "
        f"{args['micro']} sequence(s) a micro-batch, {args['threads']} thread(s), {args['repeats']} turns; "
        f"ratios to {base} of the same turn: median [least, most]"
    )
    titles = ("arm", "CPU s a step", "time", "peak GiB", "memory", "loss of each step")
    lines = [head, "", "| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for arm, mine in runs.items():
        cells = [arm, f"{statistics.median(r['step_cpu_s'] for r in mine):.2f}", ratios(mine, runs[base], "step_cpu_s")]
        cells += [f"{statistics.median(r['peak_mib'] for r in mine) / 1024:.2f}", ratios(mine, runs[base], "peak_mib")]
        lines.append("| " + " | ".join([*cells, " ".join(f"{x:.5f}" for x in mine[0]["losses"])]) + " |")
    return "\n".join(lines + [f"\n{arm}: left out, {reason}" for arm, reason in found["left_out"].items()])


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=4, help="responses a step")
    parser.add_argument("--samples", type=int, default=1, help="responses to each question")
    parser.add_argument("--micro", type=int, default=4, help="sequences a micro-batch, of every arm")
    parser.add_argument("--steps", type=int, default=3, help="steps a run, the first of which is not timed")
    parser.add_argument("--prompt", type=int, default=64, help="words of a question")
    parser.add_argument("--context", type=int, default=1536, help="words of each question's own context")
    parser.add_argument("--response", type=int, default=160, help="median tokens of a response")
    parser.add_argument("--max-response", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON", help="of nopsd's config: distill.x=1")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--peer-python", default=os.environ.get("NOPSD_TRL_PYTHON"), help="interpreter with the peers")
    parser.add_argument("--profile", choices=ARMS, help="only list the operators of this arm's second step")
    parser.add_argument("--keep", metavar="FOLDER", help="leave the model and the questions there")
    parser.add_argument("--json", help="write all figures there")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.steps < 2 or args.sequences % args.samples or args.sequences % args.micro:
        parser().error("--steps is 2 or more; --sequences a multiple of --samples and of --micro")
    found = measure(args)
    if args.json and found:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    if found:
        print(table(found))


if __name__ == "__main__":
    main()
