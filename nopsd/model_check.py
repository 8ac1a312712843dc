"""Whether a model can be used, before anything is spent: one check for a start, `nopsd doctor` and `--dry-run`.

Beyond the files (`nopsd.model_files`): code of the folder's own, a tokenizer that is missing or another model's, a chat
template that can't render a question, weights that aren't finite numbers. No code of the folder runs, unless
model.trust_remote_code allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nopsd.config import Config
from nopsd.data.limits import memory_limit
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.records import Question
from nopsd.errors import UserError
from nopsd.model_files import check_files, check_finite, read_fields, read_header, vocabulary

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
TEMPLATE_BYTES = 2**30  # for a template to render one question


def check_model(folder: Path, config: Config, tokenizer: Any = None) -> None:
    """UserError naming the first fault and the remedy. `tokenizer`: the folder's, if it is loaded already."""
    shards = {path: read_header(path) for path in check_files(folder)}
    fields = read_fields(folder / "config.json")
    check_code(folder, fields, config.model.trust_remote_code)
    rows = vocabulary(folder, fields, [tensor for held in shards.values() for tensor in held])
    check_tokenizer(folder, config, rows, tokenizer)
    for path, tensors in shards.items():
        check_finite(path, tensors)


def check_code(folder: Path, fields: Mapping[str, Any], trusted: bool) -> None:
    """Nothing of the folder is code that would have to run, unless model.trust_remote_code says that it may."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} has adapter_config.json, which would load another model's weights: merge the adapter"
        )
    if trusted:
        return
    kind = fields.get("model_type")
    if kind not in CONFIG_MAPPING:
        if "auto_map" not in fields:
            raise UserError(f"{folder}: model_type {kind} is not one that transformers knows: use another model")
        raise UserError(
            f"{folder}: model_type {kind} needs the folder's own code: read it and set model.trust_remote_code=true, "
            "or use another model"
        )
    for key, value in fields.items():
        if "implementation" in key and isinstance(value, str) and "/" in value:
            raise UserError(f"{folder}: config.json's {key}={value} would fetch and run code: remove it")
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # its validation raises classes of three libraries
        raise UserError(f"{folder}: config.json can't be used: {' '.join(str(error).split())[:160]}") from error


def check_tokenizer(folder: Path, config: Config, rows: int | None, tokenizer: Any = None) -> None:
    """The tokenizer is there, its ids are the model's, and its chat template renders a question."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{folder} has no tokenizer ({TOKENIZERS[0]}): copy the model's own into it")
    tokenizer = tokenizer or load_tokenizer(folder, trust_remote_code=config.model.trust_remote_code)
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if rows is not None and i >= rows}
    beyond.pop(tokenizer.pad_token_id, None)  # many have one more for padding, which no prompt holds
    if beyond:
        last = max(beyond)
        raise UserError(
            f"{folder}: the tokenizer's id {last} ({beyond[last]!r}) is beyond the model's vocabulary of {rows}: it is "
            "another model's tokenizer"
        )
    with memory_limit(TEMPLATE_BYTES):
        PromptRenderer(tokenizer, config.prompt).suffix(Question("q", "d", "probe", "Which one?"))
