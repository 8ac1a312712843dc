"""The entropy gap's own pass over a model, and its file: Table 6 is read off what is tested here."""

import numpy as np
import pytest
import torch

from nopsd.errors import ArtefactError
from nopsd.evaluation.bootstrap import Interval
from nopsd.evaluation.entropy import ESTIMATORS, EntropyGap
from nopsd.files import write_json
from nopsd.rollout.types import Rollout
from nopsd.tasks.entropy_gap import FILE, NAME, EntropyObserver, as_row, read_gap, shown
from tests.models import Unsharded
from tests.scoring import build

ROLLOUTS = [
    Rollout("q0", 0, [5, 9, 3], [7, 8, 4, 4], "", "stop", 0),
    Rollout("q0", 1, [5, 9, 3], [], "", "stop", 0),
    Rollout("q1", 0, [6], [3, 11], "", "length", 0),
]


@torch.no_grad()
def by_loops(model, rollout):
    """Means over the response's tokens, in float64: whole, of the 20 likeliest, and of the token itself."""
    ids = torch.tensor([rollout.prompt_ids + rollout.response_ids])
    log_p = model(input_ids=ids).logits[0, len(rollout.prompt_ids) - 1 : -1].double().log_softmax(-1)
    top = log_p.topk(20, -1).values
    nll = -log_p[torch.arange(len(log_p)), torch.tensor(rollout.response_ids)]
    return [float(x.mean()) for x in (-(log_p.exp() * log_p).sum(-1), -(top.exp() * top).sum(-1), nll)]


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_each_rollout_has_the_entropies_of_its_own_tokens(family, alone):
    """States one position late, or a neighbour's in the batch, give the entropies of other tokens.

    Logits of these models stay below 8, whose float32 neighbours lie 2**-21 apart; the models' own passes differ by the
    padding alone, so that a hundred such steps are far more than rounding and far less than another token's entropy.
    """
    model = build(family)
    found = EntropyObserver(Unsharded(model), alone, chunk=3).entropies(ROLLOUTS, [2, 0, 1])
    assert sorted(found) == sorted(ESTIMATORS) and np.isnan([found[name][2] for name in ESTIMATORS]).all()
    wanted = [by_loops(model, ROLLOUTS[i]) for i in (2, 0)]
    for place, row in enumerate(wanted):
        assert [found[name][place] for name in ESTIMATORS] == pytest.approx(row, abs=100 * 2**-21)
    assert np.abs(np.subtract(*wanted)).min() > 1e-3  # the two rollouts differ


def test_the_file_gives_back_what_was_measured(tmp_path):
    """`compare` reads it: a bound for a mean would turn the table's sign."""
    gap = EntropyGap(40, 0.5, 0.375, Interval(-0.125, -0.25, 0.0625))
    write_json(tmp_path / NAME / FILE, {"shannon": as_row(gap)})
    assert read_gap(tmp_path) == {"shannon": gap}
    said = shown(read_gap(tmp_path))
    assert said == "shannon  student 0.5000  teacher 0.3750  gap -0.1250 [-0.2500, +0.0625] over 40 questions"
    with pytest.raises(ArtefactError, match=FILE):
        read_gap(tmp_path / "elsewhere")
