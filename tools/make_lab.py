#!/usr/bin/env python3
"""Make the lab: write the synthetic world's files and train its base model, from a seed, on a CPU.

    python tools/make_lab.py --out nopsd/lab/model          # the shipped model; under an hour on 2 cores
    python tools/make_lab.py --out /tmp/lab --steps 50      # a smoke run

Plain PyTorch, one process. Tokens of every solution that is not a stray (see `nopsd.lab.episodes`)
are trained on; questions are only read. Ends by measuring, by sampling as evaluation does, what
the world promises: zero-shot accuracy and accuracy after four right demonstrations, by domain.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from nopsd.data.answers import extract_answer
from nopsd.data.wording import Demonstration, chat_messages
from nopsd.evaluation.metrics import majority_answer
from nopsd.lab.episodes import Episode, sample_episode
from nopsd.lab.tokenizer import train_tokenizer
from nopsd.lab.world import DOMAINS, conclude, make_split, reason, split_chains

VOCAB = 1024
# Episodes of a training step, by number of worked examples: much zero-shot, some of each.
SHOTS_PER_STEP = {0: 24, 1: 6, 2: 6, 3: 6, 4: 12}
LICENSE = Path(__file__).resolve().parents[1] / "LICENSE"


def render(tokenizer: PreTrainedTokenizerFast, episode: Episode) -> tuple[list[int], list[bool]]:
    """Token ids of the whole conversation, and which of them are predicted in training."""
    prompt = tokenizer.apply_chat_template(
        episode.messages, tokenize=False, add_generation_prompt=True, enable_thinking=episode.thinking
    )
    text = prompt + episode.response + "<|im_end|>"
    spans, at = [(len(prompt), len(text))], 0
    for trained in episode.trained_demonstrations:
        start = prompt.index("\nSolution: ", at) + len("\nSolution:")
        at = prompt.index("</answer>", start) + len("</answer>")
        if trained:
            spans.append((start, at))
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    mask = [any(a <= s < b for a, b in spans) for s, _ in encoded["offset_mapping"]]
    return encoded["input_ids"], mask


def model_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def loss_sum(model: Qwen3ForCausalLM, batch: list[tuple[list[int], list[bool]]]) -> torch.Tensor:
    """Summed next-token cross-entropy of the masked tokens. Right-padded: causal attention needs no mask."""
    width = max(len(ids) for ids, _ in batch)
    ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
    mask_BT = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (ids, mask) in enumerate(batch):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT[row, : len(mask)] = torch.tensor(mask)
    hidden = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
    chosen = mask_BT[:, 1:]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[chosen]), ids_BT[:, 1:][chosen], reduction="sum")


def optimizers(model: Qwen3ForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices (it needs a third of AdamW's steps here), AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> None:
    rng = random.Random(f"pretrain {args.seed}")
    chains, _ = split_chains(args.seed)
    opts = optimizers(model, args.lr)
    warmup, start = max(1, args.steps // 20), time.time()
    for step in range(args.steps):
        scale = min((step + 1) / warmup, max(0.02, 1.25 * (1 - step / args.steps)), 1.0)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = args.lr * scale
            opt.zero_grad()
        groups = [
            [render(tokenizer, sample_episode(rng, chains, shots)) for _ in range(count)]
            for shots, count in SHOTS_PER_STEP.items()
        ]
        tokens = sum(sum(mask) for batch in groups for _, mask in batch)
        losses = []
        for batch in groups:
            loss = loss_sum(model, batch) / tokens
            loss.backward()
            losses.append(loss.item() * tokens / sum(sum(mask) for _, mask in batch))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
        if step % 50 == 0 or step == args.steps - 1:
            by_shots = " ".join(f"{k}-shot {v:.4f}" for k, v in zip(SHOTS_PER_STEP, losses, strict=True))
            print(f"step {step}/{args.steps}  {by_shots}  {time.time() - start:.0f} s", flush=True)
        if step % 300 == 299:
            model.save_pretrained(args.out)


@torch.no_grad()
def sample(model: Qwen3ForCausalLM, prompts: list[list[int]], n: int, pad: int, eos: int) -> list[list[list[int]]]:
    """`n` samples at evaluation's settings (temperature 0.6, top-p 0.95, top-k 20); left-padded batches."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
    out = model.generate(
        ids,
        attention_mask=(torch.arange(width) >= torch.tensor([width - len(p) for p in prompts])[:, None]).long(),
        do_sample=True,
        temperature=0.6,
        top_p=0.95,
        top_k=20,
        max_new_tokens=64,
        num_return_sequences=n,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    return out[:, width:].view(len(prompts), n, -1).tolist()


def measure(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, questions: int, n: int = 8) -> dict:
    """Avg@8 and maj@8 on test questions, zero-shot and after four right demonstrations from the pool."""
    model.eval()
    torch.manual_seed(seed)
    report: dict[str, dict[str, float]] = {}
    chains, _ = split_chains(seed)
    rng = random.Random(f"measure {seed}")
    for domain in DOMAINS:
        test = make_split(domain, "test", seed)
        for shots in (0, 4):
            average = majority = 0.0
            prompts = []
            for question in test.questions[:questions]:
                demos = [right_demonstration(rng, chains, domain) for _ in range(shots)]
                prompts.append(
                    tokenizer.apply_chat_template(
                        chat_messages(question, demos),
                        add_generation_prompt=True,
                        enable_thinking=False,
                        return_dict=False,
                    )
                )
            for at in range(0, len(prompts), 25):
                samples = sample(model, prompts[at : at + 25], n, tokenizer.pad_token_id, tokenizer.eos_token_id)
                for question, replies in zip(test.questions[at : at + 25], samples, strict=False):
                    texts = [tokenizer.decode(r, skip_special_tokens=True) for r in replies]
                    answers = [extract_answer(t, question) for t in texts]
                    right = test.answers[question.uid]
                    average += sum(a == right for a in answers) / n
                    majority += majority_answer(answers)[0] == right
            report.setdefault(domain.name, {}).update(
                {
                    f"{shots}-shot avg@8": round(average / len(prompts), 4),
                    f"{shots}-shot maj@8": round(majority / len(prompts), 4),
                }
            )
        print(domain.name, report[domain.name], flush=True)
    return report


def right_demonstration(rng: random.Random, chains: list, domain) -> Demonstration:
    from nopsd.lab.world import PHRASINGS, as_question, ask

    chain = rng.choice(chains)
    question = as_question("", domain, ask(domain, rng.randrange(4), chain, rng.randrange(PHRASINGS)))
    return Demonstration(question, f"{reason(domain, chain, domain.truth)} {conclude(chain, domain.truth)}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", type=int, default=250, help="test questions a domain in the closing measurement")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(f"corpus {args.seed}")
    chains, _ = split_chains(args.seed)
    corpus = []
    for _ in range(3000):
        episode = sample_episode(rng, chains, 1)
        corpus.append("\n".join([m["content"] for m in episode.messages] + [episode.response]))
    tokenizer = train_tokenizer([*corpus, LICENSE.read_text()], VOCAB)
    model = Qwen3ForCausalLM(model_config(tokenizer))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    tokenizer.save_pretrained(args.out)
    started = time.time()
    train(model, tokenizer, args)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(args.out)
    trained = time.time()
    report = measure(model, tokenizer, args.seed, args.measure)
    card = {
        "seed": args.seed,
        "steps": args.steps,
        "lr": args.lr,
        "torch": torch.__version__,
        "train_seconds": round(trained - started),
        "measured": report,
    }
    (args.out / "lab.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
