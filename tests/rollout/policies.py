"""Two implementations of one model on its own samples: what a trainer and a server are to each other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Samples:
    """Sequences with sampled ends. `lengths`: tokens of each prompt."""

    def __init__(self, sequences: Sequence[Tensor], lengths: Sequence[int]) -> None:
        self.sequences, self.lengths = list(sequences), list(lengths)

    @torch.no_grad()
    def logprobs(self, model: Any, head: str = "float32") -> Tensor:
        """Of every sampled token. `head`: its products' format; the trainer's is float32, the server's is its own."""
        rows = []
        for ids, length in zip(self.sequences, self.lengths):
            if head == "float32":
                hidden = model.base_model(input_ids=ids[None]).last_hidden_state[0, length - 1 : -1]
                logits = hidden.float() @ model.get_output_embeddings().weight.float().t()
            else:
                kept = len(ids) - length + 1
                logits = model(input_ids=ids[None], logits_to_keep=kept).logits[0, :-1].float()
            rows.append(logits.log_softmax(-1).gather(1, ids[length:, None])[:, 0])
        return torch.cat(rows)


def load(folder: Path | str, dtype: str, attention: str = "sdpa") -> Any:
    """The model as plain transformers has it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation=attention).eval()


@torch.no_grad()
def sample(model: Any, prompts: Sequence[Sequence[int]], tokens: int) -> Samples:
    """`tokens` tokens after each prompt, at temperature 1, whatever they are. Prompts of one length go together."""
    torch.manual_seed(0)
    sequences, lengths = [], []
    for length in sorted({len(p) for p in prompts}):
        ids = torch.tensor([p for p in prompts if len(p) == length])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
        )
        sequences += list(out)
        lengths += [length] * len(ids)
    return Samples(sequences, lengths)


def stepped(model: Any, samples: Samples, lr: float, count: int = 8) -> Any:
    """The float32 model after AdamW's first step at `lr`: by the sign of a loss's gradient, here of random rewards."""
    new = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(1)
    for ids, length in list(zip(samples.sequences, samples.lengths))[:count]:
        logits = new(input_ids=ids[None]).logits[0, length - 1 : -1].float()
        logprob = logits.log_softmax(-1).gather(1, ids[length:, None]).mean()
        (logprob * torch.randn((), generator=draw)).backward()
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.sub_(lr * parameter.grad.sign())
            parameter.grad = None
    return new


def in_dtype(model: Any, folder: Path | str, dtype: str, attention: str) -> Any:
    """The model's weights rounded to `dtype`, buffers as transformers has them."""
    made = load(folder, dtype, attention)
    made.load_state_dict(model.state_dict())
    return made
