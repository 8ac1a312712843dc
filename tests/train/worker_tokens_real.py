"""Runs the GRPO and SFT stages on a real server; started by `deepspeed` on 2 ranks.

usage: worker_tokens_real.py MODEL_DIR OUT_DIR ACTION [ACTION ...]   with NOPSD_SERVER_URL and NOPSD_SERVER_KEY set
    ttrl, intuitor   OUT_DIR/ACTION: three GRPO steps of each reward, the second with a KL term, and the export
    ahead            OUT_DIR/ahead: like ttrl, the next step's responses sampled while one trains
    lying            OUT_DIR/lying: a sync that announces new weights without sending them; leaves OUT_DIR/lyingRANK.txt
    sft              OUT_DIR/sft: three steps on the responses of the base model, the probe after the second and last
    unserved         OUT_DIR/unserved: the same without a probe and without a client
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from nopsd.config import Config, GrpoConfig, PromptConfig, SamplingConfig, ServerConfig, TrainConfig
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.reading import AnswerReader
from nopsd.engine.distributed import Ranks, broadcast_from_rank0
from nopsd.lab.world import DOMAINS, make_split
from nopsd.train.algorithms.grpo import Grpo
from nopsd.train.algorithms.sft import Finetuning
from nopsd.train.metrics import probe_metrics
from tests.train.served import DIST, client_of, lying_sync, main, train_on

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
        dist=DIST,
    )


def run(action: str, model: Path, out: Path, ranks: Ranks) -> None:
    renderer = PromptRenderer(load_tokenizer(model), PromptConfig())
    prompts = {uid: renderer.student(question) for uid, question in QUESTIONS.items()}
    client, made, folder = client_of(ranks), config(action), out / action

    def probe(version: int) -> dict[str, float]:
        samples = client.generate(
            list(prompts.values()), list(prompts), SamplingConfig(2, max_new=40), 3, expected_version=version
        )
        return probe_metrics(list(QUESTIONS.values()), samples, AnswerReader())

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
        train_on(
            made,
            Finetuning(responses=responses),
            {uid: prompts[uid] for uid in responses},
            model,
            folder,
            ranks,
            client if served else None,
            probe=probe if served and ranks.is_main else None,
        )
        return
    with lying_sync(out / f"lying{ranks.rank}.txt") if action == "lying" else nullcontext():
        algorithm, seen = Grpo(questions=QUESTIONS), probe if ranks.is_main else None
        train_on(made, algorithm, prompts, model, folder, ranks, client, probe=seen)


if __name__ == "__main__":
    main(run)
