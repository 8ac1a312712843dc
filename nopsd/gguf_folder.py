"""A GGUF file as a Hugging Face folder, which is made once and found again by the file's content.

In: `model.path` as a file that ends in `.gguf`. Out: a folder with config, weights and tokenizer as Transformers reads
them from the file: weights dequantised to float32, so the folder takes several times the file's space. It is in
Hugging Face's cache (`HF_HOME`), which a cluster shares.

A file may hold the embedding of a tied model twice, as embedding and as output weight, each quantised in its own way.
Read as two matrices, a model of a large vocabulary takes a quarter more memory in every copy of its weights, and would
learn two: they are tied again, by the output's, which such files store with more bits.
"""

from __future__ import annotations

import copy
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nopsd.errors import UserError
from nopsd.files import sha256_file
from nopsd.heap import give_back_freed

SUFFIX = ".gguf"
FORM = 2  # of the folders: 1 left such an output weight as a matrix of its own
# ‖embedding − output‖ / ‖output‖ below which they are one matrix: quantising to 5 bits leaves 0.04, to 3 bits 0.15;
# between two matrices it is about 1.4 (chosen)
SAME = 0.2


def is_gguf(path: str) -> bool:
    """Whether `model.path` names a GGUF file."""
    return path.endswith(SUFFIX)


def folder_of(file: Path) -> Path:
    """Where the file's folder is or will be: its name and the hash of its content."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "nopsd" / "gguf" / f"{file.stem}-{sha256_file(file)[:16]}-{FORM}"


def made_folder(path: str) -> Path:
    """The file's folder, made if it isn't there. Two commands at once make it once. UserError if it can't be made."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise UserError(f"model.path={path}: no such file")
    folder = folder_of(file)
    try:
        with _locked(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                part = folder.with_name(f".{folder.name}.part")
                shutil.rmtree(part, ignore_errors=True)
                _convert(file, part)
                os.replace(part, folder)
                give_back_freed()
    except OSError as error:
        raise UserError(
            f"model.path={path}: {folder} can't be written ({error}): set HF_HOME to a writable folder"
        ) from error
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file, so with its process too
        yield


def _convert(file: Path, part: Path) -> None:
    print(f"model.path={file}: its weights are dequantised once, to float32", flush=True)
    try:
        loaded, tokenizer = _read(file)
    except Exception as error:  # Transformers raises a dozen unrelated classes for what it doesn't know
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model.path={file} can't be read by transformers: {reason}; give a Hugging Face folder"
        ) from error
    _plain(loaded).save_pretrained(part)
    tokenizer.save_pretrained(part)


def _read(file: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, options = str(file.parent), {"gguf_file": file.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **options)
    return model, AutoTokenizer.from_pretrained(where, **options)


def _plain(loaded: Any) -> Any:
    """The same weights in a model that knows nothing of GGUF, for `save_pretrained` refuses the one that was read."""
    import torch
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if (distance := _doubled(loaded)) is not None:
        print(f"  its output weight is its embedding, quantised again ({distance:.1%} apart): tied by the output's")
        loaded.get_input_embeddings().weight = loaded.get_output_embeddings().weight
        config.tie_word_embeddings = True
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    return plain


def _doubled(loaded: Any) -> float | None:
    """How far the output weight is from the embedding, if it is the same matrix quantised otherwise; None: it isn't."""
    embedding, output = loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight
    if embedding is output or embedding.shape != output.shape:
        return None
    distance = float((embedding.detach() - output.detach()).norm() / output.detach().norm())
    return distance if distance <= SAME else None
