"""Answer judges: how an answer is read from a text, and which answers are the same.

Ours stand in `registry`; a user's own is a function under `@answer_judge` (docs/extending.md), named by `answer.judge`.
"""

from nopsd.data.judges.base import AnswerJudge, AnswerStyle, answer_judge
from nopsd.data.judges.registry import judge_of

__all__ = ["AnswerJudge", "AnswerStyle", "answer_judge", "judge_of"]
