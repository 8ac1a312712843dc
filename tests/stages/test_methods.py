"""What each method's run consists of, and that no method but opsd_oracle opens the answer column before evaluation.

Every stage's own glue runs here, in one process; the model's and the server's part is put in from outside.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nopsd.config import METHODS, load_config
from nopsd.engine.distributed import Ranks
from nopsd.errors import ConfigError, DataError
from nopsd.files import read_json, sha256_json
from nopsd.run import runner
from nopsd.run.session import Session
from nopsd.run.status import status_of
from nopsd.stages import signals as glue
from nopsd.stages.algorithms import finetuning
from nopsd.stages.data import prepare_data
from nopsd.stages.registry import STAGES
from nopsd.tasks.status import text
from tests.stages.filled import WITHOUT_NEURONS, fill, write_questions

SAMPLES, QUESTIONS = 4, 12


def settings_of(method, tmp_path):
    (tmp_path / "reference.jsonl").write_text('{"prompt": "p", "response": "r"}\n' * 3)
    several = [f"zero_shot.n={SAMPLES}"]
    if method == "sft_given":
        several.append("sft.train_on_labels=true")
    return [f"method={method}", "context.m=2", *several, f"signal.reference={tmp_path / 'reference.jsonl'}"]


def test_a_run_holds_no_stage_that_nothing_reads(tmp_path):
    """Scoring neurons is the dearest pass: a baseline that doesn't use them must not pay for it."""
    for method in METHODS:
        config = load_config("lab", settings_of(method, tmp_path))
        names = [stage.name for stage in STAGES.planned(config)]
        assert ("neurons" in names) == (method not in WITHOUT_NEURONS), method
        for index, stage in enumerate(STAGES.planned(config)):
            assert set(STAGES.reads(stage, config)) <= set(names[:index]), (method, stage.name)
        if method == "base":
            assert names == ["data", "rollout", "evaluate_base", "report"]
            assert [s.name for s in STAGES.with_inputs("neurons", config)] == ["data", "rollout", "neurons"]
            with pytest.raises(ConfigError, match="method=base .*no stage train"):
                STAGES.with_inputs("train", config)
        else:
            assert names == [s.name for s in STAGES if s.name != "neurons" or method not in WITHOUT_NEURONS]
            assert [s.name for s in STAGES.with_inputs("report", config)] == names


def test_which_stages_start_ranks_and_ask_the_server(tmp_path):
    """A launch costs half a minute, a server more: neither for a draw of random questions."""

    def config(method, *more):
        return load_config("lab", [*settings_of(method, tmp_path), *more])

    select, train = STAGES["select"], STAGES["train"]
    here = {method for method in METHODS if method != "base" and select.runs_here(config(method))}
    assert here == WITHOUT_NEURONS - {"base"}
    assert all(train.asks_server(config(method)) for method in METHODS if METHODS[method].trainer)
    assert not train.asks_server(config("lmsi", "train.probe_every=0"))
    assert train.asks_server(config("ttrl", "train.probe_every=0"))


class Made(Session):
    """A run whose stages' hashes are those of their fingerprints."""

    def __init__(self, settings):
        super().__init__(load_config("lab", settings))
        self.model, self.hashes = SimpleNamespace(hash="m", tokenizer="t", generation="g"), {}
        self.run = SimpleNamespace(stage_hash=self.stage_hash, pool=lambda: self.splits.pool, tests=dict)

    def stage_hash(self, name):
        if name not in self.hashes:
            self.hashes[name] = sha256_json(STAGES.fingerprint(self, STAGES[name]))
        return self.hashes[name]


def test_methods_share_all_that_comes_before_their_choice(tmp_path):
    """Else a comparison would answer the pool and score its neurons once a method."""
    data = ["data.name=file", f"data.path={tmp_path / 'q.jsonl'}"]
    (tmp_path / "q.jsonl").write_text('{"question": "x", "answer": "y"}\n{"question": "z", "answer": "y"}\n')
    made = {method: Made([*settings_of(method, tmp_path), *data, "zero_shot.temperature=0.6"]) for method in METHODS}
    for name in ("data", "rollout", "evaluate_base", "neurons"):
        assert len({m.stage_hash(name) for m in made.values()}) == 1, name
    assert len({made[m].stage_hash("signals") for m in ("nopsd", "opsd_random", "ttrl", "lmsi", "opsd_null")}) == 1
    trained = [made[m].stage_hash("train") for m in METHODS if m != "base"]
    assert len(set(trained)) == len(trained), "two methods, one model"


