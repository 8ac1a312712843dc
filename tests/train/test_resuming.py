"""What each rank keeps of its own, divided again for another number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nopsd.train.checkpoint import save_rank_state
from nopsd.train.resuming import load_rank_state, reshard


@pytest.mark.parametrize(("old", "new"), [(2, 1), (2, 4), (3, 2), (1, 3), (4, 7)])
def test_shards_are_cut_anew_at_the_right_elements(tmp_path: Path, old: int, new: int):
    """Of 10 elements, with padding that is noise: broken if padding leaks in or an element is lost or shifted."""
    whole = torch.arange(1.0, 11.0)
    width = -(-10 // old)
    padded = torch.cat([whole, torch.full((old * width - 10,), 99.0)])
    files = [tmp_path / f"{r}.safetensors" for r in range(old)]
    for r, file in enumerate(files):
        save_file({"w": padded[r * width : (r + 1) * width].clone()}, file)
    parts = [reshard(files, "w", r, torch.empty(-(-10 // new))) for r in range(new)]
    assert torch.equal(torch.cat(parts)[:10], whole)


@pytest.mark.slow
@pytest.mark.engine
def test_ranks_that_are_new_have_random_streams_of_their_own(lost: Any):
    """Broken if two ranks would draw the same dropout masks."""
    streams = lost[1][4]["streams"]
    assert len(streams) == 4 and len({tuple(stream) for stream in streams}) == 4


def test_a_gpus_random_state_is_kept_and_set_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pretended device: without it a resumed run draws other masks. Its file is read without a GPU too."""
    state, found = torch.arange(16, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", found.append)
    save_rank_state(tmp_path, 0, None)
    load_rank_state(tmp_path, 0, None)
    assert len(found) == 1 and torch.equal(found[0], state)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    load_rank_state(tmp_path, 0, None)
    assert len(found) == 1
