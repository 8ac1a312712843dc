"""The KL that demonstrations cause on stored answers, against the model's own logits in float64."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from nopsd.config import SignalConfig
from nopsd.engine.distributed import Ranks
from nopsd.rollout.types import Rollout
from nopsd.signals.forward_columns import MeasuredModel
from nopsd.signals.teacher_shift import teacher_shift

CONFIG = SignalConfig(max_batch_tokens=60, logit_chunk=3)
ALONE = Ranks(0, 1, torch.device("cpu"))


def log_probs(oracle, model, rollout):
    logits, _ = oracle.whole_forward(model, rollout)
    start = len(rollout.prompt_ids) - 1
    z = logits[start : start + len(rollout.response_ids)]
    return z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)


@pytest.mark.parametrize("family", ["qwen3", "granite"])
def test_it_is_the_kl_to_the_model_with_demonstrations(family, build_model, make_rollouts, unsharded, tmp_path, oracle):
    """The other direction, or the prompt's positions, would rank other questions first; its own prompt shifts none."""
    model, rollouts = build_model(family), make_rollouts(5, samples=2)
    prompts = {uid: [9, 10, 11] * (1 + int(uid[1:])) for uid in sorted({r.uid for r in rollouts})}
    prompts["q004"] = rollouts[8].prompt_ids
    rollouts[9] = replace(rollouts[9], prompt_ids=rollouts[8].prompt_ids)
    reference = copy.deepcopy(model)
    measured = MeasuredModel(unsharded(model), "m")
    found = teacher_shift(measured, rollouts, prompts, CONFIG, ALONE, tmp_path)
    wanted = []
    for rollout in rollouts:
        p = log_probs(oracle, reference, rollout)
        q = log_probs(oracle, reference, replace(rollout, prompt_ids=prompts[rollout.uid]))
        wanted.append((np.exp(p) * (p - q)).sum(1).mean())
    wanted = np.array(wanted).reshape(5, 2).mean(1)
    assert wanted[:4].min() > 1e-3 and found.dtype == np.float32
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_killed_run_resumes_and_other_prompts_are_other_work(build_model, make_rollouts, unsharded, tmp_path):
    rollouts = make_rollouts(8)
    prompts = {rollout.uid: [9, 10, 11] for rollout in rollouts}

    def run(prompts, progress=None):
        engine = unsharded(build_model())
        found = teacher_shift(MeasuredModel(engine, "m"), rollouts, prompts, CONFIG, ALONE, tmp_path, progress)
        return engine.forwards, found

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(prompts, stop)
    said = []
    forwards, found = run(prompts, lambda done, total: said.append((done, total)))
    assert said[-1] == (8, 8) and said[0][0] > 1
    assert run(prompts)[0] == 0 and np.array_equal(run(prompts)[1], found)
    assert run({**prompts, "q000": [12, 13]})[0] > forwards


def test_a_response_without_tokens_has_no_value(build_model, unsharded, tmp_path):
    rollouts = [Rollout("a", 0, [5, 6], [7, 8], "", "stop", 0), Rollout("b", 0, [5, 6], [], "", "stop", 0)]
    measured = MeasuredModel(unsharded(build_model()), "m")
    found = teacher_shift(measured, rollouts, {"a": [3, 4, 5], "b": [3]}, CONFIG, ALONE, tmp_path)
    assert found[0] > 0 and np.isnan(found[1])
