"""Demonstrations: solutions without their thinking, in the order that is set."""

from nopsd.data.demonstrations import demonstrations_for, display_order, solution_text
from tests.data.asked import CHOICE, QUESTION


def test_solutions_lose_their_thinking():
    text = "<think>\nsteps\n</think>\n\nSo. <answer>B</answer>"
    assert solution_text(text, CHOICE, "final") == "So. <answer>B</answer>"
    assert "steps" in solution_text(text, CHOICE, "full")
    assert solution_text(text, CHOICE, "answer_only") == "<answer>B</answer>"
    assert solution_text("<think>\ncut off", CHOICE, "final") is None


def test_demonstrations_without_a_solution_are_left_out():
    responses = {("c", 0): "<think>never ends", ("q", 0): "Start. <answer>one</answer>"}
    shown = demonstrations_for([("c", 0), ("q", 0)], {"c": CHOICE, "q": QUESTION}, responses, "final")
    assert [d.question.uid for d in shown] == ["q"]


def test_display_orders():
    assert display_order(3, "nearest_last", "s") == [2, 1, 0]
    assert display_order(3, "nearest_first", "s") == [0, 1, 2]
    assert sorted(display_order(9, "random", "s")) == list(range(9)) and display_order(
        9, "random", "s"
    ) == display_order(9, "random", "s")
