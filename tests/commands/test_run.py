"""The whole job on the real engines: vLLM server, deepspeed launcher, two ZeRO-3 ranks, sockets between them.

One run at a small size; what a user would then do with its folder; and the same on real and on unlabeled questions.
"""

import json

import pytest

from nopsd.files import read_json, read_jsonl
from tests.command import SMALL, nopsd
from tests.rounding import LOGPROB

pytestmark = [pytest.mark.slow, pytest.mark.engine]


@pytest.fixture(scope="module")
def lab_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "run"
    command = ("run", "--preset", "lab", f"run_dir={folder}", *SMALL)
    done = nopsd(*command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, command, done.stdout


def test_every_stage_leaves_its_artefact(lab_run):
    folder, _, said = lab_run
    for name in (
        "config.yaml",
        "environment.json",
        "data/pool.jsonl",
        "rollout/rollouts.parquet",
        "neurons/neurons.rank00000.npz",
        "neurons/neurons.rank00001.npz",
        "select/selected.json",
        "select/contexts.json",
        "train/metrics.jsonl",
        "train/export/model.safetensors",
        "evaluate/metrics.json",
        "report/report.html",
        "report/report.md",
    ):
        assert (folder / name).is_file(), name
    for shown in ("Avg@4", "maj@4", "ECE", "train/export", "report.html", "tensorboard --logdir"):
        assert shown in said, shown


def test_training_moved_and_stayed_sound(lab_run):
    folder, _, _ = lab_run
    rows = read_jsonl(folder / "train" / "metrics.jsonl")
    assert [r["step"] for r in rows] == [1, 2, 3] or [r["step"] for r in rows] == [0, 1, 2]
    assert all(r["loss"] > 0 and r["grad_norm"] > 0 for r in rows)
    assert all(r["logprob_gap"] < LOGPROB for r in rows)


def test_the_export_differs_from_the_base_and_loads(lab_run, lab_model_dir):
    import torch
    from transformers import AutoModelForCausalLM

    folder, _, _ = lab_run
    base = AutoModelForCausalLM.from_pretrained(lab_model_dir)
    tuned = AutoModelForCausalLM.from_pretrained(folder / "train" / "export")
    pairs = list(zip(base.parameters(), tuned.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 0.01


def test_provenance_is_whole(lab_run):
    folder, _, _ = lab_run
    environment = read_json(folder / "environment.json")
    assert environment["packages"]["deepspeed"] and environment["model"]["hash"] and "seed" in environment
    assert read_json(folder / "data" / "data.json")["pool_hash"]


def test_a_second_run_is_a_no_op(lab_run):
    """Nothing is computed again and no server is started."""
    folder, command, _ = lab_run
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("manifest.json")}
    done = nopsd(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("up to date") == 9
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("manifest.json")} == before


def test_kept_checkpoints_are_exported_beside_the_run(lab_run):
    """The last step's must be the run's own export, bit by bit, an earlier one other weights; no stage is touched."""
    from safetensors.torch import load_file

    folder, _, _ = lab_run
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("manifest.json")}
    listed = nopsd("export", str(folder))
    assert listed.stdout.startswith("step 2") and "step 3" in listed.stdout, listed.stderr
    weights = {"own": load_file(folder / "train" / "export" / "model.safetensors")}
    for step in (2, 3):
        done = nopsd("export", str(folder), "--step", str(step))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "nopsd eval" in done.stdout and "possibly chosen by labels" in done.stdout
        weights[step] = load_file(folder / "exports" / f"step-{step}" / "model.safetensors")
        assert read_json(folder / "exports" / f"step-{step}" / "nopsd_export.json")["steps"] == step
    same = {step: all(bool((weights[step][n] == t).all()) for n, t in weights["own"].items()) for step in (2, 3)}
    assert same == {2: False, 3: True}
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("manifest.json")} == before


def test_another_setting_is_refused_by_name(lab_run):
    folder, command, _ = lab_run
    done = nopsd(*command, "neuron.k=77")
    assert done.returncode == 1
    assert "neuron.k: 150 there, 77 asked" in done.stderr and "--redo neurons" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_label_reaches_training_artefacts(lab_run):
    """No artefact before evaluation holds an answer key: the lab's gold answers are not in its files' schema."""
    folder, _, _ = lab_run
    for row in read_jsonl(folder / "data" / "pool.jsonl") + read_jsonl(folder / "data" / "tests.jsonl"):
        assert not {"answer", "gold"} & set(row)


@pytest.mark.soak  # the loaders and every stage have their own tests; all of it again takes two minutes
def test_real_sciknoweval_questions_go_through(shared_data, tmp_path):
    """Real text, real options, letters for answers: the accuracy is chance, the path is the point."""
    done = nopsd(
        "run",
        "--preset",
        "lab",
        f"run_dir={tmp_path / 'run'}",
        "data.name=sciknoweval",
        f"data.path={shared_data}",
        "data.domain=Physics",
        "eval.targets=[Biology]",
        *SMALL,
        "train.steps=2",
        "zero_shot.max_new=32",
        "eval.max_new=32",
        "train.max_response=32",
        "server.max_model_len=4096",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    metrics = read_json(tmp_path / "run" / "evaluate" / "metrics.json")
    assert "Physics" in json.dumps(metrics) and "Biology" in json.dumps(metrics)


@pytest.mark.soak
def test_a_users_unlabeled_questions_train_too(tmp_path):
    from nopsd.lab.world import DOMAIN_BY_NAME, make_split

    questions = make_split(DOMAIN_BY_NAME["chemistry"], "pool").questions[:30]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"question": q.question}) + "\n" for q in questions))
    done = nopsd(
        "run",
        "--preset",
        "lab",
        f"run_dir={tmp_path / 'run'}",
        "data.name=file",
        f"data.path={tmp_path / 'mine.jsonl'}",
        "data.domain=mine",
        *SMALL,
        "train.steps=2",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "run" / "train" / "export" / "model.safetensors").is_file()
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "3 questions that nothing was trained on" in report and "surprise at its own answers" in report
    assert "More agreement is not more accuracy" in done.stdout and "More agreement is not more accuracy" in report
