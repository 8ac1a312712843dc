"""nopsd.tasks.export without its ranks (tests/commands/test_run.py has them): what is listed, refused, recorded."""

from pathlib import Path

import pytest

from nopsd.config import Config, load_config
from nopsd.errors import UserError
from nopsd.files import read_json, write_json, write_jsonl
from nopsd.run.session import Session
from nopsd.stages.report import other_exports
from nopsd.tasks.export import export, export_as_rank, folder_of, listed, record_choice
from nopsd.train.checkpoint import FOLDER, commit, tag_of


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run with checkpoints of steps 20 and 40, the first without a score."""
    for step, score in ((20, None), (40, 0.25)):
        path = tmp_path / "train" / FOLDER / tag_of(step)
        path.mkdir(parents=True)
        mark = {"step": step, "skipped": 0, "ranks": 2, "identity": {}, "files": {}, "score": score, "score_by": "loss"}
        commit(path, mark)
    return load_config("lab", [f"run_dir={tmp_path}"])


def test_kept_steps_are_listed_and_another_one_is_refused_with_them(config: Config):
    """Broken if a user must guess which checkpoints are left."""
    assert listed(config).splitlines()[:2] == ["step 20", "step 40   loss 0.25 since the one before"]
    with pytest.raises(UserError, match=r"no checkpoint of step 30 .* 20, 40 .*train.keep_checkpoints"):
        export(config, 30)


def test_a_run_without_checkpoints_and_a_launcher_of_ones_own_are_refused(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UserError, match="holds no checkpoint: train first"):
        listed(load_config("lab", [f"run_dir={tmp_path / 'none'}"]))
    monkeypatch.delenv("NOPSD_EXPORT_STEP", raising=False)
    with pytest.raises(UserError, match="without a launcher"):
        export_as_rank(config)


@pytest.mark.parametrize(("row", "judged"), [({"eval/bio/avg": 0.5}, True), ({"eval/held_out/vote_share": 0.5}, False)])
def test_a_choice_beside_judged_figures_stands_in_record_card_and_report(tmp_path: Path, config: Config, row, judged):
    """Broken if the best of several test scores passes for an honest result, or an honest choice is accused."""
    session = Session(config)
    write_jsonl(tmp_path / "data" / "pool.jsonl", [])
    write_json(tmp_path / "data" / "data.json", {})
    write_json(tmp_path / "select" / "selected.json", {"uids": [], "threshold": None, "stats": {"pool": 3}})
    write_jsonl(tmp_path / "train" / "metrics.jsonl", [{"step": 9, **row}])
    write_json(tmp_path / "evaluate" / "metrics.json", {"final": {}})
    folder = folder_of(session.run, 20)
    write_json(folder / "nopsd_export.json", {"steps": 20, "chosen": "20", "stopped": None})
    note = record_choice(session, folder)
    assert read_json(folder / "nopsd_export.json")["labels_shown"] is judged
    texts = (note, (folder / "README.md").read_text(), *other_exports(session))
    assert [("possibly chosen by labels" in text) for text in texts] == [judged] * 3
    assert "step 20, exports/step-20" in texts[-1]


def test_a_judged_evaluation_counts_as_shown(tmp_path: Path, config: Config):
    """The report shows its accuracies: a step taken after reading them is chosen by them."""
    session = Session(config)
    write_jsonl(tmp_path / "data" / "pool.jsonl", [])
    write_json(tmp_path / "data" / "data.json", {})
    write_json(tmp_path / "select" / "selected.json", {"uids": [], "threshold": None, "stats": {"pool": 3}})
    write_json(tmp_path / "evaluate" / "metrics.json", {"final": {"biology": {"avg": 0.5}}})
    write_json(folder_of(session.run, 40) / "nopsd_export.json", {"steps": 40, "chosen": "40"})
    assert "possibly chosen by labels" in record_choice(session, folder_of(session.run, 40))
