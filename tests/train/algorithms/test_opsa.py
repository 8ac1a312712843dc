"""OPSA's advantages and loss on numbers worked out by hand, in float64."""

import pytest
import torch

from nopsd.config import OpsaConfig, load_config
from nopsd.engine.distributed import Ranks
from nopsd.train.algorithms.by_response import by_response
from nopsd.train.algorithms.opsa import FixedAdvantage, advantages, how_many
from nopsd.train.batches import Batching, Example, rank_micro_batches
from nopsd.train.losses.token_loss import fused_linear_token_loss
from nopsd.train.planning import Limits

NAN = float("nan")
LOGPROB = torch.tensor([[-10.0, NAN, -8.0], [-7.0, -6.0, NAN]], dtype=torch.float64)
ENTROPY = torch.tensor([[2.0, 99.0, 4.0], [3.0, 1.0, 99.0]], dtype=torch.float64)


def test_how_many_tokens_are_pushed_down():
    """0.3 of 10 in binary is 2.999…: one token too few, and another model."""
    assert [how_many(10, f) for f in (0.1, 0.2, 0.3, 0.4)] == [1, 2, 3, 4]
    assert how_many(2, 0.1) == 1


@pytest.mark.parametrize(
    ("scope", "expected"),
    [("step", [[-0.5, 0, -1], [0, 0, 0]]), ("response", [[-1, 0, 0], [-1, 0, 0]])],
)
def test_the_least_likely_tokens_by_scope(scope, expected):
    """Two of the step's four, or one of each response's two; a masked token is in neither, whatever its entropy."""
    found = advantages(LOGPROB, ENTROPY, OpsaConfig(fraction=0.5, scope=scope))
    assert found.nan_to_num(0.0).tolist() == expected


def test_equal_entropies_take_the_lower_advantage_and_a_response_without_tokens_takes_none():
    even = advantages(LOGPROB, torch.ones_like(ENTROPY), OpsaConfig(fraction=1.0))
    assert even[~even.isnan()].tolist() == [-1.0] * 4
    assert advantages(torch.full((1, 3), NAN), torch.ones(1, 3), OpsaConfig()).isnan().all()


def test_a_token_of_two_classes_is_pushed_down_by_its_probability():
    """Logits (0, 0), y = 0, A = −1: ∂L/∂z = (½, −½); the loss is 1."""
    hidden = torch.eye(2, dtype=torch.float64)[:1].requires_grad_()
    weight = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    loss_of = FixedAdvantage(torch.tensor([-1.0]), torch.tensor([1.0]))
    result = fused_linear_token_loss(hidden, weight, torch.tensor([0]), torch.tensor([1.0]), loss_of)
    result.loss.backward()
    assert result.loss.item() == 1.0
    assert weight.grad[:, 0].tolist() == [0.5, -0.5]


@pytest.mark.parametrize("groups", [1, 2])
def test_the_mean_is_over_the_chosen_tokens_of_each_response_and_then_over_responses(groups):
    """Values 2 and 4 of the two chosen are 3, the other response's is 1: the step is 2, however it is split."""
    examples = [Example("a", [1], None, [5, 6, 7]), Example("b", [1, 2], None, [8])]
    batching = Batching(Limits(1), "seq_mean_token_sum")
    advantage_ST = torch.tensor([[-2.0, -100.0, -4.0], [-1.0, 0.0, 0.0]])
    share_ST = torch.tensor([[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    total = 0.0
    for group in range(groups):
        for batch in rank_micro_batches(examples, group, groups, batching):
            at = batch.example_N, batch.position_N
            value_N, slope_N = FixedAdvantage(advantage_ST[at], share_ST[at])(torch.zeros(len(at[0])), slice(None))
            assert torch.equal(value_N, slope_N)
            total += float(batch.weights_N @ value_N)
    assert total == 2.0


def test_values_come_back_by_response_and_position():
    """A row of another response, or a dummy's, would be ranked among a response's tokens."""
    examples = [Example("a", [1], None, [5, 6, 7]), Example("b", [1, 2], None, [8])]
    batches = rank_micro_batches(examples, 0, 1, Batching(Limits(1)))
    found = [torch.stack([b.targets_N, b.position_N]).double() for b in batches]
    values_KST = by_response(examples, batches, found, Ranks(0, 1, torch.device("cpu")))
    assert values_KST.nan_to_num(-1).tolist() == [[[5, 6, 7], [8, -1, -1]], [[0, 1, 2], [0, -1, -1]]]


def test_the_preset_has_one_response_a_question_and_no_teacher():
    config = load_config(None, ["method=opsa"])
    assert (config.train.n, config.context.retriever, config.opsa) == (1, "none", OpsaConfig())
