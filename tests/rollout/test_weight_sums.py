"""Checksums of sent and of served weights: any other bit is found and the parameter named. Else a run goes on from
samples of a policy that is a layer, a head or a version behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nopsd.cluster.servers.local import start_server
from nopsd.config import ServerConfig
from nopsd.errors import ServerError
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.served_weights import SentWeights
from nopsd.rollout.weight_sums import (
    BY_COLUMNS,
    COLUMNS,
    SentSums,
    WeightSum,
    chosen_columns,
    compare_sums,
    sum_of_columns,
    weighted_sum,
    whole_way,
)
from nopsd.rollout.weight_sync import WeightSync, open_weight_sync
from tests.rollout.policies import in_dtype, stepped
from tests.rollout.test_logprob_gap import Lab

LR = 1e-6  # the paper presets'
LAYER = "model.layers.2.mlp.down_proj.weight"


def sums(version: int = 0, **weights: Tensor) -> list[WeightSum]:
    sent = SentSums(version)
    for name, tensor in weights.items():
        sent.add(name, tensor)
    return sent.sums()


def shard(matrix: Tensor, row: int, rows: int, columns: slice = slice(None)) -> WeightSum:
    """As one of several workers answers."""
    part = matrix[row : row + rows, columns]
    return WeightSum("w", whole_way(part.shape, 2), "bfloat16", part.numel(), int(weighted_sum(part, row)))


@pytest.fixture
def matrix() -> Tensor:
    return torch.randn(12, 16, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(7,), (5, 3), (6, 16), (2, 4, 3), ()])
def test_one_bit_of_one_number_is_found(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """In rows of whole words and in others, in vectors and scalars."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    other = weight.clone().reshape(-1)
    other[-1] *= 1 + torch.finfo(dtype).eps
    assert compare_sums(sums(w=weight), [sums(w=weight.clone())]) == ([], {"w"})
    assert compare_sums(sums(w=weight), [sums(w=other.reshape(shape))]) == (["w"], {"w"})


def test_rows_that_changed_places_are_found(matrix: Tensor) -> None:
    """A head whose tokens are shifted has the same numbers."""
    assert compare_sums(sums(w=matrix), [sums(w=matrix.roll(1, 0))])[0] == ["w"]


def test_the_shards_of_several_workers_add_up(matrix: Tensor) -> None:
    """By rows, by columns, whole in each; of shards that don't make up the whole nothing is said."""
    sent = sums(w=matrix)
    by_rows = [[shard(matrix, 0, 6)], [shard(matrix, 6, 6)]]
    by_columns = [[shard(matrix, 0, 12, slice(0, 8))], [shard(matrix, 0, 12, slice(8, 16))]]
    for workers in (by_rows, by_columns, [sums(w=matrix)] * 2):
        assert compare_sums(sent, workers) == ([], {"w"})
    assert compare_sums(sent, by_rows[::-1])[0] == []
    assert compare_sums(sent, [[shard(matrix, 0, 6)], [shard(matrix.roll(1, 1), 6, 6)]])[0] == ["w"]
    assert compare_sums(sent, by_rows[:1]) == ([], set())


def test_what_cannot_be_equal_is_not_compared(matrix: Tensor) -> None:
    """Another number format, another name, rows read in other words: a sound server must not be refused."""
    sent = sums(w=matrix)
    assert compare_sums(sent, [sums(w=matrix.float() + 1)]) == ([], set())
    assert compare_sums(sent, [sums(v=matrix + 1)]) == ([], set())
    odd = [[shard(matrix, 0, 12, slice(0, 3))], [shard(matrix, 0, 12, slice(3, 16))]]
    assert compare_sums(sent, odd) == ([], set())


