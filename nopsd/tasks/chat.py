"""`nopsd chat`: one question to three models side by side: base, student, and the teacher with its demonstrations.

In: a run whose training is done. The teacher is the base model with the pool's answers that lie nearest to its own
answer by neuron sets, as in training, for any question. Out: replies as plain data. transformers generates: no server.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from nopsd.config import Config
from nopsd.data.demonstrations import demonstrations_for, display_order
from nopsd.data.prompts import think_ids
from nopsd.data.records import Question
from nopsd.data.wording import question_text
from nopsd.engine.device import device
from nopsd.engine.distributed import Ranks
from nopsd.engine.frozen import DTYPES
from nopsd.errors import UserError
from nopsd.neurons.adapters import find_sites
from nopsd.neurons.batches import scored_span
from nopsd.neurons.scoring import Scorer
from nopsd.neurons.sets import set_sizes
from nopsd.neurons.store import pack_ids
from nopsd.rollout.types import Rollout
from nopsd.run import folder as names
from nopsd.run.session import Session
from nopsd.selection.jaccard import jaccard_distances
from nopsd.selection.neighbors import normalised

LONGEST = 1024  # tokens of a reply, where eval.max_new is more and --max-new isn't given


@dataclass(frozen=True)
class Reply:
    """What one model says. `shown`: uids of the demonstrations it saw, nearest first."""

    who: str  # base | student | teacher
    text: str
    tokens: int
    shown: tuple[str, ...] = ()


class PlainEngine:
    """A model as the scorer takes an engine: one process, nothing sharded."""

    def __init__(self, model: Any) -> None:
        self.module = model

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)


class Chat:
    """The models of one run, loaded when they are first asked. UserError if the run has no trained model."""

    def __init__(self, config: Config, temperature: float = 0.0, max_new: int | None = None) -> None:
        self.config, self.session, self.temperature = config, Session(config), temperature
        self.max_new = max_new or min(config.eval.max_new, LONGEST)
        if not self.session.run.export_record():
            raise UserError(f"{self.session.run.root} has no trained model yet: run `nopsd train` first")

    @cached_property
    def base(self) -> Any:
        return self._load(str(self.session.model.path))

    @cached_property
    def student(self) -> Any:
        return self._load(str(self.session.run.export))

    def _load(self, path: str) -> Any:
        from transformers import AutoModelForCausalLM

        model = self.config.model
        lm = AutoModelForCausalLM.from_pretrained(
            path, dtype=DTYPES[model.dtype], trust_remote_code=model.trust_remote_code
        )
        return lm.to(device()).eval()

    def question(self, uid: str) -> Question:
        """A question of the pool or the tests. UserError if there is none of this id."""
        everything = [*self.session.pool, *(q for tests in self.session.tests.values() for q in tests)]
        found = next((q for q in everything if q.uid == uid), None)
        if found is None:
            raise UserError(f"the run has no question {uid}: its ids stand in {self.session.run.stage_dir(names.DATA)}")
        return found

    def asked(self, text: str) -> Question:
        """A question of the user's own."""
        return Question(uid="asked", domain=self.config.data.domain, source="file", question=text)

    def ask(self, question: Question) -> list[Reply]:
        """Base, student and, where the run has neuron sets, the teacher."""
        prompt = self.session.renderer.student(question)
        base = self.generate(self.base, prompt)
        replies = [self._reply("base", base), self._reply("student", self.generate(self.student, prompt))]
        if self.session.run.manifest(names.NEURONS) is None or not base:
            return replies
        near = self.nearest(question, prompt, base)
        responses = {(r.uid, r.sample): r.text for r in self.session.rollouts}
        context = self.config.context
        shown = demonstrations_for(
            [(uid, 0) for uid in near], self.session.questions, responses, context.solution, self.session.reader
        )
        order = display_order(len(shown), context.order, f"{context.seed} {question.uid}")
        teacher = self.session.renderer.teacher(question, shown, context.max_prompt, order)
        uids = tuple(demonstration.question.uid for demonstration in shown[: teacher.kept])
        return [*replies, self._reply("teacher", self.generate(self.base, teacher.ids), uids)]

    def _reply(self, who: str, ids: list[int], shown: tuple[str, ...] = ()) -> Reply:
        text = self.session.tokenizer.decode(ids, skip_special_tokens=True)
        return Reply(who, str(text).strip(), len(ids), shown)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def generate(self, lm: Any, prompt: list[int]) -> list[int]:
        """Ids of the response; greedy at temperature 0."""
        ids = torch.tensor([prompt], device=lm.device)
        torch.manual_seed(self.config.seed)
        sampled: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.temperature > 0:
            sampled = {"do_sample": True, "temperature": self.temperature, "top_p": self.config.eval.top_p}
        tokenizer = self.session.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        out = lm.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.max_new, pad_token_id=pad, **sampled
        )
        found: list[int] = out[0, len(prompt) :].tolist()
        return found

    def nearest(self, question: Question, prompt: list[int], response: list[int]) -> list[str]:
        """The pool questions whose neuron sets are nearest to a response's, never itself.

        Args:
            question: What was asked.
            prompt: Its token ids.
            response: Its answer, as token ids.

        Returns:
            context.m uids, nearest first.
        """
        neurons, texts = self.session.run.neurons(), {q.uid: question_text(q) for q in self.session.pool}
        own = self.neuron_set(prompt, response)
        distances = jaccard_distances(own, neurons.ids, sum(find_sites(self.base).widths))[0]
        same = normalised(question_text(question))
        order = np.lexsort((np.arange(len(distances)), distances))
        allowed = [neurons.uids[i] for i in order if normalised(texts[neurons.uids[i]]) != same]
        return allowed[: self.config.context.m]

    def neuron_set(self, prompt: list[int], response: list[int]) -> Any:
        """N_K of a response, [1, K], as the neurons stage makes it."""
        config, sites = self.config.neuron, find_sites(self.base)
        rollout = Rollout("asked", 0, prompt, response, "", "stop", 0)
        tags = None if config.include_thinking else think_ids(self.session.tokenizer)
        span = scored_span(rollout, 0, tags, config.drop_last_position)
        sizes = set_sizes(config, sites.widths, sites.active)
        ranks = Ranks(0, 1, torch.device(self.base.device))
        scorer = Scorer(PlainEngine(self.base), sites, sizes, config.value, config.align, ranks)
        (sample,) = scorer.score([rollout], (0,), [span])
        return pack_ids([sample.ids.numpy()], sizes.k)


def talk(chat: Chat, text: str | None, uid: str | None, as_json: bool = False) -> str:
    """What to print of a question of the run (`uid`), or of one of the user's own."""
    question = chat.question(uid) if uid is not None else chat.asked(text or "")
    replies = chat.ask(question)
    if as_json:
        return json.dumps({"question": question_text(question), "replies": [asdict(r) for r in replies]})
    return text_of(question, replies)


def text_of(question: Question, replies: Sequence[Reply]) -> str:
    """The replies one below the other."""
    titles = {
        "base": "base model",
        "student": "student (trained)",
        "teacher": "teacher (base model with demonstrations)",
    }
    blocks = [f"question: {question_text(question)}"]
    for reply in replies:
        shown = f"; shown: {', '.join(reply.shown)}" if reply.shown else ""
        blocks.append(f"--- {titles[reply.who]}, {reply.tokens} tokens{shown}\n{reply.text}")
    if len(replies) < 3:
        blocks.append("--- no teacher: the run has no neuron sets to find demonstrations by")
    return "\n\n".join(blocks) + "\n"
