"""Run by test_weight_sync_live under `deepspeed`: a ZeRO-3 student trains a step and pushes, for each backend.

Arguments: the case's JSON, where rank 0 writes the result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from nopsd.config import DistConfig, ServerConfig
from nopsd.engine.distributed import init_distributed, shutdown_distributed
from nopsd.errors import StaleWeightsError
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.served_weights import verify_served
from nopsd.rollout.weight_sync import open_weight_sync

DS_CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": False,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_live_parameters": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 0,
    },
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}


def train_step(engine: Any, seed: int) -> None:
    torch.manual_seed(10 * seed + dist.get_rank())
    ids_1T = torch.randint(5, 900, (1, 24))
    engine.backward(engine(ids_1T, labels=ids_1T).loss)
    engine.step()


@torch.no_grad()
def logprobs(engine: Any, case: dict[str, Any]) -> list[list[float]]:
    rows = []
    for prompt, response in zip(case["prompts"], case["responses"], strict=True):
        logits_TV = engine(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].float()
        rows.append(logits_TV.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0].tolist())
    return rows


def difference(client: RolloutClient, case: dict[str, Any], trained: list[list[float]]) -> float:
    return verify_served(client, case["prompts"], case["responses"], trained, float("inf"))


class WholeParameters:
    """Watches how many numbers are whole on this rank while parameters are gathered for a push."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.parameters = list(module.parameters())
        self.largest = 0
        self._enter = deepspeed.zero.GatheredParameters.__enter__

    def __enter__(self) -> WholeParameters:
        def enter(context: Any) -> Any:
            result = self._enter(context)
            self.largest = max(self.largest, sum(p.data.numel() for p in self.parameters if p.data.numel() > 1))
            return result

        deepspeed.zero.GatheredParameters.__enter__ = enter
        return self

    def __exit__(self, *_: object) -> None:
        deepspeed.zero.GatheredParameters.__enter__ = self._enter


def main(case_file: str, result_file: str) -> None:
    case = json.loads(Path(case_file).read_text())
    ranks = init_distributed(DistConfig(ranks=2, timeout_s=120))
    model = AutoModelForCausalLM.from_pretrained(case["model"], dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=DS_CONFIG)
    client = RolloutClient(case["url"], case["key"], 60)
    parameters = list(engine.module.parameters())
    whole = sum(p.ds_numel for p in parameters)
    result = []
    for version, backend in enumerate(case["backends"], 1):
        config = ServerConfig(weight_sync=backend, sync_bucket_mib=1, sync_timeout_s=60)
        sync = open_weight_sync(engine.module, client, config, ranks.rank, ranks.device)
        train_step(engine, version)
        trained = logprobs(engine, case)
        before = difference(client, case, trained) if ranks.is_main else 0.0
        with WholeParameters(engine.module) as watched:
            sync.push(version)
        if ranks.is_main:
            result.append(
                {
                    "version": client.policy_version(),
                    "worst_before": before,
                    "worst": difference(client, case, trained),
                    "held_share": sum(p.ds_tensor.numel() for p in parameters) / whole,
                    "largest_whole": watched.largest,
                    "largest_parameter": max(p.ds_numel for p in parameters),
                }
            )
        ranks.barrier()
        sync.close()
    if ranks.is_main:
        Path(result_file).write_text(json.dumps(result))
    shutdown_distributed()


if __name__ == "__main__":
    try:
        main(*sys.argv[-2:])  # the launcher puts --local_rank before them
    except StaleWeightsError as error:
        sys.exit(str(error))
