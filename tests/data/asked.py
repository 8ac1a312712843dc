"""Questions with options of every kind, whose answers hostile texts are read for."""

from nopsd.data.records import Option, Question
from nopsd.data.wording import Demonstration


def question(**texts):
    return Question("q", "d", "s", "?", tuple(Option(label, text) for label, text in texts.items()))


FOUR = question(A="Mitochondria", B="Ribosome", C="Nucleus", D="Golgi apparatus")
TEN = question(**{label: f"text number {number}" for number, label in enumerate("ABCDEFGHIJ", 1)})
TRUTH = question(A="True", B="False", C="Impossible to tell", D="a mixture of both")
SMALL = question(A="b", B="e", C="4", D="x")
EDU = question(**{"With Explanation": "With Explanation", "Without Explanation": "Without Explanation"})
FREE = question()

# For prompts: one without options, one with letters, one with phrases; and what may be shown before them.
QUESTION = Question(
    "q", "d", "t", "In the Aster notebook a colony is at four. We feed two, then five. Where is it now?"
)
CHOICE = Question("c", "d", "t", "Which?", (Option("A", "this"), Option("B", "that")))
PHRASE = Question(
    "p",
    "d",
    "t",
    "Explained?",
    (Option("With Explanation", "With Explanation"), Option("Without Explanation", "Without Explanation")),
)
DEMOS = [
    Demonstration(Question(f"d{i}", "d", "t", f"Question number {i}?"), f"Solution {i}. <answer>{i}</answer>")
    for i in range(4)
]
