"""Tables of single runs."""

import pytest

from nopsd.reporting.compare.tables import all_tables
from tests.reporting.compare.conftest import only


def test_each_run_is_told_by_itself(view):
    """Breaks if a run's numbers are another seed's, or its difference is from another seed's base."""
    table = next(t for t in all_tables(view) if t.name == "runs")
    assert len(table.rows) == len(only(view).runs) == 8
    row = next(row for row in table.rows if row[:3] == ("top", "chemistry", "1"))
    after, before = only(view).runs["top", "chemistry", 1]["chemistry"], only(view).base[1]["chemistry"]
    assert row[3].value == pytest.approx(100 * after.metrics["avg"])
    assert row[3].delta == pytest.approx(100 * (after.metrics["avg"] - before.metrics["avg"]))
    assert row[5].value == pytest.approx(after.metrics["ece"]) and row[5].decimals == 3
