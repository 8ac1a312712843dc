"""Every method through every stage: vLLM server, launcher, two ZeRO-3 ranks; on the lab's world and on real rows."""

import functools
import json
from dataclasses import replace

import pytest

from nopsd.config import METHODS, load_config
from nopsd.files import read_json, read_jsonl
from nopsd.lab.world import DOMAIN_BY_NAME, make_split
from nopsd.rollout.stage import FILE
from nopsd.rollout.types import read_header, read_rollouts, write_rollouts
from nopsd.run.session import Session
from nopsd.stages.registry import STAGES
from tests import command
from tests.rounding import ZERO
from tests.stages.filled import WITHOUT_NEURONS

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.engine]
SMALL = (
    "data.pool_limit=30",
    "eval.limit=6",
    "eval.n=2",
    "eval.bootstrap=20",
    "train.steps=2",
    "train.batch=4",
    "train.micro=2",
    "train.checkpoint_every=2",
    "train.probe_questions=4",
    "context.m=2",
    "server.kv_cache_mib=128",
)
SHORT = (
    "zero_shot.max_new=32",
    "eval.max_new=32",
    "train.max_response=32",
    "server.max_model_len=4096",
)
FEWER = {  # so that a few dozen rows are answered once and not eight times where the method allows it
    "ttrl": ("train.n=4",),
    "intuitor": ("train.n=4",),
    "sdpo_labelfree": ("train.n=2", "zero_shot.n=4"),
    "u_opsd": ("train.n=4", "uopsd.tau=0"),
    "ttpo": ("train.n=4", "ttpo.train_n=2"),
    "canon": ("zero_shot.n=4",),
    "lmsi": ("zero_shot.n=4",),
    "nait_sft": ("zero_shot.n=4", "select.fraction=0.5"),
    "opsd_majconf": ("zero_shot.n=4",),
    "opsd_oracle": ("zero_shot.n=4",),
}


ON_QUESTIONS = [name for name in METHODS if name != "sft_given"]  # which learns from data that bring outputs
REAL = {
    "sciknoweval": ("data.domain=Physics", "eval.targets=[Biology]"),
    "mmlu_pro": ("data.domain=mmlu_pro",),
    "edu_feedback": ("data.domain=edu_feedback",),
}


def fraction(method):
    return () if method in ("nait_sft", "base") else ("select.fraction=0.3",)


@pytest.mark.parametrize("method", ["lmsi"])
def test_fine_tuning_on_answers_that_nobody_can_read_is_refused(method, tmp_path, shared_data):
    """The lab's model on real rows: told before an hour of training, with the reason."""
    data = ("data.name=sciknoweval", f"data.path={shared_data}", *REAL["sciknoweval"], *SHORT)
    settings = [*SMALL, *FEWER[method], *data, f"run_dir={tmp_path / 'run'}"]
    done = nopsd("run", "--preset", "lab", f"method={method}", *settings)
    assert done.returncode == 1 and "30 questions has a voted answer to train on" in done.stderr


nopsd = functools.partial(command.nopsd, timeout=3000.0)


