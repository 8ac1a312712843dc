"""Supervised training on outputs that come with the data (NAIT's own experiment, arXiv 2603.13201). They are labels.

In: the rollout stage's rows of data that bring their responses (`nopsd.rollout.given`). Out: what `Finetuning` takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from nopsd.errors import DataError
from nopsd.rollout.types import Rollout


def given_outputs(uids: Sequence[str], rollouts: Sequence[Rollout]) -> tuple[dict[str, list[list[int]]], int]:
    """The whole outputs of the questions, in their order.

    Args:
        uids: The selected questions.
        rollouts: Given responses, one a question.

    Returns:
        uid -> its output's ids; and how many have none, or one that was cut at the model's window.

    Raises:
        DataError: Nothing is left.
    """
    by_uid = {r.uid: r.response_ids for r in rollouts if r.response_ids and not r.truncated}
    found = {uid: [by_uid[uid]] for uid in uids if uid in by_uid}
    if not found:
        raise DataError(f"none of {len(uids)} selected rows has an output that fits the model's window: use other data")
    return found, len(uids) - len(found)
