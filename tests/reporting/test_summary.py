"""nopsd.reporting.summary: the last thing a run prints must be the evaluation's numbers, and fit a console."""

import pytest

from nopsd.errors import DataError
from nopsd.reporting.summary import summary_table


@pytest.fixture(scope="module")
def before(make_judged):
    letters = {"bio": ["AABB", "BBBB", "AAAA", "ABBB"], "chem": ["AAAA", "AABB"], "phys": ["AAAA", "BBBB"]}
    return {domain: make_judged(domain, answers) for domain, answers in letters.items()}


@pytest.fixture(scope="module")
def after(make_judged):
    letters = {"bio": ["AAAA", "AABB", "AAAA", "ABBB"], "chem": ["AAAA", "BBAA"], "phys": ["BBAB", "BBBB"]}
    return {domain: make_judged(domain, answers) for domain, answers in letters.items()}


def block(text, title):
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    return lines[start + 1 : start + 5]


def test_in_domain_and_cross_domain_rows_hold_the_metrics(before, after):
    text = summary_table(before, after, "bio")
    avg, maj, ece, moved = block(text, "in-domain: bio")
    assert avg.split()[0] == "Avg@4" and " 43.8 [" in avg and " 68.8 [" in avg and "+25.0 [" in avg
    assert maj.split()[0] == "maj@4" and " 50.0 [" in maj and " 75.0 [" in maj
    assert ece.split()[0] == "ECE" and "0." in ece
    assert moved.split() == ["fix/break", "1", "/", "0", "of", "4"]
    mean = block(text, "cross-domain: mean of 2")[0]
    assert " 62.5 [" in mean and " 43.8 [" in mean and "-18.8 [" in mean  # means over domains, not questions
    assert "cross-domain: chem" in text and "cross-domain: phys" in text


def test_it_fits_a_console_of_eighty_columns(make_judged):
    wide = {d: make_judged(d, ["A" * 8] * 30 + ["B" * 8] * 3, 100) for d in ("bio", "chem")}
    worse = {d: make_judged(d, ["A" * 8] * 3 + ["B" * 8] * 30, 100) for d in ("bio", "chem")}
    assert max(map(len, summary_table(wide, worse, "bio").splitlines())) <= 80


def test_markdown_has_the_same_numbers(before, after):
    table = summary_table(before, after, "bio", style="markdown")
    assert "| **in-domain: bio** |" in table
    cells = next(line for line in table.splitlines() if line.startswith("| Avg@4")).split("|")
    assert cells[2].strip().startswith("43.8 [") and cells[4].strip().startswith("+25.0 [")


def test_without_resampling_there_are_no_brackets(make_judged):
    one = {"bio": make_judged("bio", ["AABB"], bootstrap=0)}
    assert block(summary_table(one, one, "bio"), "in-domain")[0].split() == ["Avg@4", "50.0", "50.0", "+0.0"]


def test_domains_evaluated_once_are_named_and_other_questions_refused(before, after, make_judged):
    text = summary_table(before, {"bio": after["bio"]}, "bio")
    assert "one side only, left out: chem, phys" in text
    assert summary_table({}, after, "bio").startswith("No domain was evaluated")
    with pytest.raises(DataError, match="different questions"):
        summary_table({"bio": before["bio"]}, {"bio": make_judged("bio", ["AAAA"])}, "bio")