def test_what_means_nothing_to_a_method_makes_nothing_again(tmp_path):
    """A teacher's settings in a preset must not part two runs of a method that has no teacher."""
    (tmp_path / "q.jsonl").write_text('{"question": "x"}\n')
    (tmp_path / "p.yaml").write_text("teacher: {kind: ema, rate: 0.5}\ndistill: {beta: 0.3}\nsft: {per_question: 2}\n")
    data = ["data.name=file", f"data.path={tmp_path / 'q.jsonl'}", "method=ttrl"]
    keys = set(fingerprint_keys(Made(data), "train"))
    assert not [key for key in keys if key.split(".")[0] in ("teacher", "sft", "context")] and "grpo.reward" in keys
    assert [key for key in keys if key.startswith("distill")] == ["distill.logit_chunk"]
    assert load_config(str(tmp_path / "p.yaml"), ["method=ttrl"]) == load_config(None, ["method=ttrl"])
    assert "teacher.kind" in fingerprint_keys(Made([*data[:2], "method=opsd_null"]), "train")


def fingerprint_keys(made, name):
    return list(STAGES.fingerprint(made, STAGES[name]))


# ------------------------------------------------------------------ labels


@pytest.fixture
def hand_over(tmp_path, monkeypatch):
    """All that a method's trainer is given, of a pool whose every answer is `answer`."""
    monkeypatch.setattr(glue, "base_engine", lambda session: None)
    monkeypatch.setattr(glue, "forward_columns", columns_of)
    monkeypatch.setattr(Session, "client", lambda self: None)
    caught = {}
    monkeypatch.setattr("nopsd.train.trainer.run_training", lambda inputs: caught.update(inputs=inputs))

    def run(method, answer):
        folder = tmp_path / f"{method}-{answer}"
        folder.mkdir()
        write_questions(folder / "pool.jsonl", QUESTIONS, answer)
        session = Session(
            load_config(
                "lab",
                [
                    *settings_of(method, tmp_path),
                    f"run_dir={folder / 'out'}",
                    "data.name=file",
                    "data.domain=d",
                    f"data.path={folder / 'pool.jsonl'}",
                    "data.test_ratio=0.1",
                    "select.fraction=0.4",
                ],
            )
        )
        session.ranks = Ranks(0, 1, torch.device("cpu"))
        fill(session, SAMPLES)
        for stage in STAGES.planned(session.config):
            if stage.name in ("signals", "select", "train"):
                made = STAGES.fingerprint(session, stage)
                stage.work(session, session.run.begin(stage.name, made), None)
                session.run.commit(stage.name, made)
        if method == "base":
            return None
        facts = read_json(session.run.stage_dir("train") / "plan.json")
        inputs = caught.pop("inputs")
        return [repr(a) for given in (inputs, inputs.algorithm) for a in vars(given).values() if is_data(a)], facts

    return run


def is_data(value):
    """Prompts, uids, questions, responses: no paths, no objects of the process."""
    return isinstance(value, (list, dict, bool))


def columns_of(engine, rollouts, columns, *args, **more):
    uids = sorted({r.uid for r in rollouts})
    found = {name: np.arange(len(uids), dtype=np.float32) for name in columns & {"token_entropy", "nait"}}
    likelihoods = np.linspace(-1, 0, len(uids) * SAMPLES, dtype=np.float32).reshape(len(uids), SAMPLES)
    return found | ({"mean_logp": likelihoods} if "mean_logp" in columns else {})


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if not m.reads_labels])
def test_no_method_opens_the_answer_column(method, hand_over, monkeypatch):
    """The mission's own rule: forbidden, and poisoned; what a trainer is given is the same to the byte."""

    def forbidden(config):
        pytest.fail("a label was read before evaluation")

    for place in (
        "data.sources.load_answer_key",
        "data.sources.file.load_answers",
        "data.sources.others.load_answer_key",
        "evaluation.judge.load_run_answers",
    ):
        monkeypatch.setattr(f"nopsd.{place}", forbidden)
    clean, poisoned = hand_over(method, "A"), hand_over(method, "POISON")
    assert clean == poisoned and "POISON" not in repr(poisoned)
    if method != "base":
        assert clean[0], "the trainer was given nothing"


