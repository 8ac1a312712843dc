"""nopsd.train.tracing without an engine: each value stands at its own token, however a step is cut over ranks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nopsd.config import load_config
from nopsd.errors import ConfigError
from nopsd.rollout.types import Rollout
from nopsd.traces.schema import COUNTED
from nopsd.train.batches import Batching, Example, rank_micro_batches
from nopsd.train.metrics import BatchLoss, Clock
from nopsd.train.planning import Limits
from nopsd.train.run import Step
from nopsd.train.tracing import Recorder, hand_over, trace_every

RESPONSES = [[10, 11, 12, 13], [], [20, 21], [30, 31, 32, 33, 34], [40]]
EXAMPLES = [Example(f"q{i}", [1, 2], [3, 4, 1, 2], ids) for i, ids in enumerate(RESPONSES)]


class OneOf:
    """The ranks as one of several sees them; `all_sum` adds what the others have recorded."""

    def __init__(self, others=()):
        self.others, self.device = others, torch.device("cpu")

    def all_sum(self, tensor):
        return sum((other.values_KT for other in self.others), tensor.clone())


def step_of(number=0):
    rollouts = [Rollout(f"q{i}#2", 0, [1, 2], ids, "", "stop", number) for i, ids in enumerate(RESPONSES)]
    return Step(number, [e.uid for e in EXAMPLES], rollouts, Clock(), EXAMPLES)


def recorded(group, groups, batching):
    recorder = Recorder(step_of(), "cpu")
    for batch in rank_micro_batches(EXAMPLES, group, groups, batching):
        value_N = batch.targets_N.float()  # a token's value is its id, so that its place can be seen
        loss = BatchLoss(torch.zeros(()), None, torch.zeros(0), {"student_logprob": value_N, "reverse_kl": -value_N})
        recorder.add(batch, loss)
    return recorder


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("packed", [True, False])
def test_each_value_stands_at_its_own_token(groups, packed):
    """A shift by one would shade, and explain, another token than the one that differed."""
    batching = Batching(Limits(2, None, packed), skip_first=1, max_tokens=4)
    first, *others = [recorded(group, groups, batching) for group in range(groups)]
    found = first.whole(SimpleNamespace(ranks=OneOf(others)))
    ids = np.concatenate([np.array(r, dtype=float) for r in RESPONSES])
    carries = np.concatenate([[1 <= t < 4 for t in range(len(r))] for r in RESPONSES]).astype(bool)
    assert (found[COUNTED] == carries).all()
    assert (found["student_logprob"][carries] == ids[carries]).all()
    assert (found["reverse_kl"][carries] == -ids[carries]).all()
    assert np.isnan(found["student_logprob"][~carries]).all()
    assert set(found) == {"student_logprob", "reverse_kl", COUNTED}  # the others were not computed


@pytest.mark.parametrize(("trace", "steps"), [("all", 1), ("3", 3), ("none", 0)])
def test_the_setting_says_which_steps_are_traced(trace, steps):
    assert trace_every(load_config("lab", [f"train.trace={trace}"]).train.trace) == steps


def test_a_question_that_comes_twice_is_traced_under_its_own_uid():
    step, handed = step_of(), []
    hand_over(SimpleNamespace(ranks=OneOf(), trace=SimpleNamespace(add=handed.append)), step, Recorder(step, "cpu"))
    assert [r.uid for r in handed[0].rollouts] == [e.uid for e in EXAMPLES]


@pytest.mark.parametrize("trace", ["some", "0", "-1", "1.5", ""])
def test_another_setting_is_refused(trace):
    with pytest.raises(ConfigError, match=r"train\.trace"):
        load_config("lab", [f"train.trace={trace}"])