def test_a_tied_head_is_compared_with_the_embedding(matrix: Tensor) -> None:
    head = [entry._replace(name="lm_head.weight") for entry in sums(w=matrix)]
    sent = [entry._replace(name="model.embed_tokens.weight") for entry in sums(w=matrix)]
    assert compare_sums(sent, [head]) == ([], {"model.embed_tokens.weight"})
    assert compare_sums(sent, [[head[0]._replace(total=5)]])[0] == ["model.embed_tokens.weight"]
    workers = [
        [shard(matrix, row, 6)._replace(name=name) for name in ("lm_head.weight", "model.embed_tokens.weight")]
        for row in (0, 6)
    ]
    assert compare_sums(sent, workers) == ([], {"model.embed_tokens.weight"})


def test_columns_move_on_with_the_version_and_a_kernels_zeros_count_alike(matrix: Tensor) -> None:
    seen = {column for version in range(2) for column in chosen_columns(version, 16)}
    assert seen == set(range(2 * COLUMNS))
    assert chosen_columns(3, 5) == [4, 0, 1, 2, 3]
    matrix[0, 0] = -0.0
    (sent,) = [entry for entry in sums(w=matrix) if entry.way == BY_COLUMNS]
    inputs = torch.eye(16, dtype=matrix.dtype)[chosen_columns(0, 16)]
    assert int(sum_of_columns((inputs @ matrix.t()).t())) == sent.total


class Behind(SentWeights):
    """The server gets `old` of the parameters in it, in the stead of what is seen as sent."""

    def __init__(self, old: dict[str, Tensor]) -> None:
        super().__init__()
        self.old = old

    def watched(self, stream: Iterator[tuple[str, Any]], version: int) -> Iterator[tuple[str, Any]]:
        return ((name, self.old.get(name, tensor)) for name, tensor in super().watched(stream, version))


@pytest.fixture(scope="module")
def client(lab_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolloutClient]:
    """A server in bfloat16."""
    config = ServerConfig(max_model_len=512, max_num_seqs=8, kv_cache_mib=64, weight_sync="ipc")
    log = tmp_path_factory.mktemp("server") / "server.log"
    with start_server(config, str(lab_model_dir), "bfloat16", log) as running, running.client() as made:
        yield made


def pushed_behind(sync: WeightSync, version: int, old: dict[str, Tensor]) -> str:
    """The message of a push in which the server got these old ones."""
    sync._sent = Behind(old)
    with pytest.raises(ServerError, match="doesn't hold the weights that were sent") as raised:
        sync.push(version)
    sync._sent = SentWeights()
    return str(raised.value)


@pytest.mark.engine
@pytest.mark.parametrize("backend", ["ipc", "disk"])
def test_a_real_server_in_bfloat16_one_small_step_behind_is_refused_by_name(
    backend: str, client: RolloutClient, lab_model_dir: Path
) -> None:
    """One layer or all of it at a learning rate of 1e-6, and a shifted head: what no log-prob tells. Sound syncs pass,
    whichever columns they read, and every parameter is read."""
    lab = Lab(lab_model_dir)
    old = in_dtype(lab.model, lab_model_dir, "bfloat16", "sdpa")
    new = in_dtype(stepped(lab.model, lab.samples, LR), lab_model_dir, "bfloat16", "sdpa")
    before = {name: parameter.detach() for name, parameter in old.named_parameters()}
    config = ServerConfig(weight_sync=backend, sync_bucket_mib=1, sync_timeout_s=60)
    sync = open_weight_sync(new, client, config, rank=0, device="cpu")
    try:
        for version in range(1, 5):
            sync.push(version)
        sent = sync._sent._sent.sums()
        differing, compared = compare_sums(sent, client.weight_sums(4))
        assert differing == [] and compared == {entry.name for entry in sent} >= {LAYER}
        assert f"{LAYER} differs" in pushed_behind(sync, 5, {LAYER: before[LAYER]})
        assert " more differ" in pushed_behind(sync, 6, before)
        head = "model.embed_tokens.weight"
        shifted = dict(new.named_parameters())[head].detach().roll(1, 0)
        assert f"{head} differs" in pushed_behind(sync, 7, {head: shifted})
        sync.push(8)
    finally:
        sync.close()
