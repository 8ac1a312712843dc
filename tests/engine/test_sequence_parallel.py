"""Ranks that compute one sequence together: what is refused, and when. The arithmetic on real ranks is in
test_presets_start.py (each means of saving memory) and ../distill/test_splits.py (the whole loop)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen3Config

from nopsd.config import Config, DistConfig
from nopsd.engine.distributed import Ranks
from nopsd.engine.packed_attention import Context, Segments
from nopsd.engine.sequence_parallel import ALONE, SequenceParallel, _split, _with_padding, check_heads, join
from nopsd.errors import ConfigError
from nopsd.train.algorithms.distill import load_engines


def config_of(heads: int, kv_heads: int, **other: object) -> Qwen3Config:
    return Qwen3Config(
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=8,
        hidden_size=32,
        num_hidden_layers=2,
        vocab_size=64,
        **other,
    )


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 2), (4, 2, 4), (8, 1, 4), (6, 3, 3), (5, 5, 1)])
def test_heads_that_can_be_shared_are(heads: int, kv_heads: int, size: int) -> None:
    """More ranks than key-value heads share copies of them."""
    check_heads(config_of(heads, kv_heads), size)


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 3), (6, 2, 4), (6, 4, 3), (2, 2, 4)])
def test_heads_that_cannot_are_refused(heads: int, kv_heads: int, size: int) -> None:
    """DeepSpeed would fail on a shape in the first forward, after minutes of loading."""
    with pytest.raises(ConfigError, match=rf"dist.sequence_parallel={size}.*{heads} attention and {kv_heads} key-val"):
        check_heads(config_of(heads, kv_heads), size)


def test_it_is_refused_before_any_weight_is_read(tmp_path) -> None:
    """The folder has no weights: reading them would be another error."""
    config_of(6, 3).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="6 attention and 3 key-value heads"):
        config = Config(dist=DistConfig(ranks=2, sequence_parallel=2))
        load_engines(config, tmp_path, Ranks(0, 2, torch.device("cpu")), SequenceParallel(None, 0, 2))


def test_ranks_are_joined_in_turn_or_refused() -> None:
    """A group that isn't whole would wait for its missing rank."""
    ranks = Ranks(0, 3, torch.device("cpu"))
    assert join(ranks, 1) is ALONE and join(ranks, DistConfig().sequence_parallel) is ALONE
    with pytest.raises(ConfigError, match="dist.sequence_parallel=2 does not divide the 3 ranks"):
        join(ranks, 2)


def test_a_row_is_filled_up_with_a_sequence_that_no_other_sees() -> None:
    """Else the last sequence would be longer than it is, or contexts stand before the wrong one."""
    assert _with_padding(Segments((3, 4)), 0) == Segments((3, 4))
    context, recorded = Context(tokens=5), (Context(), Context())
    found = _with_padding(Segments((3, 4), (context, None), recorded), 2)
    assert found.lengths == (3, 4, 2) and found.contexts == (context, None, None)
    assert found.recorded[0] is recorded[0] and found.recorded[1] is recorded[1] and len(found.recorded) == 3
    assert found.positions("cpu").tolist() == [[5, 6, 7, 0, 1, 2, 3, 0, 1]]


@pytest.mark.parametrize("given", [{"attention_mask": torch.ones(1, 4)}, {"position_ids": torch.arange(4)[None]}])
def test_masks_and_other_positions_are_refused(given: dict) -> None:
    """They would be those of the whole sequence, for a rank that computes a part."""
    forward = _split(lambda base, **inputs: SimpleNamespace(**inputs), SequenceParallel(None, 0, 2))
    with pytest.raises(ValueError, match="causal and count from 0"):
        forward(torch.nn.Identity(), torch.ones(1, 4, dtype=torch.long), **given)
