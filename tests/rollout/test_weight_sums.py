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
from nopsd.errors import ServerError, StaleWeightsError
from nopsd.rollout import weight_sync
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.served_weights import SentWeights
from nopsd.rollout.weight_sums import (
    BY_COLUMNS,
    COLUMNS,
    SentSums,
    WeightSum,
    chosen_columns,
    held_totals,
    sum_of_columns,
    totals_of,
    weighted_sum,
    whole_way,
)
from nopsd.rollout.weight_sync import WeightSync, open_weight_sync
from tests.rollout.policies import in_dtype, stepped
from tests.rollout.test_logprob_gap import Lab

LR = 1e-6  # the paper presets'
LAYER = "model.layers.2.mlp.down_proj.weight"


def sums(**weights: Tensor) -> list[WeightSum]:
    sent = SentSums()
    for name, tensor in weights.items():
        sent.add(name, tensor)
    return sent.sums()


def compare_sums(sent: list[WeightSum], workers: list[list[WeightSum]]) -> tuple[list[str], set[str]]:
    """The parameters that differ, and those that can be compared."""
    held, own = held_totals(sent, workers), totals_of(sent)
    return sorted({name for name, way in held if held[name, way] != own[name, way]}), {name for name, _ in held}


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


def test_columns_are_spread_over_all_and_a_kernels_zeros_count_alike(matrix: Tensor) -> None:
    assert chosen_columns(16) == [0, 2, 4, 6, 8, 10, 12, 14] and chosen_columns(5) == [0, 1, 2, 3, 4]
    assert len(chosen_columns(896)) == COLUMNS
    matrix[0, 0] = -0.0
    (sent,) = [entry for entry in sums(w=matrix) if entry.way == BY_COLUMNS]
    inputs = torch.eye(16, dtype=matrix.dtype)[chosen_columns(16)]
    assert int(sum_of_columns((inputs @ matrix.t()).t())) == sent.total


class Server:
    """Holds parameters, some of them transposed by its loader."""

    url = "http://server"

    def __init__(self, transposed: str = "") -> None:
        self.transposed = transposed
        self.held: dict[str, Tensor] = {}

    def load(self, **weights: Tensor) -> None:
        self.held |= {name: w.t() if name == self.transposed else w for name, w in weights.items()}

    def weight_sums(self) -> list[list[WeightSum]]:
        return [sums(**self.held)]

    def max_model_len(self) -> int:
        return 8

    def score_one(self, prompt: list[int], response: list[int]) -> list[float]:
        return [float(sum(w.float().sum() for w in self.held.values()))]


def passed(watch: SentWeights, **weights: Tensor) -> None:
    for _ in watch.watched(iter(weights.items())):
        pass


def test_what_a_loader_transposes_is_not_refused_until_it_stays_behind() -> None:
    """GPT-2's square matrices are such. A parameter that has once been equal must be."""
    draw = torch.Generator().manual_seed(0)
    versions = [{name: torch.randn(16, 16, generator=draw).bfloat16() for name in "ab"} for _ in range(4)]
    watch, server = SentWeights(), Server(transposed="b")
    for weights in versions[:3]:
        server.load(**weights)
        passed(watch, **weights)
        watch.check(server)  # type: ignore[arg-type]
    passed(watch, **versions[3])
    server.load(a=versions[3]["a"])
    with pytest.raises(StaleWeightsError, match=r"the weights that were sent: b differs"):
        watch.check(server)  # type: ignore[arg-type]
    server.load(a=versions[0]["a"], b=versions[3]["b"])
    with pytest.raises(StaleWeightsError, match=r"the weights that were sent: a differs"):
        watch.check(server)  # type: ignore[arg-type]


def test_a_bias_of_zeros_does_not_count_as_equal() -> None:
    """GPT-NeoX's loader reorders biases: one that starts at zero would pass for one that isn't reordered."""
    assert sums(b=torch.zeros(6)) == [] and len(sums(b=torch.tensor([0.0, 0, 1]))) == 1


