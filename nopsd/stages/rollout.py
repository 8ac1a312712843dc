"""Stage `rollout`: the frozen base model answers every question of the pool, zero-shot (the paper's Algorithm 1)."""

from __future__ import annotations

from pathlib import Path

from nopsd.config import Config
from nopsd.reporting.unfinished import of_rollouts
from nopsd.rollout.given import given_rollouts
from nopsd.rollout.stage import run_rollouts
from nopsd.run import folder as names
from nopsd.run.session import Session
from nopsd.run.stage import Counts, Progress, Stage
from nopsd.stages.workload import responses

SERVED_WITH = ("model.dtype", "server.dtype", "server.head_dtype", "server.args")  # of the text


class Rollouts(Stage):
    """Zero-shot responses, sampled from the rollout server or given by the data."""

    name = names.ROLLOUT
    does = "answer the pool zero-shot with the base model"
    inputs = (names.DATA,)
    config_keys = ("zero_shot", "prompt", *SERVED_WITH)

    def needed(self, config: Config) -> bool:
        """Always."""
        return True

    def workload(self, config: Config, counts: Counts | None) -> str:
        """Responses and tokens."""
        return responses(counts.pool if counts else None, config.zero_shot.n, config.zero_shot.max_new)

    def finish(self, session: Session) -> str | None:
        """Whether the length limit, or the form of the answers, cost many of them."""
        if session.run.given_responses() is not None:
            return None
        limit = session.config.zero_shot.max_new
        return of_rollouts(session.rollouts, session.questions, session.reader, "zero_shot.max_new", limit)

    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Sample, or tokenise what is given."""
        prompts = [session.renderer.student(q) for q in session.pool]
        given, sampling = session.run.given_responses(), session.config.zero_shot
        if given is not None:
            encode, window = session.renderer.response, session.model.window
            given_rollouts(session.pool, prompts, given, encode, sampling.n, window, folder, progress)
            return
        client = session.client_holding(session.model.path, version=0)
        run_rollouts(session.pool, prompts, client, sampling, session.config.seed, folder, 0, progress)
