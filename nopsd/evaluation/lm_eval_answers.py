r"""MMLU-Pro's answers as lm-evaluation-harness reads them, beside ours.

Its task `mmlu_pro` (2.1 to 3.1): filter `custom-extract`, the first hit of `answer is \(?([ABCDEFGHIJ])\)?` anywhere
in the response, "[invalid]" without one, and `exact_match` that ignores case and punctuation. Ours goes on from
there: nothing inside a think block counts, `<answer>` and `\boxed{}` come first, then the same pattern, then
"Answer: X" and the last lone capital, and a letter has to be one of the question's options. Pure.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

FILTER = "custom-extract"
INVALID = "[invalid]"
_PATTERN = re.compile(r"answer is \(?([ABCDEFGHIJ])\)?")
_DROPPED = str.maketrans("", "", string.punctuation)


def harness_answer(response: str) -> str:
    """The letter that the harness takes, or `[invalid]`."""
    found = _PATTERN.search(response)
    return found.group(1) if found else INVALID


def harness_match(answer: str, gold: str) -> bool:
    """Its `exact_match` with ignore_case and ignore_punctuation."""
    return _bare(answer) == _bare(gold)


def _bare(text: str) -> str:
    return text.lower().translate(_DROPPED)


@dataclass(frozen=True)
class RuleGap:
    """The two rules on the same samples, as counts."""

    samples: int
    ours_right: int
    harness_right: int
    only_ours: int  # right by ours alone
    only_harness: int  # right by theirs alone
    unread_by_harness: int  # that ours could read

    def __str__(self) -> str:
        share = 100 / self.samples
        return (
            f"lm-evaluation-harness's MMLU-Pro rule finds {self.harness_right * share:.1f} % right, ours "
            f"{self.ours_right * share:.1f} %: {self.only_ours} samples right by ours alone, {self.only_harness} by "
            f"its alone, {self.unread_by_harness} of {self.samples} read by ours alone"
        )


def rule_gap(responses: Sequence[str], ours: Sequence[str | None], gold: Sequence[str]) -> RuleGap:
    """`responses` as sampled, `ours` the answers we read in them; ValueError if there are none."""
    if not responses:
        raise ValueError("no samples to compare two rules on")
    theirs = [harness_answer(r) for r in responses]
    ours_right = [a == g for a, g in zip(ours, gold, strict=True)]
    theirs_right = [harness_match(a, g) for a, g in zip(theirs, gold, strict=True)]
    pairs = list(zip(ours_right, theirs_right))
    return RuleGap(
        len(responses),
        sum(ours_right),
        sum(theirs_right),
        sum(o and not t for o, t in pairs),
        sum(t and not o for o, t in pairs),
        sum(t == INVALID and o is not None for t, o in zip(theirs, ours)),
    )
