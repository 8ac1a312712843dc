"""The run folder's promises: atomic files, no-op re-runs, and refusals that name the difference."""

import pytest

from nopsd.errors import ArtefactError
from nopsd.files import write_atomic, write_json
from nopsd.run.folder import RunFolder


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.begin("rollout", {"model": "m1", "rollout": {"n": 1}}) / "x.json", {"a": 1})
    folder.commit("rollout", {"model": "m1", "rollout": {"n": 1}})
    return folder


def test_equal_inputs_are_current(run):
    assert run.is_current("rollout", {"model": "m1", "rollout": {"n": 1}})
    assert not run.is_current("neurons", {})


def test_another_model_or_key_is_refused_by_name(run):
    with pytest.raises(ArtefactError, match=r"model: m1 there, m2 asked"):
        run.is_current("rollout", {"model": "m2", "rollout": {"n": 1}})
    with pytest.raises(ArtefactError, match=r"rollout.n: 1 there, 2 asked.*--redo rollout"):
        run.is_current("rollout", {"model": "m1", "rollout": {"n": 2}})


def test_a_damaged_file_is_named(run):
    (run.stage_dir("rollout") / "x.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"x.json is damaged"):
        run.is_current("rollout", {"model": "m1", "rollout": {"n": 1}})


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"[]", b'{"fingerprint": 1}', b""])
def test_a_damaged_seal_does_not_advise_to_delete_what_it_seals(run, data):
    """Hours of training were to be deleted for a file of a few lines."""
    run.begin("train", {})
    run.commit("train", {})
    (run.stage_dir("train") / "manifest.json").write_bytes(data)
    with pytest.raises(ArtefactError, match=r"bring it back from a copy.*train/export: keep a copy") as caught:
        run.is_current("train", {})
    assert "delete its folder" not in str(caught.value)


def test_unfinished_work_is_continued_only_on_equal_inputs(tmp_path):
    run = RunFolder(tmp_path)
    run.begin("train", {"train": {"lr": 1}})
    run.begin("train", {"train": {"lr": 1}})
    with pytest.raises(ArtefactError, match="train.lr"):
        run.begin("train", {"train": {"lr": 2}})


def test_checkpoints_and_boards_are_not_sealed(run):
    """They change after the commit (pruning, TensorBoard's appends) and must not make the stage look damaged."""
    write_atomic(run.stage_dir("rollout") / "checkpoints" / "a", "1")
    run.commit("rollout", {})
    (run.stage_dir("rollout") / "checkpoints" / "a").write_text("2")
    assert run.is_current("rollout", {})


def test_what_a_killed_command_left_half_written_goes_and_nothing_else(run):
    for name in (".x.json.7.part", ".shared-ab12", ".writable", "rollout/.y.7.part"):
        (run.root / name).write_text("")
    (run.root / "logs").mkdir()
    for name in ("logs/x.part", ".lock", "rollout/z.parquet"):
        (run.root / name).write_text("")
    run.sweep()
    left = {str(path.relative_to(run.root)) for path in run.root.rglob("*") if path.is_file()}
    assert left == {
        "logs/x.part",
        ".lock",
        "rollout/z.parquet",
        *(f"rollout/{n}.json" for n in ("x", "begun", "manifest")),
    }
