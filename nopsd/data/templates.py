"""A tokenizer's chat template, made safe for what questions and days bring.

- A template that raises on a system turn (Gemma, Mistral) or leaves it out (Phi-3) gets the system's text at the head
  of the user's turn. Seen by rendering one.
- A template that writes today's date gets `prompt.date`: a run's prompts are the same tomorrow.
- Special tokens that stand in a question's text, such as `<|im_end|>`, are encoded as text. Nothing else changes:
  without them the ids are those of `apply_chat_template`.
- What a template raises is one line, and so is that it doesn't end, or writes without end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from nopsd.config import PromptConfig
from nopsd.data.limits import OutOfTime, time_limit
from nopsd.errors import UserError

Messages = list[dict[str, str]]
THINK = ("<think>", "</think>")  # tokens of their own that some tokenizers don't call special
SECONDS = 5.0  # of computing for one prompt, which takes milliseconds
MOST_ADDED = 1_000_000  # characters beside the messages' own
_SYSTEM, _USER = "nopsd system probe", "nopsd user <probe> & 'more'\nof  it"
_DRAWS = re.compile(r"\|\s*random\b")
_HALF = re.compile("[\ud800-\udfff]")
_MARK = "\ue000"  # of the private use area; stands for a special token in text while the template is rendered


class ChatTemplate:
    """Raises UserError if the tokenizer has none, or one that can't render a question."""

    def __init__(self, tokenizer: Any, config: PromptConfig) -> None:
        self.tokenizer = tokenizer
        self.name = getattr(tokenizer, "name_or_path", "the model")
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"the tokenizer of {self.name} has no chat template: "
                "use an instruction-tuned model, or set `chat_template` in its tokenizer_config.json"
            )
        if _DRAWS.search(str(tokenizer.chat_template)):
            raise UserError(f"the chat template of {self.name} draws at random, so no two prompts agree: correct it")
        self._settings: dict[str, Any] = {}
        if config.enable_thinking is not None:
            self._settings["enable_thinking"] = config.enable_thinking
        if "strftime_now" in str(tokenizer.chat_template):
            self._settings["strftime_now"] = datetime.fromisoformat(config.date).strftime

    def ids(self, messages: Messages, generation: bool) -> list[int]:
        """Token ids of the conversation; with the generation suffix if `generation`."""
        messages = self._foldable(messages)
        if any(self._special.search(message["content"]) for message in messages):
            return self._guarded(messages, generation)
        return self._encode([self._apply(messages, generation)])

    def text(self, messages: Messages, generation: bool = False) -> str:
        """The conversation as text."""
        return self._apply(self._foldable(messages), generation)

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system turn's text comes out. UserError if a user's turn alone doesn't either, word by word."""
        user = [{"role": "user", "content": _USER}]
        try:
            both = self._apply([{"role": "system", "content": _SYSTEM}, *user])
            if _SYSTEM in both and _USER in both:
                return True
        except UserError:
            pass  # the user's turn alone is tried next
        if _USER not in self._apply(user):
            raise UserError(
                f"the chat template of {self.name} leaves the user's turn out, or writes it otherwise: correct its "
                "chat_template"
            )
        return False

    def _foldable(self, messages: Messages) -> Messages:
        if messages[0]["role"] != "system" or self.takes_system:
            return messages
        system, user, *others = messages
        return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *others]

    def _apply(self, messages: Messages, generation: bool = False) -> str:
        remedy = "correct its chat_template, or use another model"
        how = {"add_generation_prompt": generation, "tokenize": False, **self._settings}
        try:
            with time_limit(SECONDS):
                text = str(self.tokenizer.apply_chat_template(messages, **how))
        except OutOfTime:
            raise UserError(
                f"the chat template of {self.name} has not rendered a question in {SECONDS:g} s, and may never end: "
                f"{remedy}"
            ) from None
        except Exception as error:  # jinja's errors, and whatever a template's own expressions raise
            raise UserError(
                f"the chat template of {self.name} can't render a question ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:160]}): {remedy}"
            ) from error
        if _HALF.search(text):
            raise UserError(
                f"the chat template of {self.name} writes half a surrogate pair, which is no text: {remedy}"
            )
        if len(text) > MOST_ADDED + 10 * sum(len(message["content"]) for message in messages):
            raise UserError(f"the chat template of {self.name} writes {len(text):,} characters a question: {remedy}")
        return text

    @cached_property
    def _special(self) -> re.Pattern[str]:
        tokens = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special or t.content in THINK]
        longest_first = sorted(filter(None, tokens), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _guarded(self, messages: Messages, generation: bool) -> list[int]:
        """Ids with special tokens of the contents as text: marks stand for them while the template is rendered."""
        mark, tokens = _MARK, list[str]()
        while any(mark in message["content"] for message in messages):
            mark += _MARK

        def hidden(found: re.Match[str]) -> str:
            tokens.append(found[0])
            return f"{mark}{len(tokens) - 1};"

        marked = [{**m, "content": self._special.sub(hidden, m["content"])} for m in messages]
        rendered = self._apply(marked, generation)
        ids: list[int] = []
        for place, part in enumerate(re.split(rf"{mark}(\d+);", rendered)):
            ids += self._plain(tokens[int(part)]) if place % 2 else self._encode([part])
        return ids

    def _plain(self, token: str) -> list[int]:
        """A special token's name as text: in two pieces, neither of which is the token."""
        return self._encode([token[:1], token[1:]], split_special_tokens=True)

    def _encode(self, pieces: Sequence[str], **how: Any) -> list[int]:
        return [i for piece in pieces if piece for i in self.tokenizer.encode(piece, add_special_tokens=False, **how)]
