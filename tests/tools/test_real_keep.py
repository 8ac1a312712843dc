"""tools/real_table/keep.py: what is committed of a comparison gives its own numbers again, and holds no answer."""

import pytest
import yaml
from omegaconf import OmegaConf

from nopsd.config import load_config
from nopsd.errors import ArtefactError
from nopsd.files import read_json, write_atomic
from nopsd.reporting.compare.gathering import view_of
from nopsd.reporting.compare.plan import members
from tests.reporting.compare.conftest import finish, only, plan_in
from tools.real_table import keep as tool
from tools.real_table import tables


@pytest.fixture
def comparison(tmp_path):
    """A plan of two rows and two seeds, its folder, and its runs, of which none is finished."""
    plan = plan_in(tmp_path, sources=["biology"], vary="train.seed")
    folder = tmp_path / "out"
    folder.mkdir()
    write_atomic(folder / "plan.yaml", yaml.safe_dump(OmegaConf.to_container(OmegaConf.structured(plan))))
    return plan, folder, members(plan)


def test_the_tables_of_what_is_kept_are_those_of_the_runs(comparison, tmp_path):
    """Breaks if a question, a sample or a seed is lost on the way, or a run that isn't finished stops the others."""
    plan, folder, runs = comparison
    for member in runs[:3]:
        finish(member)
    names = {path.name for path in tool.keep(folder, tmp_path / "kept")}
    rows = ("nopsd-0", "top-0", "nopsd-1")
    assert names == {"base.json", *(f"{row}.json" for row in rows), *(f"{row}.yaml" for row in rows)}
    base, kept = read_json(tmp_path / "kept" / "base.json"), tables.rows_of(tmp_path / "kept")
    results = only(view_of(plan, runs, {}))
    for target, result in results.base[0].items():
        assert tables._value([base["targets"][target]], "ece") == pytest.approx(result.metrics["ece"], abs=1e-3)
        both = [results.runs["nopsd", "biology", seed][target].metrics["avg"] for seed in (0, 1)]
        found = tables.differences(base["targets"][target], [run["targets"][target] for run in kept["nopsd"]])
        assert found["avg"].value == pytest.approx(sum(both) / 2 - result.metrics["avg"])
    assert load_config(str(tmp_path / "kept" / "nopsd-1.yaml")).train.seed == 1
    assert kept["nopsd"][0]["train"]["steps"] == 2
    assert "<answer>" not in (tmp_path / "kept" / "nopsd-0.json").read_text()


def test_a_comparison_without_a_finished_run_is_refused(comparison, tmp_path):
    with pytest.raises(ArtefactError, match="no run has evaluated"):
        tool.keep(comparison[1], tmp_path / "kept")
