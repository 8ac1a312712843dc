"""nopsd.compare: finished runs to tables and figures on disk, in every format."""

from pathlib import Path

import pytest

from nopsd.files import write_json
from nopsd.reporting.compare.gathering import material_of, view_of
from nopsd.reporting.compare.plan import members
from nopsd.reporting.compare.report import write_comparison
from nopsd.reporting.compare.views import Material
from nopsd.run.folder import RunFolder


def test_all_files_are_written_and_tell_the_same(view, tmp_path):
    """Breaks if a table is missing in a format, or the report says that a table that is there is not."""
    tables = write_comparison(tmp_path, view)
    names = {t.name for t in tables}
    assert {"table1", "table3", "table4", "table5", "table6", "table7", "table8"} <= names
    assert {"quality", "material", "cost", "runs"} <= names
    assert {"intervals_avg_questions", "intervals_avg_seeds", "intervals_ece_seeds"} <= names
    assert {"against_nopsd_avg_questions", "against_nopsd_ece_seeds"} <= names
    for name in names:
        for suffix in ("md", "tex", "csv", "png"):
            assert (tmp_path / "tables" / f"{name}.{suffix}").stat().st_size > 30, (name, suffix)
    text = (tmp_path / "compare.md").read_text()
    assert "Table 2 (which demonstrations): needs" in text and "Table 1 (which questions): needs" not in text
    assert (tmp_path / "compare.html").exists() and (tmp_path / "figures" / "figure2.png").exists()


def test_what_a_run_learned_from_is_counted(tmp_path):
    """Breaks if a row's loss is looked for in the wrong questions: the demonstrated ones count each time they are
    shown, the question's own answer is no demonstration, one that can't be judged is neither right nor wrong."""
    run = RunFolder(tmp_path)
    assert material_of(run) is None
    run.begin("select", {"fake": 1})
    near = {"a": ["b", "c"], "d": ["b", "d"], "e": ["x"]}
    contexts = {q: [{"uid": uid, "sample": 0, "distance": 0.5} for uid in found] for q, found in near.items()}
    write_json(run.stage_dir("select") / "contexts.json", contexts)
    chosen = {"uids": ["a", "d", "e"], "threshold": None, "selector": "neuron_count", "stats": {}}
    write_json(run.stage_dir("select") / "selected.json", chosen)
    run.commit("select", {"fake": 1})
    assert material_of(run) is None, "without labels there is nothing to say"
    right = {"a": 1.0, "b": 0.5, "c": 0.0, "d": 0.0, "e": 1.0}
    write_json(run.stage_dir("evaluate_base") / "pool_correct.json", right)
    assert material_of(run) == Material(0.5, pytest.approx(2 / 3), pytest.approx(1 / 3), 0.5)  # a's is, d's is even


def test_nothing_finished_still_gives_a_report(plan_of, tmp_path):
    plan = plan_of()
    assert write_comparison(tmp_path, view_of(plan, members(plan), {"nopsd": "no server"})) == []
    text = Path(tmp_path / "compare.md").read_text()
    assert "nopsd: no server" in text and "Table 3 (accuracy): no run is finished." in text
