"""The rollout stage of data that bring their own responses: no server, the texts become token ids once.

In: questions, their prompts (ids), a response text each. Out: `folder/rollouts.parquet` (types.py), one sample a
question, policy version 0, finish reason `stop`; a response that reaches beyond the model's window is cut there and
marked `length`, as a sampled one would be. An empty text gives no response ids: nothing there can be scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nopsd.data.records import Question
from nopsd.errors import ConfigError
from nopsd.rollout.types import FILE, Rollout, write_rollouts

REPORT_EVERY = 256  # questions between two reports of progress


def given_rollouts(
    questions: Sequence[Question],
    prompts: Sequence[list[int]],
    responses: Mapping[str, str],
    encode: Callable[[str], list[int]],
    samples: int,
    window: int,
    folder: Path,
    progress: Callable[..., None] | None = None,
) -> list[Rollout]:
    """Given responses as rollouts, also written to `folder`. Rank 0 alone calls it.

    Args:
        questions: In order.
        prompts: Token ids of each.
        responses: uid -> text.
        encode: Makes the ids of a whole assistant turn of a text.
        samples: `zero_shot.n`.
        window: Tokens of prompt and response, at most; longer responses are cut.
        folder: The rollout stage's.
        progress: Called with the responses done and their total.

    Raises:
        ConfigError: More than one sample is asked for: there is one response a question.
    """
    if samples != 1:
        raise ConfigError(
            f"zero_shot.n={samples}: these data give one response a question, so that nothing can be chosen by "
            "comparing several answers of one: set zero_shot.n=1, and a selector that does without"
        )
    rollouts = []
    for number, (question, prompt) in enumerate(zip(questions, prompts, strict=True), 1):
        rollouts.append(_rollout(question.uid, prompt, responses[question.uid], encode, window))
        if progress is not None and (number % REPORT_EVERY == 0 or number == len(questions)):
            progress(number, len(questions))
    write_rollouts(folder / FILE, rollouts)
    return rollouts


def _rollout(uid: str, prompt: list[int], text: str, encode: Callable[[str], list[int]], window: int) -> Rollout:
    ids = encode(text)
    room = window - len(prompt)
    return Rollout(uid, 0, prompt, ids[:room], text, "length" if len(ids) > room else "stop", policy_version=0)
