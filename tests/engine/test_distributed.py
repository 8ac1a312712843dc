"""Collectives on 1, 2 and 4 real gloo ranks, and what `init_distributed` refuses."""

from pathlib import Path

import pytest

from nopsd.config import DistConfig
from nopsd.engine.distributed import init_distributed
from nopsd.errors import UserError

HERE = Path(__file__).parent


@pytest.mark.engine
def test_collectives_and_sharded_rows_on_1_2_4_ranks(run_ranks, tmp_path):
    """If this fails, ranks see different wholes, or e_y = E[y] is another token's row."""
    run_ranks(HERE / "worker_collectives.py", {"out": tmp_path}, 1, 2, 4)


def test_half_a_launcher_environment_is_refused(monkeypatch):
    """A rank that thinks it is alone would overwrite the others' artefacts."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UserError, match="start with `deepspeed`"):
        init_distributed(DistConfig())
