"""Whether the files of a model's folder are what they should be, by their headers; and whether weights are numbers.

Git LFS pointers in place of files, shards that are missing or cut, a quantised model, special ids beyond the vocabulary
and a vocabulary of another size each give one line. `check_finite` alone reads the weights, a piece at a time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nopsd.errors import UserError

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs"
COPY = "copy the model again"
PIECE = 1 << 24  # bytes of a tensor that are looked at together
# safetensors' types of weights: their bits as a whole number, and where the exponent is all ones (infinite, or NaN).
FINITE = {
    "BF16": (np.uint16, 0x7F80),
    **{f"F{width}": bits for width, bits in ((16, (np.uint16, 0x7C00)), (32, (np.uint32, 0x7F800000)))},
}
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class Tensor(NamedTuple):
    """A tensor's place in its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def check_files(folder: Path) -> list[Path]:
    """The files of weights, whole by their headers, of numbers that can be trained; UserError with the first fault."""
    check_pointers(folder)
    fields = read_fields(folder / "config.json")
    shards = {path: read_header(path) for path in shards_of(folder)}
    tensors = [tensor for held in shards.values() for tensor in held]
    check_quantised(folder, fields, tensors)
    vocabulary(folder, fields, tensors)
    window_of(folder)
    return list(shards)


def check_pointers(folder: Path) -> None:
    """No file is what Git leaves in place of a large one."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".model", ".jinja", ".txt"):
            with open(path, "rb") as file:
                if file.read(len(POINTER)) == POINTER:
                    raise UserError(
                        f"{path} is a Git LFS pointer and not the file itself: run `git lfs pull` in {folder}"
                    )


def read_fields(path: Path) -> dict[str, Any]:
    """A JSON file's object."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: it is not a Hugging Face model folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}): {COPY}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path} is damaged (no JSON object): {COPY}")
    return fields


def shards_of(folder: Path) -> list[Path]:
    """All files of weights; UserError if one that the index names is not there."""
    index = folder / INDEX
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise UserError(f"{folder}: no *.safetensors: nopsd loads no pickled weights")
        numbered = [m for path in found if (m := re.fullmatch(r".*-(\d+)-of-(\d+)\.safetensors", path.name))]
        if numbered:
            raise UserError(f"{index} is missing, and the weights are in parts: {COPY}")
        return found
    placed = weight_map(index)
    shards = sorted({folder / name for name in placed.values()})
    if lacking := [path.name for path in shards if not path.is_file() or path.parent != folder]:
        raise UserError(f"{folder}: {', '.join(lacking)} of the model's weights is missing: {COPY}")
    for path in shards:
        held = {tensor.name for tensor in read_header(path)}
        if lost := [name for name, shard in placed.items() if shard == path.name and name not in held]:
            raise UserError(f"{path} lacks {lost[0]}, which {INDEX} says is in it: {COPY}")
    return shards


def window_of(folder: Path) -> int:
    """The window that config.json states, in tokens; a large number if it states none."""
    stated = read_fields(folder / "config.json").get("max_position_embeddings") or 1 << 30
    if not isinstance(stated, int) or stated < 1:
        raise UserError(f"{folder}: config.json's max_position_embeddings={stated} is no number of tokens: correct it")
    return stated


def weight_map(index: Path) -> dict[str, str]:
    """Tensor -> its file, as an index says."""
    placed = read_fields(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise UserError(f"{index} is damaged (no weight_map): {COPY}")
    return placed


def read_header(path: Path) -> list[Tensor]:
    """Every tensor of a safetensors file; UserError if the file isn't whole."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= size - 8 else None
        if not isinstance(header, dict):
            raise ValueError("its header is cut" if length > size - 8 else "its header holds nothing")
        base = 8 + length
        tensors = [
            Tensor(name, v["dtype"], tuple(v["shape"]), base + v["data_offsets"][0], base + v["data_offsets"][1])
            for name, v in header.items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0][:80]}): {COPY}") from error
    stated = max((tensor.stop for tensor in tensors), default=base)
    if size != stated:
        what = "cut" if size < stated else "damaged"
        raise UserError(f"{path} is {what} ({size:,} bytes, its header says {stated:,}): {COPY}")
    return tensors


def check_quantised(folder: Path, fields: Mapping[str, Any], tensors: list[Tensor]) -> None:
    """Weights are numbers that training can change."""
    if stated := fields.get("quantization_config") or fields.get("compression_config"):
        method = stated.get("quant_method", "unknown") if isinstance(stated, dict) else stated
        raise UserError(
            f"{folder}: config.json says quantization_config ({method}): use the model that isn't quantised"
        )
    if odd := next(
        (tensor for tensor in tensors if EMBEDDING.search(tensor.name) and tensor.dtype not in FINITE), None
    ):
        raise UserError(f"{folder}: {odd.name} is of type {odd.dtype}: use the model that isn't quantised")


def vocabulary(folder: Path, fields: Mapping[str, Any], tensors: list[Tensor]) -> int | None:
    """Rows of the embedding (None: unknown), which config.json has to agree with, and its special ids to be in."""
    text = fields.get("text_config")
    text = text if isinstance(text, dict) else fields
    stated = text.get("vocab_size", fields.get("vocab_size"))
    found = [tensor.shape[0] for tensor in tensors if EMBEDDING.search(tensor.name) and len(tensor.shape) == 2]
    rows = max(found, default=stated)
    if isinstance(stated, int) and found and stated not in found:
        raise UserError(
            f"{folder}: config.json says vocab_size={stated}, the weights have {rows} ids: correct config.json"
        )
    generation = folder / "generation_config.json"
    for name, given in (
        ("config.json", text),
        (generation.name, read_fields(generation) if generation.is_file() else {}),
    ):
        for key in IDS:
            ids = given.get(key)
            wrong = [i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int) and rows and i >= rows]
            if wrong:
                raise UserError(
                    f"{folder}: {name}'s {key}={wrong[0]} is beyond the vocabulary of {rows} ids: correct it"
                )
    return rows if isinstance(rows, int) else None


def check_finite(path: Path, tensors: list[Tensor]) -> None:
    """UserError naming the first tensor with a NaN or an infinite weight."""
    for tensor in tensors:
        if tensor.dtype not in FINITE:
            continue
        kind, exponent = FINITE[tensor.dtype]
        for piece in _pieces(path, tensor, kind):
            if bool(((piece & exponent) == exponent).any()):
                raise UserError(f"{path}: {tensor.name} holds weights that are NaN or infinite: {COPY}")


def _pieces(path: Path, tensor: Tensor, kind: Any) -> Iterator[np.ndarray]:
    width = np.dtype(kind).itemsize
    count = math.prod(tensor.shape)
    if tensor.stop - tensor.start != count * width:
        raise UserError(f"{path} is damaged ({tensor.name} has other bytes than its shape): {COPY}")
    with open(path, "rb") as file:
        file.seek(tensor.start)
        for _ in range(0, count * width, PIECE):
            yield np.frombuffer(file.read(min(PIECE, tensor.start + count * width - file.tell())), kind)
