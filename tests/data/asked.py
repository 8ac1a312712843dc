"""Questions with options of every kind, whose answers hostile texts are read for."""

from nopsd.data.records import Option, Question


def question(**texts):
    return Question("q", "d", "s", "?", tuple(Option(label, text) for label, text in texts.items()))


FOUR = question(A="Mitochondria", B="Ribosome", C="Nucleus", D="Golgi apparatus")
TEN = question(**{label: f"text number {number}" for number, label in enumerate("ABCDEFGHIJ", 1)})
TRUTH = question(A="True", B="False", C="Impossible to tell", D="a mixture of both")
SMALL = question(A="b", B="e", C="4", D="x")
EDU = question(**{"With Explanation": "With Explanation", "Without Explanation": "Without Explanation"})
FREE = question()
