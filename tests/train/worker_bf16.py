"""Log-probs of given responses by the trainer's and the teacher's ZeRO-3 engines in bfloat16; under worker_ranks.py.

job: {model, samples, out}; `samples` holds (prompt, response) token ids. The student's are those that the fused loss
logs, the teacher's come from contexts (every prompt is long enough to have one) and the gathered head.
"""

from pathlib import Path

import torch

from nopsd.config import Config
from nopsd.engine.ds_config import role_configs
from nopsd.engine.products import project
from nopsd.train import context_states
from nopsd.train.algorithms.distill import load_engines
from nopsd.train.batches import Batching, Example, rank_micro_batches
from nopsd.train.losses.fused_linear import DistillInputs
from nopsd.train.planning import Limits
from nopsd.train.teachers import teacher_of


def main(ranks, job):
    context_states.SHORTEST = 8
    config = Config()
    config.model.dtype, config.train.micro, config.teacher.kind = "bfloat16", 2, "frozen"
    assert role_configs(config, "cpu")[0]["bf16"]["enabled"]
    student, engine, _ = load_engines(config, Path(job["model"]), ranks)
    samples = torch.load(job["samples"], weights_only=True)
    prompts = [prompt for prompt, _ in samples]
    teacher = teacher_of(config, student, engine, ranks, prompts)
    examples = [Example(f"q{i}", prompt, prompt, response) for i, (prompt, response) in enumerate(samples)]
    found = {"student": [None] * len(samples), "teacher": [None] * len(samples)}
    batches = rank_micro_batches(examples, 0, 1, Batching(Limits(2)))
    states = teacher.hidden([batch.teacher for batch in batches])
    for batch, state in zip(batches, states, strict=True):
        with torch.no_grad(), teacher.weight() as weight_VH:
            result = student(
                input_ids_BT=batch.student.ids_BT,
                rows_N=batch.student.rows_N,
                loss_inputs=DistillInputs(state.hidden_NH, weight_VH, batch.weights_N, batch.targets_N),
                segments=batch.student.segments,
            )
            logits_NV = torch.empty(len(batch.targets_N), weight_VH.shape[0])
            project(state.hidden_NH, weight_VH, logits_NV)
        taught_N = logits_NV.log_softmax(-1).gather(1, batch.targets_N[:, None])[:, 0]
        for place in set(batch.example_N.tolist()):
            rows = batch.example_N == place
            found["student"][place] = result.student_logprob_N[rows].clone()
            found["teacher"][place] = taught_N[rows]
    assert teacher.readers[0].fills > 0
    torch.save({role: torch.cat(rows) for role, rows in found.items()}, job["out"])
