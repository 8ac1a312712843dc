"""nopsd.rollout.cpu_sampling: if these fail, the CPU build samples from other tokens than vLLM does."""

import inspect

import pytest
import torch

from nopsd.rollout.cpu_sampling import keep_top

VOCABULARY = 3000


def sorted_whole(logits, k, p):
    """vLLM 0.32's `apply_top_k_top_p_pytorch`, for top-k and top-p."""
    pytest.importorskip("vllm")
    from vllm.v1.sample.ops import topk_topp_sampler

    whole = inspect.unwrap(topk_topp_sampler.apply_top_k_top_p_pytorch)  # another test may have replaced it
    assert whole.__module__ == topk_topp_sampler.__name__, "vLLM's own, not ours"
    return whole(logits.clone(), k, p)


@pytest.mark.parametrize("step", [0.0, 0.25, 2.0])
def test_the_same_tokens_stay_as_with_the_whole_vocabulary_sorted(step):
    """`step`: logits are rounded to it, so that many are equal, as bfloat16's are; which of equal ones stay at the
    nucleus' border is left to vLLM's sort, so their values are compared."""
    draw = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(64, VOCABULARY, generator=draw)
    if step:
        logits = (logits / step).round() * step
    k = torch.randint(1, 40, (64,), generator=draw, dtype=torch.int32)
    p = torch.rand(64, generator=draw)
    p[:8], k[:4] = 1.0, 1
    wanted = sorted_whole(logits, k, p)
    found = keep_top(logits.clone(), k, p)
    assert torch.equal(found.sort(dim=1).values, wanted.sort(dim=1).values)
    if not step:
        assert torch.equal(found, wanted)
    assert torch.equal(found.where(found > -torch.inf, logits), logits), "what stays is unchanged"
    assert 1 <= int((found[:4] > -torch.inf).sum(dim=1).min())


def test_tokens_that_were_ruled_out_before_stay_out():
    logits = torch.full((2, VOCABULARY), -torch.inf)
    logits[:, 5:8] = torch.tensor([1.0, 2.0, 3.0])
    k, p = torch.tensor([20, 2], dtype=torch.int32), torch.tensor([1.0, 0.5])
    found = keep_top(logits.clone(), k, p)
    assert torch.equal(found, sorted_whole(logits, k, p))
    assert torch.isfinite(found).sum(dim=1).tolist() == [3, 1]
