"""Token ids as pieces of text, by the model's own tokenizer.

In: ids. Out: a text for each, which joined give the whole text. A character that several tokens make up is with the
last of them. Without a tokenizer the ids stand for themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nopsd.config import ModelConfig
from nopsd.errors import UserError
from nopsd.models import LAB_MODEL
from nopsd.run.folder import RunFolder

FILE = "tokenizer.json"
BROKEN = "\ufffd"  # what a part of a character is decoded as
CONTEXT = 6  # tokens before, which a decoder may look at (spaces, joined characters)


@dataclass(frozen=True)
class Pieces:
    """`tokenizer`: of the tokenizers library; None where the run's can't be found here."""

    tokenizer: Any

    @classmethod
    def of(cls, run: RunFolder, model: ModelConfig) -> Pieces:
        """The tokenizer of the exported model, else of the base model if it is on this machine."""
        base = LAB_MODEL if model.path == "lab" else Path(model.path).expanduser()
        for folder in (run.export, base):
            if (folder / FILE).is_file():
                return cls(_load(folder / FILE))
        return cls(_cached(model))

    def split(self, ids: Sequence[int]) -> list[str]:
        """A piece for each id."""
        if self.tokenizer is None:
            return [f"⟨{i}⟩" for i in ids]
        pieces, start = [], 0  # ids[start:at] is decoded and shown
        for at in range(len(ids)):
            before = self._text(ids[max(0, start - CONTEXT) : start])
            text = self._text(ids[max(0, start - CONTEXT) : at + 1])[len(before) :]
            whole = not text.endswith(BROKEN) or at == len(ids) - 1
            pieces.append(text if whole else "")
            start = at + 1 if whole else start
        return pieces

    def text(self, ids: Sequence[int]) -> str:
        """All of it."""
        return "".join(self.split(ids)) if self.tokenizer is None else self._text(ids)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


@lru_cache(maxsize=4)
def _load(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers' library raises Exception itself for a damaged file
        raise UserError(f"{path} can't be read as a tokenizer: bring it back from a copy") from error


def _cached(model: ModelConfig) -> Any:
    """Of a model of the hub, if it was fetched to this machine before; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model.path, FILE, revision=model.revision)
    except HFValidationError:  # a path that is not here, and no name of the hub
        return None
    return _load(Path(found)) if isinstance(found, str) else None
