"""Answers that several steps write, each a part of them, so that no step waits for its longest (`rollout.partial`).

In: how many tokens lately finished answers have. Out: by how many a response may grow in a step, and the responses
that the next step goes on with. The servers write all responses of a step side by side, a token of each at a time, so a
limit on the tokens of each is a limit on the step's time; it is chosen such that of lately finished answers the stated
share of the tokens lies below it. Counted in tokens, not seconds: a run that is resumed cuts where the unbroken one
would have.

A response that reaches the limit is trained on as far as it goes; a later step, with newer weights, goes on behind its
tokens. Each token carries loss once, in the step whose weights sampled it. What is off-policy is only what
stands before it: the earlier parts are older weights'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from nopsd.rollout.types import Rollout

CUT = "cut"  # finish reason of a response that a later step goes on with
RECENT = 8  # steps whose finished answers count (chosen)


@dataclass
class Partial:
    """`share`: of a step's tokens that must be there; `longest`: tokens of a response at most; `batch`: questions of a
    step. `unfinished`: the question and the response so far of each that the next step goes on with; `finished`: tokens
    of the answers that ended last, oldest first. Equal on all ranks."""

    share: float
    longest: int
    batch: int
    unfinished: list[tuple[str, Rollout]] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)

    def limit(self) -> int:
        """Tokens by which a response may grow in the next step; `longest` while no answer has ended yet."""
        lengths = sorted(self.finished)
        wanted, below = self.share * sum(lengths), 0
        for i, length in enumerate(lengths):
            left = len(lengths) - i  # that are as long or longer
            if below + left * length >= wanted:
                return max(1, -int((below - wanted) // left))  # rounded up
            below += length
        return self.longest

    def end_step(self, uids: Sequence[str], rollouts: Sequence[Rollout]) -> None:
        """Note what a step sampled: `uids` has the question of each response."""
        self.unfinished = [(uid, r) for uid, r in zip(uids, rollouts, strict=True) if r.finish_reason == CUT]
        self.finished += [len(r.response_ids) for r in rollouts if r.finish_reason != CUT]
        self.finished = self.finished[-RECENT * self.batch :]

    def state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint."""
        return {"unfinished": [[uid, asdict(r)] for uid, r in self.unfinished], "finished": self.finished}

    def restored(self, state: Mapping[str, Any] | None) -> Self:
        """With what a checkpoint holds, if there is one."""
        if state is None:
            return self
        unfinished = [(uid, Rollout(**fields)) for uid, fields in state["unfinished"]]
        return replace(self, unfinished=unfinished, finished=list(state["finished"]))


def continued(before: Rollout | None, part: Rollout, prompt: list[int], longest: int) -> Rollout:
    """A response with its newest part.

    Args:
        before: The response so far; None: there is none.
        part: What was sampled behind it.
        prompt: The question's, without the response so far.
        longest: Tokens of a response, at most.
    """
    old = before or replace(part, response_ids=[], text="", logprobs=[])
    ids = old.response_ids + part.response_ids
    cut = part.finish_reason == "length" and len(ids) < longest
    return replace(
        part,
        prompt_ids=prompt,
        response_ids=ids,
        text=old.text + part.text,
        finish_reason=CUT if cut else part.finish_reason,
        logprobs=(old.logprobs or []) + (part.logprobs or []),
        earlier_versions=[*(before.token_versions if before else [])],
    )
