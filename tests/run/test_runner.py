"""Which stages a command brings up to date, and what a rank that a launcher started does."""

import pytest

from nopsd.config import load_config
from nopsd.errors import ArtefactError
from nopsd.run.runner import delete_from, run_one
from nopsd.run.session import Session
from nopsd.stages.registry import STAGES


def test_redoing_the_selection_redoes_signals_that_another_asked_for(tmp_path):
    """Else a user who tries selectors is refused at each change, and told to forget what fits as well."""
    settings = [f"run_dir={tmp_path}", "data.pool_limit=4"]
    stages = [stage for stage in STAGES if stage.name in ("data", "rollout", "neurons", "signals", "select")]
    with Session(load_config("lab", settings)) as session:
        for stage in stages:
            made = STAGES.fingerprint(session, stage)
            session.run.begin(stage.name, made)
            session.run.commit(stage.name, made)
    for overrides, kept in (
        (["select.selector=random"], ["data", "rollout", "neurons", "signals"]),
        (["select.selector=token_entropy"], ["data", "rollout", "neurons"]),
    ):
        with Session(load_config("lab", [*settings, *overrides])) as session:
            delete_from(STAGES, session, "select")
            assert [stage.name for stage in stages if session.run.manifest(stage.name)] == kept


def test_a_command_takes_what_its_stage_reads_and_no_more():
    config = load_config("lab")
    names = {stage.name: [s.name for s in STAGES.with_inputs(stage.name, config)] for stage in STAGES}
    assert names["data"] == ["data"] and names["neurons"] == ["data", "rollout", "neurons"]
    assert {"data", "rollout", "neurons", "select"} <= set(names["select"])
    assert not {"evaluate_base", "train"} & set(names["select"]) and "evaluate_base" not in names["train"]
    assert names["report"] == [stage.name for stage in STAGES]
    for stage in STAGES:
        for index, name in enumerate(names[stage.name]):
            reads = STAGES.reads(STAGES[name], config)
            assert set(reads) <= set(names[stage.name][:index]), "before what it reads"


def test_one_of_a_launchers_ranks_runs_its_stage_alone(tmp_path, monkeypatch):
    """A rank that began other stages would start a server and a launcher on every rank."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ArtefactError, match="data is not there yet: run `nopsd data` first"):
        run_one(STAGES, load_config("lab", [f"run_dir={tmp_path}", "data.pool_limit=20"]), "rollout")
    assert not (tmp_path / "data").exists()
