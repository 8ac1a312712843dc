"""Bad input: one line that names the thing and the remedy, before any expensive work; no traceback."""

import json
import socket

import pytest

from nopsd.cli import main


def fails(capsys, *arguments: str) -> str:
    """The one-line error of a command that must fail before it starts anything expensive."""
    assert main(list(arguments)) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("nopsd: error: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


@pytest.fixture
def run(tmp_path):
    """A command line in a fresh run folder."""
    return ("run", "--preset", "lab", f"run_dir={tmp_path / 'run'}")


def questions(tmp_path, rows):
    path = tmp_path / "q.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return ("data.name=file", f"data.path={path}", "data.domain=mine")


def test_missing_model(run, tmp_path, capsys):
    assert "model.path=/nowhere/model: no such folder" in fails(capsys, *run, "model.path=/nowhere/model")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in fails(capsys, *run, f"model.path={tmp_path / 'empty'}")


def test_unreachable_hub(run, capsys):
    said = fails(capsys, *run, "model.path=owner/name")
    assert "model.path=owner/name can't be fetched from the hub" in said and "local folder" in said


def test_pickled_weights_are_not_loaded(run, tmp_path, lab_model_dir, capsys):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text((lab_model_dir / "config.json").read_text())
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "no *.safetensors" in fails(capsys, *run, f"model.path={folder}")


def test_tokenizer_without_chat_template(run, tmp_path, lab_model_dir, capsys):
    import shutil

    shutil.copytree(lab_model_dir, tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    assert "no chat template" in fails(capsys, *run, f"model.path={tmp_path / 'bare'}")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["{nope"], "q.jsonl:1: not JSON"),
        ([{"question": ""}], "q.jsonl:1: no text"),
        ([{"id": "a", "question": "x"}, {"id": "a", "question": "y"}], "id a was used before"),
        ([], "is empty"),
        ([{"question": "x"}] * 1, "context.m=4 demonstrations need at least 5"),
    ],
)
def test_bad_questions(run, tmp_path, capsys, rows, said):
    assert said in fails(capsys, *run, *questions(tmp_path, rows))


def test_options_without_the_answer(run, tmp_path, capsys):
    rows = [
        {"id": i, "question": f"q {i}", "options": ["a", "b"], **({"answer": "A"} if i % 2 else {})} for i in range(20)
    ]
    assert "has options but no answer" in fails(capsys, *run, *questions(tmp_path, rows), "data.test_ratio=0.5")


def test_unknown_domain_and_target(run, capsys):
    assert "the lab has biology" in fails(capsys, *run, "data.domain=astrology")
    assert "eval.targets: no test questions for astrology" in fails(capsys, *run, "eval.targets=[astrology]")


def test_contexts_beyond_the_window(run, capsys):
    said = fails(capsys, *run, "context.max_prompt=4090")
    assert "context.max_prompt=4090" in said and "window of 4096" in said
    assert "server.max_model_len=9999" in fails(capsys, *run, "server.max_model_len=9999")
    assert "lower eval.max_new" in fails(capsys, *run, "eval.max_new=3060")


def test_unwritable_run_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "can't be written" in fails(capsys, "run", "--preset", "lab", f"run_dir={tmp_path / 'file' / 'run'}")


def test_a_port_in_use(run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = fails(capsys, *run, f"server.port={port}", "data.pool_limit=20")
    assert str(port) in said and "in use" in said


def test_a_server_that_is_not_there(run, capsys, monkeypatch):
    monkeypatch.setattr("nopsd.rollout.client.RETRY_DELAYS_S", (0.01,))
    said = fails(capsys, *run, "server.url=http://127.0.0.1:9", "data.pool_limit=20")
    assert "127.0.0.1:9" in said


def test_unknown_stage_to_redo(run, capsys):
    assert "--redo nothing: there are the stages data" in fails(capsys, *run, "--redo", "nothing")
