"""The doctor's table: a hidden finding, or a wrong exit code, lets a run start that can't end."""

import json

from nopsd.cluster.doctor.memory import GIB, Needs
from nopsd.cluster.doctor.table import WIDTH, as_json, as_text, exit_code, memory_text, summary
from nopsd.cluster.findings import ERROR, OK, WARNING, Finding

FOUND = [
    Finding("versions", "all", OK, "Python 3.11"),
    Finding("clock", "a-host-with-a-long-name", WARNING, "it is " + "very " * 40 + "late"),
    Finding("names", "b", ERROR, "can't resolve a"),
]
NEEDS = Needs({"student weights": 2 * GIB, "gradients": 0}, {"optimizer": GIB}, 2**20, GIB)


def test_rows_are_aligned_and_long_messages_wrapped_under_themselves():
    lines = as_text(FOUND).splitlines()
    assert max(map(len, lines)) <= WIDTH and len(lines) > len(FOUND)
    columns = [line.index(words) for line, words in zip((lines[0], lines[-1]), ("Python", "can't"))]
    assert len(set(columns)) == 1 and lines[2].startswith(" " * columns[0] + "very")


def test_errors_alone_fail_and_both_are_counted():
    assert [exit_code(found) for found in (FOUND, FOUND[:2], [])] == [1, 0, 0]
    assert summary(FOUND) == "1 error, 1 warning" and summary(FOUND[:1]) == "0 errors, 0 warnings"


def test_memory_by_part_and_the_servers_room():
    """Parts of nothing are left out; the total is the device's, not the host's."""
    text = memory_text(NEEDS, 4, 3 * GIB)
    assert "each of 4 training ranks" in text and "gradients" not in text
    total, optimizer = (next(x for x in text.splitlines() if name in x) for name in ("total", "optimizer"))
    assert "2.00 GiB" in total and "1.00 GiB of the host's" in optimizer
    assert "room for 3,072 tokens" in text and "room for" not in memory_text(NEEDS, 4, None)


def test_json_holds_what_the_table_shows():
    made = json.loads(as_json(FOUND, NEEDS, {"a": {}}, []))
    assert [f["level"] for f in made["findings"]] == [OK, WARNING, ERROR] and made["memory"]["total"] == 2 * GIB
    assert json.loads(as_json(FOUND, None, {}, []))["memory"] is None
