"""Which weights are sent to the servers."""

from __future__ import annotations

import torch

from nopsd.rollout.weight_source import WeightSource


def test_a_tied_head_is_not_sent(model: torch.nn.Module) -> None:
    names = [m.name for m in WeightSource(model, True).metas()]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    assert names == [n for n, _ in WeightSource(model, True).stream()]
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    assert "lm_head.weight" in [m.name for m in WeightSource(model, True).metas()]
