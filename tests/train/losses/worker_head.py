"""Two ranks: real ZeRO-3 student and teacher against one plain torch model, tied and untied (run by test_head.py).

Parameters are really released (nothing may stay live), rank 1 has no tokens in the second micro-batch, two
optimizer steps follow each other. Each rank prints one line of JSON for each of the two models.
"""

import argparse
import json
import sys
from pathlib import Path

import deepspeed
import torch
from deepspeed.utils import safe_get_full_grad
from transformers import Qwen3ForCausalLM

from nopsd.config import DistConfig, DistillConfig
from nopsd.engine.distributed import init_distributed, shutdown_distributed
from nopsd.engine.frozen import load_causal_lm, load_frozen
from nopsd.train.losses.fused_linear import DistillInputs
from nopsd.train.losses.head import DistillModel, gathered_weight, response_hidden
from tests.models import SMALL, qwen3
from tests.train.losses.reference import divergence

ZERO = {
    "stage": 3,
    "overlap_comm": False,
    "stage3_param_persistence_threshold": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_prefetch_bucket_size": 0,
    "reduce_bucket_size": 10000,
}
BASE = {"train_micro_batch_size_per_gpu": 2, "steps_per_print": 10**9, "zero_optimization": ZERO}
STUDENT = BASE | {"gradient_accumulation_steps": 2, "zero_allow_untested_optimizer": True}
CONFIG = DistillConfig(divergence="jsd", beta=0.4, temperature=1.1, logit_chunk=3)
VOCAB = 97


def save_models(folder, tied):
    """Two different random models with equal sizes."""
    for role, seed in (("student", 0), ("teacher", 1)):
        sizes = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8, "bos_token_id": None}
        lm = qwen3(seed, SMALL, **sizes, max_position_embeddings=64, eos_token_id=1, tie_word_embeddings=tied)
        lm.save_pretrained(f"{folder}/{role}")


def micro_batch(rank, step, micro):
    """Ragged (prompt_S, prompt_T, response) triples; none at all for rank 1 in the second micro-batch."""
    generator = torch.Generator().manual_seed(100 * step + 10 * micro + rank)
    lengths = [] if (rank, micro) == (1, 1) else [(3, 9, 5), (6, 7, 2 + rank)]
    return [[torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in triple] for triple in lengths]


def padded(prompts, responses):
    """Right-padded ids [B, T] and the flat positions that predict the responses; one lone id if there is nothing."""
    if not prompts:
        return torch.tensor([[5]]), torch.empty(0, dtype=torch.int64)
    width = max(len(p) + len(y) for p, y in zip(prompts, responses))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    rows = []
    for b, (prompt, response) in enumerate(zip(prompts, responses)):
        ids[b, : len(prompt) + len(response)] = torch.tensor(prompt + response)
        rows += range(b * width + len(prompt) - 1, b * width + len(prompt) + len(response) - 1)
    return ids, torch.tensor(rows)


def engine_result(student, teacher, sequences):
    """The FusedResult of one micro-batch; the teacher's weight is whole only while the forward runs."""
    responses = [y for _, _, y in sequences]
    teacher_ids, teacher_rows = padded([t for _, t, _ in sequences], responses)
    hidden = response_hidden(teacher, teacher_ids, teacher_rows)
    ids, rows = padded([s for s, _, _ in sequences], responses)
    target = torch.tensor([token for y in responses for token in y], dtype=torch.int64)
    with gathered_weight(teacher) as weight:
        inputs = DistillInputs(hidden, weight, 0.05 * (1 + torch.arange(len(rows))), target)
        return student(input_ids_BT=ids, rows_N=rows, loss_inputs=inputs)


def plain_loss(student, teacher, sequences):
    """The same from plain models, a sequence at a time, unpadded, over whole logits."""
    total, n = torch.zeros(()), 0
    for prompt_S, prompt_T, response in sequences:
        parts = []
        for model, prompt in ((student, prompt_S), (teacher, prompt_T)):
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
            parts.append((logits / CONFIG.temperature).log_softmax(-1))
        token_weight = 0.05 * (1 + torch.arange(n, n + len(response)))
        total = total + (token_weight * divergence(CONFIG.divergence, parts[0], parts[1].detach(), CONFIG.beta)).sum()
        n += len(response)
    return total


def compare(ranks, folder, tied):
    if ranks.is_main:
        save_models(folder, tied)
    ranks.barrier()
    lm = load_causal_lm(f"{folder}/student", "float32", STUDENT)
    optimizer = torch.optim.SGD(lm.parameters(), lr=0.5)
    student, *_ = deepspeed.initialize(model=DistillModel(lm, CONFIG), optimizer=optimizer, config=STUDENT)
    student.train()
    teacher = load_frozen(f"{folder}/teacher", "float32", BASE)
    plain_student, plain_teacher = (Qwen3ForCausalLM.from_pretrained(f"{folder}/{r}") for r in ("student", "teacher"))
    plain_optimizer = torch.optim.SGD(plain_student.parameters(), lr=0.5)
    head, seen = student.module.lm.lm_head, {"loss": 0.0, "grad": 0.0, "size": 0.0, "eval": 0.0}
    seen["elements_outside"] = head.weight.numel()
    seen["same_parameter"] = (head.weight is lm.model.embed_tokens.weight) == tied

    for step in range(2):
        for rank in range(2):
            for micro in range(2):  # DeepSpeed averages over ranks and accumulation steps
                loss = plain_loss(plain_student, plain_teacher, micro_batch(rank, step, micro)) / 4
                loss.backward() if loss.requires_grad else None
        for micro in range(2):
            result = engine_result(student, teacher, micro_batch(ranks.rank, step, micro))
            expected = plain_loss(plain_student, plain_teacher, micro_batch(ranks.rank, step, micro))
            seen["loss"] = max(seen["loss"], (result.loss - expected).abs().item())
            student.backward(result.loss)
            if micro == 0:
                student.step()  # counts the micro-batch
        for sharded, plain in zip(lm.parameters(), plain_student.parameters(), strict=True):
            gradient = safe_get_full_grad(sharded)
            seen["grad"] = max(seen["grad"], (gradient - plain.grad).abs().max().item())
            seen["size"] = max(seen["size"], plain.grad.abs().max().item())
        student.step()
        plain_optimizer.step()
        plain_optimizer.zero_grad()
        student.eval()
        with torch.no_grad():
            result = engine_result(student, teacher, micro_batch(ranks.rank, 7, 0))
            expected = plain_loss(plain_student, plain_teacher, micro_batch(ranks.rank, 7, 0))
        seen["eval"] = max(seen["eval"], (result.loss - expected).abs().item())
        student.train()
    seen["sums"] = ranks.all_sum(result.sums).tolist()
    # A file a rank: lines of two ranks in one stream run into each other.
    Path(f"{folder}.seen{ranks.rank}.json").write_text(json.dumps({"tied": tied, "rank": ranks.rank, **seen}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--local_rank", type=int, default=0)
    args = parser.parse_args()
    ranks = init_distributed(DistConfig(ranks=2, timeout_s=300))
    for tied in (False, True):
        compare(ranks, f"{args.folder}/{'tied' if tied else 'untied'}", tied)
    shutdown_distributed()


if __name__ == "__main__":
    sys.exit(main())
