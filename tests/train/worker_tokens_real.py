"""Runs the GRPO and SFT stages on a real server; started by `deepspeed` on 2 ranks.

usage: worker_tokens_real.py MODEL_DIR OUT_DIR ACTION [ACTION ...]   with NOPSD_SERVER_URL and NOPSD_SERVER_KEY set
    ttrl, intuitor   OUT_DIR/ACTION: three GRPO steps of each reward, the second with a KL term, and the export
    ahead            OUT_DIR/ahead: like ttrl, the next step's responses sampled while one trains
    lying            OUT_DIR/lying: a sync that announces new weights without sending them; leaves OUT_DIR/lyingRANK.txt
    sft              OUT_DIR/sft: three steps on the responses of the base model, the probe after the second and last
    unserved         OUT_DIR/unserved: the same without a probe and without a client
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from nopsd.config import Config, DistConfig, GrpoConfig, PromptConfig, SamplingConfig, ServerConfig, TrainConfig
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.engine.broadcast import broadcast_from_rank0
from nopsd.engine.distributed import Ranks, init_distributed, shutdown_distributed
from nopsd.errors import StaleWeightsError
from nopsd.lab.world import DOMAINS, make_split
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.weight_sync import WeightSync
from nopsd.train.algorithms.grpo import Grpo
from nopsd.train.algorithms.sft import Finetuning
from nopsd.train.metrics import probe_metrics
from nopsd.train.metrics_log import MetricsLog
from nopsd.train.run import TrainingInputs
from nopsd.train.trainer import run_training

QUESTIONS = {question.uid: question for question in make_split(DOMAINS[0], "pool").questions[:6]}
EXAMPLES: dict[str, Any] = {}  # of the base model, for both runs of SFT


def config(action: str) -> Config:
    intuitor = action == "intuitor"
    return Config(
        server=ServerConfig(max_model_len=512, sync_bucket_mib=1, sync_timeout_s=120),
        train=TrainConfig(
            steps=3,
            batch=3,
            n=4,
            micro=4,
            max_response=40,
            lr=1e-3,
            warmup=1,
            schedule="cosine",
            checkpoint_every=2,
            seed=5,
            probe_every=2,
            probe_samples=2,
            ahead=int(action == "ahead"),
        ),
        grpo=GrpoConfig(reward="self_certainty" if intuitor else "majority", kl_coef=0.005 if intuitor else 0.0),
        dist=DistConfig(ranks=2, timeout_s=180),
    )


def push_nothing(self: WeightSync, version: int) -> None:
    """The first push is honest; the others only announce."""
    if version == 0:
        TRUE_PUSH(self, version)
    elif self._rank == 0:
        self._client.set_policy_version(version)


TRUE_PUSH = WeightSync.push


def run(action: str, model: Path, out: Path, ranks: Ranks) -> None:
    renderer = PromptRenderer(load_tokenizer(model), PromptConfig())
    prompts = {uid: renderer.student(question) for uid, question in QUESTIONS.items()}
    client: Any = None  # rank 0 alone talks to the server
    if ranks.is_main:
        client = RolloutClient(os.environ["NOPSD_SERVER_URL"], os.environ["NOPSD_SERVER_KEY"])
    made, folder = config(action), out / action

    def probe(version: int) -> dict[str, float]:
        samples = client.generate(
            list(prompts.values()), list(prompts), SamplingConfig(2, max_new=40), 3, expected_version=version
        )
        return probe_metrics(list(QUESTIONS.values()), samples, "lenient")

    def log(step: int) -> MetricsLog:
        return MetricsLog(folder, step)

    if action in ("sft", "unserved"):
        sampling = SamplingConfig(2, max_new=40)
        responses = EXAMPLES or broadcast_from_rank0(
            ranks,
            lambda: {
                uid: [r.response_ids for r in row if r.response_ids]
                for uid, row in zip(prompts, client.generate(list(prompts.values()), list(prompts), sampling, 7))
            },
        )
        EXAMPLES.update(responses)
        served = action == "sft"
        run_training(
            TrainingInputs(
                config=made,
                algorithm=Finetuning(responses=responses),
                selected=list(responses),
                student_prompts={uid: prompts[uid] for uid in responses},
                model_path=model,
                client=client if served else None,
                ranks=ranks,
                folder=folder,
                open_log=log,
                probe=probe if served and ranks.is_main else None,
            )
        )
        return
    if action == "lying":
        WeightSync.push = push_nothing  # type: ignore[method-assign]
    try:
        run_training(
            TrainingInputs(
                config=made,
                algorithm=Grpo(questions=QUESTIONS),
                selected=list(prompts),
                student_prompts=prompts,
                model_path=model,
                client=client,
                ranks=ranks,
                folder=folder,
                open_log=log,
                probe=probe if ranks.is_main else None,
            )
        )
    except StaleWeightsError as error:
        if action != "lying":
            raise
        (out / f"lying{ranks.rank}.txt").write_text(str(error))
    finally:
        WeightSync.push = TRUE_PUSH  # type: ignore[method-assign]


def main() -> None:
    model, out, *actions = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    ranks = init_distributed(config("").dist)
    for action in actions:
        run(action, Path(model), Path(out), ranks)
    ranks.barrier()
    shutdown_distributed()


if __name__ == "__main__":
    main()
