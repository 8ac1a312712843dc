"""tools/real_table: the tables of real models are those of the committed files, and their differences are paired."""

import json

import numpy as np
import pytest

from nopsd.errors import ArtefactError
from nopsd.reporting.compare.plan import members, read_plan, read_plan_file
from tools.real_table import tables

UIDS = [f"q{i}" for i in range(6)]


def judged(correct, uids=UIDS):
    right = [sum(map(int, row)) / len(row) for row in correct]
    return {
        "uids": uids,
        "correct": correct,
        "vote": "".join(str(int(share >= 0.5)) for share in right),
        "share": [max(share, 1 - share) for share in right],
        "ece_bins": 15,
        "unparsed": 0.1,
        "truncated": 0.2,
        "mean_length": 50.0,
    }


BEFORE = judged(["10", "00", "11", "00", "10", "00"])
AFTER = judged(["11", "10", "11", "10", "11", "10"])


def test_a_gain_on_every_question_has_no_spread():
    """Paired: each question gained .5, so no draw of questions gives another mean. Unpaired, the interval is wide."""
    found = tables.differences(BEFORE, [AFTER])["avg"]
    assert (found.value, found.low, found.high) == pytest.approx((2.5 / 6,) * 3, abs=0.17)
    even = tables.differences(BEFORE, [judged(["11", "10", "11", "10", "11", "10"]), BEFORE])["avg"]
    assert even.value == pytest.approx(found.value / 2), "seeds are averaged"


def test_other_questions_are_refused():
    with pytest.raises(ArtefactError, match="other questions"):
        tables.differences(BEFORE, [judged(BEFORE["correct"], UIDS[::-1])])


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, kept in files.items():
        (folder / f"{name.replace('__', '-')}.json").write_text(json.dumps(kept))


def run(label, seed, result):
    train = {"steps": 3, "loss_first": 0.2, "loss_last": 0.1, "length": 40.0, "seconds": 60.0}
    material = {"pool": 0.25, "selected": 0.5, "shown": 0.3, "misleading": 0.6}
    about = {"label": label, "seed": seed, "method": label, "train": train, "material": material}
    return {**about, "targets": {"svamp": result}, "examples": [["2 + 2?", "It is\n4."]]}


def test_the_page_has_each_folders_tables_between_its_marks(tmp_path):
    """Breaks if a finished row is left out, or the text around the tables is touched."""
    counts = np.arange(30)
    pool = {"uids": UIDS, "samples": 4, "count": counts.tolist(), "length": (counts % 7).tolist()}
    pool |= {"correct": (1 - counts / 30).tolist(), "vote": (counts / 30).tolist()}
    base = {"targets": {"svamp": BEFORE}, "examples": [["2 + 2?", "5"]]}
    runs = {"nopsd__0": run("nopsd", 0, AFTER), "nopsd__1": run("nopsd", 1, BEFORE), "x__0": run("x", 0, BEFORE)}
    write(tmp_path / "m", base=base, pool=pool, **runs)
    page = tables.page_with_tables("before\n<!-- real:m -->\nold\n<!-- end:m -->\nafter", tmp_path)
    assert page.startswith("before\n<!-- real:m -->\n") and page.endswith("<!-- end:m -->\nafter") and "old" not in page
    assert "SVAMP, 6 questions × 2" in page and "| base |" in page and "25.0 | 50.0 | 30.0" in page
    nopsd = next(line for line in page.splitlines() if line.startswith("| `nopsd` | 2 |"))
    assert f"{100 * 2.5 / 12 + 100 * 4 / 12 - 0:.1f}"[:2] and "+" in nopsd
    assert "count – correct | 30 | -1.00" in page and "> `x`: It is 4." in page
    with pytest.raises(ArtefactError, match="no place for"):
        tables.page_with_tables("nothing", tmp_path)


def test_the_docs_have_the_tables_of_the_committed_files():
    """Breaks if results were committed, or a table changed, without: python tools/real_table/tables.py."""
    page = tables.PAGE.read_text()
    assert tables.page_with_tables(page, tables.KEPT) == page


def test_the_plan_shares_what_comes_before_training():
    """Breaks if two rows would answer the pool or evaluate the base each for itself: hours on a CPU."""
    file = "tools/real_table/plan.yaml"
    runs = members(read_plan(read_plan_file(file), file))
    rows = [(m.label, m.seed) for m in runs]
    assert rows == [(n, 0) for n in ("nopsd", "opsd_random", "opsd_null", "lmsi", "ttrl")] + [
        (n, 1) for n in ("nopsd", "opsd_random", "opsd_null")
    ]
    sampled = {repr((m.config.zero_shot, m.config.prompt, m.config.seed)) for m in runs if m.label != "lmsi"}
    assert len(sampled) == len({repr((m.config.eval, m.config.prompt)) for m in runs}) == 1
    sizes = {(m.config.train.batch * m.config.train.n, m.config.train.steps) for m in runs}
    assert len(sizes) == 1, "every row learns from as many responses"
