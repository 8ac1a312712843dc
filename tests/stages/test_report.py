"""What the command and the report say of a run: a training that a guard ended, another split than the paper's."""

from pathlib import Path

from nopsd.config import load_config
from nopsd.files import write_json
from nopsd.run.session import Session
from nopsd.stages.report import notes, training_notes


def test_a_stop_is_told_with_its_reason_and_the_weights_kept(tmp_path: Path):
    """Broken if a collapse's model is handed on without a word, or a healthy run is called stopped."""
    session = Session(load_config("lab", [f"run_dir={tmp_path}", "train.steps=150"]))
    assert training_notes(session)[1] == ""
    folder = session.run.stage_dir("train") / "export"
    write_json(folder / "nopsd_export.json", {"steps": 150, "stopped": None})
    assert training_notes(session)[1] == ""
    write_json(folder / "nopsd_export.json", {"steps": 50, "stopped": {"step": 61, "reason": "entropy 1e-05 nats"}})
    assert training_notes(session)[1] == (
        "Training was stopped after 61 of 150 steps: entropy 1e-05 nats. The model is the checkpoint of step 50, from "
        "before."
    )


def test_another_split_than_the_papers_is_told_first(tmp_path: Path):
    """Broken if Edu's numbers stand beside the paper's without a word of the other test questions."""
    session = Session(load_config("lab", ["method=base", f"run_dir={tmp_path}"]))
    folder = session.run.stage_dir("data")
    for name in ("pool", "tests"):
        (folder / f"{name}.jsonl").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text("")
    write_json(folder / "data.json", {"note": "Another split."})
    assert "Another split." in notes(session)
    write_json(folder / "data.json", {})  # of a run from before the note was kept
    assert not any("split" in note for note in notes(session))
