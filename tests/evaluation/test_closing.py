"""nopsd.evaluation.closing: the last thing a run prints must be the evaluation's numbers, and fit a console."""

import pytest

from nopsd.config import EvalConfig
from nopsd.errors import DataError
from nopsd.evaluation.closing import closing_table
from nopsd.evaluation.evaluate import QuestionRow, result_from_rows
from nopsd.evaluation.metrics import majority_answer


def result(domain, letters, bootstrap=200):
    rows = []
    for i, answers in enumerate(letters):
        majority, share = majority_answer(list(answers))
        rows.append(
            QuestionRow(
                f"{domain}{i}",
                list(answers),
                "A",
                [a == "A" for a in answers],
                majority,
                share,
                ["stop"] * len(answers),
                [3] * len(answers),
            )
        )
    return result_from_rows(domain, rows, EvalConfig(n=len(letters[0]), bootstrap=bootstrap))


BEFORE = {
    "bio": result("bio", ["AABB", "BBBB", "AAAA", "ABBB"]),
    "chem": result("chem", ["AAAA", "AABB"]),
    "phys": result("phys", ["AAAA", "BBBB"]),
}
AFTER = {
    "bio": result("bio", ["AAAA", "AABB", "AAAA", "ABBB"]),
    "chem": result("chem", ["AAAA", "BBAA"]),
    "phys": result("phys", ["BBAB", "BBBB"]),
}


def block(text, title):
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    return lines[start + 1 : start + 5]


def test_in_domain_and_cross_domain_rows_hold_the_metrics():
    text = closing_table(BEFORE, AFTER, "bio")
    avg, maj, ece, moved = block(text, "in-domain: bio")
    assert avg.split()[0] == "Avg@4" and " 43.8 [" in avg and " 68.8 [" in avg and "+25.0 [" in avg
    assert maj.split()[0] == "maj@4" and " 50.0 [" in maj and " 75.0 [" in maj
    assert ece.split()[0] == "ECE" and "0." in ece
    assert moved.split() == ["fix/break", "1", "/", "0", "of", "4"]
    mean = block(text, "cross-domain: mean of 2")[0]
    assert " 62.5 [" in mean and " 43.8 [" in mean and "-18.8 [" in mean  # means over domains, not questions
    assert "cross-domain: chem" in text and "cross-domain: phys" in text


def test_it_fits_a_console_of_eighty_columns():
    wide = {d: result(d, ["A" * 8] * 30 + ["B" * 8] * 3, 100) for d in ("bio", "chem")}
    worse = {d: result(d, ["A" * 8] * 3 + ["B" * 8] * 30, 100) for d in ("bio", "chem")}
    assert max(map(len, closing_table(wide, worse, "bio").splitlines())) <= 80


def test_markdown_has_the_same_numbers():
    table = closing_table(BEFORE, AFTER, "bio", style="markdown")
    assert "| **in-domain: bio** |" in table
    cells = next(line for line in table.splitlines() if line.startswith("| Avg@4")).split("|")
    assert cells[2].strip().startswith("43.8 [") and cells[4].strip().startswith("+25.0 [")


def test_without_resampling_there_are_no_brackets():
    one = {"bio": result("bio", ["AABB"], bootstrap=0)}
    assert block(closing_table(one, one, "bio"), "in-domain")[0].split() == ["Avg@4", "50.0", "50.0", "+0.0"]


def test_domains_evaluated_once_are_named_and_other_questions_refused():
    text = closing_table(BEFORE, {"bio": AFTER["bio"]}, "bio")
    assert "one side only, left out: chem, phys" in text
    assert closing_table({}, AFTER, "bio").startswith("No domain was evaluated")
    with pytest.raises(DataError, match="different questions"):
        closing_table({"bio": BEFORE["bio"]}, {"bio": result("bio", ["AAAA"])}, "bio")
