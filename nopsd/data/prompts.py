"""Questions to token ids: the one renderer of both roles.

Student and teacher prompts end in the same generation suffix ids (checked), responses are appended
as raw ids and never re-tokenised, and a teacher prompt that is too long loses whole
demonstrations, farthest first: it is never cut.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nopsd.config import PromptConfig
from nopsd.data.records import Question
from nopsd.data.templates import ChatTemplate
from nopsd.data.wording import Demonstration, chat_messages
from nopsd.errors import DataError, UserError

PLAIN_SOURCES = ("instructions",)  # data sets whose rows are asked as they stand, without a system message of ours
_PROBE = "nopsd"


@dataclass(frozen=True)
class TeacherPrompt:
    """A demonstration-conditioned prompt and how many demonstrations it kept of those offered."""

    ids: list[int]
    kept: int
    offered: int


class PromptRenderer:
    """Renders prompts with a tokenizer's chat template. Raises UserError if it has none.

    `placement`: where demonstrations stand, as `context.placement`.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig, placement: str = "inline") -> None:
        self.tokenizer, self.config, self.placement = tokenizer, config, placement
        self.template = ChatTemplate(tokenizer, config)

    def _messages(
        self, question: Question, shown: Sequence[Demonstration] = (), ask: bool = True
    ) -> list[dict[str, str]]:
        messages = chat_messages(question, shown, ask, self.config, self.placement)
        plain = question.source in PLAIN_SOURCES and self.config.system is None
        return [m for m in messages if m["role"] != "system"] if plain else messages

    def student(self, question: Question) -> list[int]:
        """Zero-shot prompt ids, generation suffix included."""
        return self.template.ids(self._messages(question), generation=True)

    def suffix(self, question: Question) -> list[int]:
        """The generation suffix: what the template adds for the assistant's turn."""
        messages = self._messages(question)
        without = self.template.ids(messages, generation=False)
        whole = self.template.ids(messages, generation=True)
        if whole[: len(without)] != without:
            raise UserError("the chat template rewrites the conversation when a generation prompt is added")
        return whole[len(without) :]

    @cached_property
    def turn_end(self) -> list[int]:
        """The special token with which the chat template ends the assistant's turn, else the end-of-sequence token;
        empty if the tokenizer has neither."""
        turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
        shown = self.template.text(turns)
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        tail = self.tokenizer.encode(shown.rpartition(_PROBE)[2], add_special_tokens=False)
        eos = self.tokenizer.eos_token_id
        return [i for i in tail if i in special][:1] or ([] if eos is None else [eos])

    def response(self, text: str) -> list[int]:
        """Ids of a given text as the assistant's whole turn, to stand behind the prompt; empty for a blank text."""
        return [*self.tokenizer.encode(text, add_special_tokens=False), *self.turn_end] if text.strip() else []

    def teacher(
        self,
        question: Question,
        nearest_first: Sequence[Demonstration],
        max_tokens: int,
        order: Sequence[int] | None = None,
        ask: bool = True,
    ) -> TeacherPrompt:
        """The teacher's prompt: demonstrations, then the question in the student's wording.

        Args:
            question: What is asked.
            nearest_first: Demonstrations by distance; they are dropped from the end until the prompt fits.
            max_tokens: Length of the prompt, at most.
            order: Permutes what is shown (positions into `nearest_first`, dropped ones are skipped); None: nearest
                last.
            ask: False: the demonstrations alone.

        Raises:
            DataError: The question alone is too long.
            UserError: The prompt does not end in the student's generation suffix.
        """
        order = list(range(len(nearest_first)))[::-1] if order is None else order
        student_suffix = self.suffix(question)
        for kept in range(len(nearest_first), -1, -1):
            shown = [nearest_first[i] for i in order if i < kept]
            ids = self.template.ids(self._messages(question, shown, ask), generation=True)
            if len(ids) <= max_tokens:
                if ids[len(ids) - len(student_suffix) :] != student_suffix:
                    raise UserError("student and teacher prompts end in different generation suffixes")
                return TeacherPrompt(ids, kept, len(nearest_first))
        raise DataError(
            f"question {question.uid}: its prompt alone is {len(ids)} tokens, over context.max_prompt={max_tokens}: "
            "raise context.max_prompt, or remove the question"
        )


def load_tokenizer(path: str | os.PathLike[str], revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The model's own tokenizer; UserError if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # the tokenizers' library raises Exception itself for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"no tokenizer could be loaded from {path}: {reason}: copy the model's own into it") from error


def think_ids(tokenizer: Any) -> tuple[int, int] | None:
    """Ids of the opening and closing thinking tags, if each is one token of the tokenizer."""
    vocabulary = tokenizer.get_vocab()
    opening, closing = vocabulary.get("<think>"), vocabulary.get("</think>")
    return None if opening is None or closing is None else (opening, closing)