def test_the_first_update_is_checked_by_what_was_held_before_it() -> None:
    """A layer that a server leaves as it was started with has never been equal to what was sent."""
    draw = torch.Generator().manual_seed(0)
    base, first = ({name: torch.randn(4, 8, generator=draw) for name in "ab"} for _ in range(2))
    watch, server = SentWeights(), Server()
    server.load(**base)
    passed(watch, **base)
    assert watch.compare(server) == []  # type: ignore[arg-type]
    passed(watch, **first)
    server.load(a=first["a"])
    with pytest.raises(StaleWeightsError, match=r"http://server doesn't hold .*: b differs"):
        watch.check(server)  # type: ignore[arg-type]


def test_a_server_that_is_one_update_behind_all_the_time_is_refused() -> None:
    draw = torch.Generator().manual_seed(0)
    versions = [{"a": torch.randn(4, 8, generator=draw)} for _ in range(3)]
    watch, server = SentWeights(), Server()
    passed(watch, **versions[1])
    server.load(**versions[0])
    assert watch.compare(server) == []  # type: ignore[arg-type]
    passed(watch, **versions[2])
    server.load(**versions[1])
    with pytest.raises(StaleWeightsError, match="a differs"):
        watch.check(server)  # type: ignore[arg-type]


class Behind(SentWeights):
    """The server gets `old` of the parameters in it, in the stead of what is seen as sent."""

    old: dict[str, Tensor] = {}

    def watched(self, stream: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        return ((name, self.old.get(name, tensor)) for name, tensor in super().watched(stream))


@pytest.fixture(scope="module")
def client(lab_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolloutClient]:
    """A server in bfloat16."""
    config = ServerConfig(max_model_len=512, max_num_seqs=8, kv_cache_mib=64, weight_sync="ipc")
    log = tmp_path_factory.mktemp("server") / "server.log"
    with start_server(config, str(lab_model_dir), "bfloat16", log) as running, running.client() as made:
        yield made


def pushed_behind(sync: WeightSync, version: int, old: dict[str, Tensor]) -> str:
    """The message of a push in which the server got these old ones."""
    assert isinstance(sync._sent, Behind)
    sync._sent.old = old
    with pytest.raises(ServerError, match="doesn't hold the weights that were sent") as raised:
        sync.push(version)
    sync._sent.old = {}
    return str(raised.value)


@pytest.mark.engine
@pytest.mark.parametrize("backend", ["ipc", "disk"])
def test_a_real_server_in_bfloat16_one_small_step_behind_is_refused_by_name(
    backend: str, client: RolloutClient, lab_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer or all of it at a learning rate of 1e-6, and a shifted head: what no log-prob tells. Sound syncs pass,
    and every parameter is read."""
    lab = Lab(lab_model_dir)
    old = in_dtype(lab.model, lab_model_dir, "bfloat16", "sdpa")
    new = in_dtype(stepped(lab.model, lab.samples, LR), lab_model_dir, "bfloat16", "sdpa")
    before = {name: parameter.detach() for name, parameter in old.named_parameters()}
    config = ServerConfig(weight_sync=backend, sync_bucket_mib=1, sync_timeout_s=60)
    monkeypatch.setattr(weight_sync, "SentWeights", Behind)
    sync = open_weight_sync(new, client, config, rank=0, device="cpu")
    try:
        for version in range(1, 5):
            sync.push(version)
        sent = sync._sent._sent.sums()
        differing, compared = compare_sums(sent, client.weight_sums())
        assert differing == [] and compared == {entry.name for entry in sent} >= {LAYER}
        assert f"{LAYER} differs" in pushed_behind(sync, 5, {LAYER: before[LAYER]})
        assert " more differ" in pushed_behind(sync, 6, before)
        head = "model.embed_tokens.weight"
        shifted = dict(new.named_parameters())[head].detach().roll(1, 0)
        assert f"{head} differs" in pushed_behind(sync, 7, {head: shifted})
        sync.push(8)
    finally:
        sync.close()
