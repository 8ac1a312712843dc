"""Training on recorded responses in place of a server's: to bisect, to profile, to benchmark.

In: another run's trace. Out: the responses of one step after the other, checked to answer this run's prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nopsd.errors import ArtefactError
from nopsd.rollout.types import Rollout
from nopsd.traces.reader import Trace
from nopsd.traces.schema import FOLDER


class Replay:
    """The responses of a run folder's trace. `stage`: the train stage's name."""

    def __init__(self, run_dir: Path, stage: str) -> None:
        self.trace = Trace(run_dir / stage / FOLDER)
        if not self.trace.steps:
            raise ArtefactError(
                f"train.replay={run_dir}: {self.trace.folder} holds no step: train it with train.trace=all"
            )

    def rollouts(
        self, step: int, version: int, uids: Sequence[str], prompts: Mapping[str, list[int]], n: int
    ) -> list[Rollout]:
        """A step's responses, `n` to each uid in order. ArtefactError if the trace's step is of others.

        Args:
            step: From 0.
            version: Of the weights that this run's settings have them sampled by.
            uids: The step's questions.
            prompts: Their prompts in this run.
            n: `train.n`.
        """
        found = self.trace.rollouts(step)
        asked = [uid for uid in uids for _ in range(n)]
        where = f"step {step} of the trace in {self.trace.folder}"
        if [r.uid for r in found] != asked:
            raise ArtefactError(
                f"{where} answers other questions than this run's: train.seed, train.batch, train.n and the selection "
                "must be the recorded run's"
            )
        if any(r.prompt_ids != prompts[r.uid] for r in found):
            raise ArtefactError(f"{where} answers other prompts than this run's: copy the recorded run's stages")
        if any(r.policy_version != version for r in found):
            raise ArtefactError(f"{where} was sampled by another version of the weights: set train.ahead as there")
        return found
