"""A sampler of a few lines in place of vLLM: `generate` as the rollout client has it, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from nopsd.config import SamplingConfig
from nopsd.rollout.types import Rollout

BATCH = 256  # sequences sampled together


class LocalSampler:
    """`generate` as `RolloutClient` has it, from a module in this process, whatever weights it holds."""

    def __init__(self, lm: torch.nn.Module, tokenizer: Any, model_path: Path) -> None:
        ends = GenerationConfig.from_pretrained(model_path).eos_token_id
        self.lm, self.tokenizer, self.ends = lm, tokenizer, torch.tensor([ends] if isinstance(ends, int) else ends)

    def generate(
        self,
        prompts: Sequence[list[int]],
        uids: Sequence[str],
        sampling: SamplingConfig,
        seed: int,
        expected_version: int | None = None,
        **_: Any,
    ) -> list[list[Rollout]]:
        draw = torch.Generator().manual_seed(seed % 2**31)
        asked = [prompt for prompt in prompts for _ in range(sampling.n)]
        order, found = sorted(range(len(asked)), key=lambda i: len(asked[i])), {}
        trains = self.lm.training
        self.lm.eval()
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            found.update(zip(places, self._sample([asked[i] for i in places], sampling, draw)))
        self.lm.train(trains)
        rollouts = [
            self._rollout(uids[i // sampling.n], i % sampling.n, asked[i], found[i], expected_version or 0)
            for i in range(len(asked))
        ]
        return [rollouts[i : i + sampling.n] for i in range(0, len(rollouts), sampling.n)]

    def _rollout(self, uid: str, sample: int, prompt: list[int], ids: list[int], version: int) -> Rollout:
        ended = bool(ids) and ids[-1] in self.ends.tolist()
        text = self.tokenizer.decode(ids[:-1] if ended else ids)
        return Rollout(uid, sample, list(prompt), ids, text, "stop" if ended else "length", version)

    @torch.no_grad()
    def _sample(self, prompts: list[list[int]], sampling: SamplingConfig, draw: torch.Generator) -> list[list[int]]:
        """Responses to prompts padded on the left, with a cache of keys and values."""
        longest = max(map(len, prompts))
        ids_BT = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        place_B1, cache = mask_BT.sum(1, keepdim=True), None
        position_BT = (mask_BT.cumsum(1) - 1).clamp_min(0)
        responses: list[list[int]] = [[] for _ in prompts]
        ended_B = torch.zeros(len(prompts), dtype=torch.bool)
        for _ in range(sampling.max_new):
            out = self.lm(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=position_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            token_B = torch.multinomial(allowed(out.logits[:, -1], sampling), 1, generator=draw)[:, 0]
            for row in (~ended_B).nonzero()[:, 0].tolist():
                responses[row].append(int(token_B[row]))
            ended_B |= torch.isin(token_B, self.ends)
            if ended_B.all():
                break
            ids_BT, position_BT, place_B1 = token_B[:, None], place_B1, place_B1 + 1
            mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], 1)
        return responses


def allowed(logits_BV: torch.Tensor, sampling: SamplingConfig) -> torch.Tensor:
    """Probabilities [B, V] at the temperature, of the top k and of these the top p, as vLLM cuts them."""
    scaled = logits_BV / max(sampling.temperature, 1e-4)
    if sampling.top_k > 0:
        scaled = scaled.masked_fill(scaled < scaled.topk(sampling.top_k, -1).values[:, -1:], -torch.inf)
    sorted_BV, order_BV = scaled.softmax(-1).sort(-1, descending=True)
    sorted_BV[sorted_BV.cumsum(-1) - sorted_BV >= sampling.top_p] = 0
    return torch.zeros_like(sorted_BV).scatter(-1, order_BV, sorted_BV)
