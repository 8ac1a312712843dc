"""What a rank holds beside DeepSpeed's shards: random states and the EMA teacher's float32 shards.

In/Out: `random_rank_RRRRR.safetensors` (torch's and CUDA's generator; Python's in the metadata) and
`ema_rank_RRRRR.safetensors` (name → flat shard) in a checkpoint's folder. With another number of ranks the
shards are resharded: rank r of w holds the elements r·ceil(n/w) … of the flat parameter, as ZeRO-3 does.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def save_rank_state(path: Path, rank: int, ema: Any) -> None:
    """This rank's random states and EMA shards."""
    tensors = {"torch_rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda_rng"] = torch.cuda.get_rng_state()
    save_file(tensors, random_file(path, rank), metadata={"python": json.dumps(random.getstate())})
    if ema is not None:
        shards = {name: shard.contiguous().cpu() for name, shard in ema.state().items()}
        save_file(shards, ema_file(path, rank))


def load_rank_state(path: Path, rank: int, ema: Any) -> None:
    """As this rank left it: the same number of ranks as then."""
    with safe_open(random_file(path, rank), "pt") as file:
        version, numbers, gauss = json.loads(file.metadata()["python"])
        random.setstate((version, tuple(numbers), gauss))
        torch.set_rng_state(file.get_tensor("torch_rng"))
        if "cuda_rng" in file.keys() and torch.cuda.is_available():
            torch.cuda.set_rng_state(file.get_tensor("cuda_rng"))
    if ema is not None:
        ema.load_state(load_file(ema_file(path, rank)))


def reshard_rank_state(path: Path, rank: int, world: int, written_by: int, ema: Any) -> None:
    """This rank's share, of `world`, of what `written_by` ranks left.

    A rank's random stream can't be resharded: every rank gets a new one, derived from the checkpoint's first
    stream and its own number. Data order and rollout seeds don't depend on these, only dropout does.
    """
    with safe_open(random_file(path, 0), "pt") as file:
        digest = hashlib.sha256(file.get_tensor("torch_rng").numpy().tobytes() + f"/{rank}/{world}".encode())
    seed = int.from_bytes(digest.digest()[:8], "big") >> 1
    random.seed(seed)
    torch.manual_seed(seed)  # CUDA's generator too
    if ema is not None:
        files = [ema_file(path, r) for r in range(written_by)]
        ema.load_state({name: reshard(files, name, rank, shard) for name, shard in ema.state().items()})


def reshard(files: list[Path], name: str, rank: int, like: torch.Tensor) -> torch.Tensor:
    """The elements that `rank` holds of parameter `name`, from the shards in `files`; read piece by piece.

    `like`: this rank's flat shard now. Beyond the parameter's end it holds padding, which is zero here.
    """
    size = like.numel()
    low, high = rank * size, (rank + 1) * size
    shard = torch.zeros_like(like, device="cpu")
    for writer, path in enumerate(files):
        with safe_open(path, "pt") as file:
            part = file.get_slice(name)
            width = part.get_shape()[0]
            start, stop = max(low, writer * width), min(high, (writer + 1) * width)
            if start < stop:
                shard[start - low : stop - low] = part[start - writer * width : stop - writer * width]
    return shard


def random_file(path: Path, rank: int) -> Path:
    """Where a rank's random number generators are saved."""
    return path / f"random_rank_{rank:05d}.safetensors"


def ema_file(path: Path, rank: int) -> Path:
    """Where a rank's part of the moving average is saved."""
    return path / f"ema_rank_{rank:05d}.safetensors"