def reference(folder):
    """A dozen of the lab's own questions, answered, as nait's examples."""
    split = make_split(DOMAIN_BY_NAME["physics"], "test")
    rows = [
        {"prompt": q.question, "response": f"It is so. <answer>{split.answers[q.uid]}</answer>"}
        for q in split.questions[:12]
    ]
    (folder / "reference.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "reference.jsonl"


def run_method(method, folder, *more, answered=False):
    settings = [*SMALL, *fraction(method), *FEWER.get(method, ()), *more]
    if method == "nait_sft":
        settings.append(f"signal.reference={reference(folder)}")
    command = ("run", "--preset", "lab", f"method={method}", f"run_dir={folder / 'run'}", *settings)
    if answered:
        assert nopsd("rollout", *command[1:]).returncode == 0
        put_answers(load_config("lab", command[3:]))
    done = nopsd(*command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout[-2500:])
    return folder / "run", command, done.stdout


def put_answers(config):
    """Whole, readable answers in place of the stored rollouts': the lab's model rambles on where it knows no word, and
    fine-tuning takes whole responses alone."""
    with Session(config) as session:
        folder, questions = session.run.stage_dir("rollout"), {q.uid: q for q in session.pool}
        stage, rows = STAGES["rollout"], []
        for place, rollout in enumerate(read_rollouts(folder / FILE)):
            options = questions[rollout.uid].options
            text = f"So it is. <answer>{options[place % 3 % len(options)].label}</answer>"
            ids = session.renderer.response(text)
            rows.append(replace(rollout, text=text, response_ids=ids, finish_reason="stop"))
        write_rollouts(folder / FILE, rows, read_header(folder / FILE))
        session.run.commit("rollout", STAGES.fingerprint(session, stage))


def check_run(method, run, said):
    """What each method's run must have left, and what it must not."""
    made = {path.parent.name for path in run.glob("*/manifest.json")}
    if METHODS[method].trainer is None:
        assert made == {"data", "rollout", "evaluate_base", "report"} and "Nothing was trained" in said
        return
    assert ("neurons" in made) != (method in WITHOUT_NEURONS)
    rows = read_jsonl(run / "train" / "metrics.jsonl")
    assert len(rows) == 2 and all(row["loss"] is not None for row in rows)
    if method == "opsd_null":
        assert abs(rows[0]["loss"]) < ZERO, "teacher and student read the same prompt"
    assert (run / "train" / "export" / "model.safetensors").is_file()
    assert read_json(run / "train" / "plan.json")["steps"] == 2
    report = (run / "report" / "report.md").read_text()
    assert f"Method {method}" in report
    assert ("reads the pool's answers" in report) == ("reads the pool's answers" in said) == (method == "opsd_oracle")


@pytest.mark.parametrize("method", ON_QUESTIONS)
def test_a_method_goes_through_every_stage(method, tmp_path):
    """A method that some stage can't take would be missing from the paper's tables; a second run must find it done."""
    run, command, said = run_method(method, tmp_path)
    check_run(method, run, said)
    if method in ("lmsi", "base"):
        again = nopsd(*command)
        assert again.returncode == 0 and again.stdout.count("up to date") == len(list(run.glob("*/manifest.json")))
        assert "not needed" in nopsd("status", *command[1:]).stdout


@pytest.mark.parametrize("method", ON_QUESTIONS)
@pytest.mark.parametrize("name", list(REAL))
def test_a_method_takes_real_rows(name, method, tmp_path, shared_data):
    """Real text and options under the lab's model: the accuracy is chance, the path is the point. The model gives no
    answer that can be read, so that fine-tuning on the vote is given some."""
    data = (f"data.name={name}", f"data.path={shared_data}", *REAL[name], *SHORT)
    run, _, said = run_method(method, tmp_path, *data, answered=METHODS[method].trainer == "sft")
    check_run(method, run, said)
    report = (run / "report" / "report.md").read_text()
    assert ("were split off for the test" in report) == (name == "edu_feedback")


def test_given_outputs_are_learnt_from_the_rows_that_nait_selects(tmp_path):
    """NAIT's own experiment, whole: without a server, with the labels named on the console and in the report."""
    questions = make_split(DOMAIN_BY_NAME["biology"], "pool").questions[:30]
    rows = [{"instruction": q.question, "output": f"It is so. <answer>{i}</answer>"} for i, q in enumerate(questions)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ("data.name=instructions", f"data.path={tmp_path / 'rows.jsonl'}", "sft.train_on_labels=true")
    more = ("select.fraction=0.5", "train.probe_every=0", f"signal.reference={reference(tmp_path)}")
    command = ("run", "--preset", "lab", "method=sft_given", f"run_dir={tmp_path / 'run'}", *SMALL, *data, *more)
    done = nopsd(*command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_run("sft_given", tmp_path / "run", done.stdout)
    assert "WARNING: method=sft_given trains on the outputs" in done.stdout
    assert read_json(tmp_path / "run" / "train" / "plan.json")["given_outputs"] == 15
