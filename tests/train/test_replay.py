"""nopsd.train.tracing and replay: the trace holds what the loss saw, and training on it is the same training."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nopsd.errors import ArtefactError
from nopsd.rollout.types import Rollout
from nopsd.traces.schema import COUNTED, TOKEN_VALUES, Prompts, StepTrace
from nopsd.traces.writer import TraceWriter
from nopsd.train.replay import Replay

WORKER = Path(__file__).with_name("worker_replay.py")


@pytest.fixture(scope="module")
def runs(run_ranks, tiny_models, tmp_path_factory):
    out = tmp_path_factory.mktemp("replay")
    run_ranks(WORKER, {"models": tiny_models, "out": out}, 1, 2)
    return {size: torch.load(out / f"{size}.pt", weights_only=False) for size in (1, 2)}


def learnt(row):
    return {
        name: value for name, value in row.items() if not name.startswith(("time/", "context/", "memory/", "speed/"))
    }


@pytest.mark.parametrize("size", [1, 2])
def test_a_replay_has_the_recorded_losses_to_the_digit(runs, size):
    """Without this a slow-down, or a change of the code, can't be told from other responses."""
    recorded, again = runs[size]["recorded"], runs[size]["again"]
    assert len(recorded) == len(again) == 3 and all(row["loss"] > 0 for row in recorded)
    assert [learnt(row) for row in again] == [learnt(row) for row in recorded]


@pytest.mark.parametrize("size", [1, 2])
def test_the_trace_holds_every_token_of_every_rank(runs, size):
    for step, table in runs[size]["tables"].items():
        row = runs[size]["recorded"][step]
        counted = np.concatenate([np.array(c, dtype=bool) for c in table[COUNTED]])
        assert [len(c) for c in table[COUNTED]] == [len(ids) for ids in table["response_ids"]]
        assert counted.sum() == row["loss_tokens"]
        for name in ("reverse_kl", "student_entropy", "teacher_entropy"):
            values = np.concatenate(table[name])[counted]
            assert values.mean() == pytest.approx(row[name], rel=1e-5)


def test_values_stand_at_their_own_tokens(runs):
    """One rank and two cut the step differently: a token's numbers must be the same in both traces."""
    one, two = (runs[size]["tables"][0] for size in (1, 2))
    assert one["response_ids"] == two["response_ids"]
    for name in TOKEN_VALUES:
        for left, right in zip(one[name], two[name]):
            np.testing.assert_allclose(left, right, rtol=2e-4, atol=2e-5)
    assert len({round(v, 6) for row in one["student_logprob"] for v in row}) > 10


@pytest.mark.parametrize("size", [1, 2])
def test_what_the_teacher_has_to_say_is_plain_torchs_kl_and_moves_nothing(runs, size, tiny_models):
    """The losses of the run that measured it first equal the recorded run's, which did not (above)."""
    from transformers import AutoModelForCausalLM

    from tests.train.worker_engines import TEACHER_PROMPTS

    lm = AutoModelForCausalLM.from_pretrained(tiny_models / "tied", dtype=torch.float64).eval()
    gain = runs[size]["gain"]

    def logp(prompt, response):
        with torch.no_grad():
            logits = lm(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1)

    for rollout in runs[size]["stored"]:
        p = logp(rollout.prompt_ids, rollout.response_ids)
        q = logp(TEACHER_PROMPTS[rollout.uid].ids, rollout.response_ids)
        expected = float((p.exp() * (p - q)).sum(-1).mean())
        assert gain["by_question"][rollout.uid] == pytest.approx(expected, rel=1e-3)
    assert gain["teacher_kl"] == pytest.approx(np.mean(list(gain["by_question"].values()))) and gain["teacher_kl"] > 0


def recorded(folder, rollouts):
    writer = TraceWriter(folder / "train" / "trace", 1, 1 << 30)
    writer.write_prompts({"a": Prompts([1, 2]), "b": Prompts([3])})
    count = sum(len(r.response_ids) for r in rollouts)
    writer.add(StepTrace(0, rollouts, {"reverse_kl": np.full(count, math.nan, np.float32)}))
    writer.close()
    return Replay(folder, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uids": ["b", "a"]}, "other questions"),
        ({"n": 2}, "other questions"),
        ({"prompts": {"a": [1, 2], "b": [4]}}, "other prompts"),
        ({"version": 1}, "train.ahead"),
        ({"step": 1}, "step-00000001"),
    ],
)
def test_a_trace_of_other_settings_is_refused_in_a_line(tmp_path, change, message):
    """Training silently on another step's responses would be no replay of anything."""
    replay = recorded(
        tmp_path, [Rollout("a", 0, [1, 2], [5], "", "stop", 0), Rollout("b", 0, [3], [6, 7], "", "stop", 0)]
    )
    asked = {"step": 0, "version": 0, "uids": ["a", "b"], "prompts": {"a": [1, 2], "b": [3]}, "n": 1}
    assert [r.uid for r in replay.rollouts(**asked)] == ["a", "b"]
    with pytest.raises(ArtefactError, match=message):
        replay.rollouts(**{**asked, **change})


def test_a_run_without_a_trace_is_refused_at_the_start(tmp_path):
    with pytest.raises(ArtefactError, match="train.trace=all"):
        Replay(tmp_path, "train")