def test_the_oracle_reads_them_and_says_so(hand_over, tmp_path, monkeypatch, capsys):
    """The control of the test above: where a label is read, it shows."""
    right, other = hand_over("opsd_oracle", "A"), hand_over("opsd_oracle", "D")
    assert right != other
    monkeypatch.setattr(runner, "run_stage", lambda stages, session, stage: None)
    monkeypatch.setattr(runner, "check_hosts", lambda *args: None)
    write_questions(tmp_path / "pool.jsonl", QUESTIONS)
    with Session(
        load_config(
            "lab",
            [
                *settings_of("opsd_oracle", tmp_path),
                f"run_dir={tmp_path / 'said'}",
                "data.name=file",
                "data.domain=d",
                f"data.path={tmp_path / 'pool.jsonl'}",
            ],
        )
    ) as session:
        runner.bring_up(STAGES, session, [STAGES["train"]], None)
    assert "WARNING: method=opsd_oracle reads the pool's answers" in capsys.readouterr().out


def test_given_outputs_are_trained_on_by_one_method_which_says_so(hand_over, tmp_path, monkeypatch, capsys):
    """Labels as targets: only where the data bring outputs, and never without a warning."""
    (tmp_path / "rows.jsonl").write_text('{"instruction": "say x", "output": "x"}\n' * 4)
    settings = [*settings_of("sft_given", tmp_path), "zero_shot.n=1", "data.domain=d", f"run_dir={tmp_path / 'g'}"]
    rows = ["data.name=instructions", f"data.path={tmp_path / 'rows.jsonl'}", "select.selector=all"]
    monkeypatch.setattr(runner, "run_stage", lambda stages, session, stage: None)
    monkeypatch.setattr(runner, "check_hosts", lambda *args: None)
    with Session(load_config("lab", [*settings, *rows])) as session:
        runner.bring_up(STAGES, session, [STAGES["train"]], None)
        assert "WARNING: method=sft_given trains on the outputs" in capsys.readouterr().out
        rollouts = STAGES["rollout"]
        prepare_data(session.config, session.model, session.renderer, session.splits, session.run.begin("data", {}))
        session.run.commit("data", {})
        rollouts.work(session, session.run.begin("rollout", {}), None)
        session.run.commit("rollout", {})
        monkeypatch.setattr(session.run, "selection", lambda: SimpleNamespace(uids=["row-1", "row-3"]))
        uids, algorithm, facts = finetuning(session)
        assert (uids, facts) == (["row-1", "row-3"], {"given_outputs": 2, "dropped_given": 0})
        assert algorithm.responses["row-1"] == [session.renderer.response("x")]
    write_questions(tmp_path / "pool.jsonl", QUESTIONS)
    with Session(load_config("lab", [*settings, "data.name=file", f"data.path={tmp_path / 'pool.jsonl'}"])) as session:
        with pytest.raises(DataError, match="brings no outputs"):
            STAGES["train"].check(session)


def test_the_plan_tells_steps_and_what_the_vote_left(hand_over):
    """The report and `nopsd compare` read it; epochs are over the questions that are trained on, not the pool."""
    facts = hand_over("lmsi", "A")[1]
    assert facts["voted_questions"] == facts["questions"] == 10 and facts["steps"] == 1
    assert facts["dropped_unread"] == facts["dropped_cut"] == 0
    assert hand_over("nopsd", "A")[1]["steps"] == 150


def test_what_is_left_out_is_said(tmp_path, capsys):
    said = text(status_of(STAGES, load_config("lab", ["method=base", f"run_dir={tmp_path}"])))
    assert said.count("not needed") == 5 and "rollout        not yet" in said
    assert STAGES.planned(load_config("lab", ["method=nopsd"])) == list(STAGES)
