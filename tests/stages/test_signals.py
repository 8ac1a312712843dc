"""The stage in the pipeline: what starts ranks or the server, what its artefact is named after, and no answer read."""

import math

import numpy as np
import pytest

from nopsd.config import load_config
from nopsd.errors import ConfigError
from nopsd.rollout.types import Rollout
from nopsd.run import runner
from nopsd.run.session import Session
from nopsd.signals.store import FILE, read_signals
from nopsd.stages.registry import STAGES
from tests.stages.filled import fill, write_questions

STAGE = STAGES["signals"]
QUESTIONS = 8


@pytest.fixture
def open_session(tmp_path, monkeypatch):
    """A session whose stages before `signals` are there; ranks and server are counted instead of started."""
    launched = []
    monkeypatch.setattr(runner, "launch_stage", lambda *args, **how: launched.append((args[0], args[5])))
    monkeypatch.setattr(Session, "server_environment", lambda self: {"SERVER": "yes"})

    def open_one(*overrides, answer="A", name="run"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        write_questions(folder / "pool.jsonl", QUESTIONS, answer)
        settings = (
            f"run_dir={folder / 'out'}",
            "data.name=file",
            f"data.path={folder / 'pool.jsonl'}",
            "data.domain=d",
            "data.test_ratio=0.001",
            "zero_shot.n=4",
            "context.m=2",
            *overrides,
        )
        session = Session(load_config("lab", settings))
        if session.run.manifest("neurons") is None:
            fill(session)
        return session

    open_one.launched = launched
    return open_one


def test_nothing_asked_starts_nothing(open_session):
    """The paper's run must not pay for baselines: no rank, no model, an empty file."""
    session = open_session()
    runner.run_stage(STAGES, session, STAGE)
    found = read_signals(session.run.stage_dir("signals"))
    assert (found.uids, found.columns) == ([], {}) and session.run.manifest("signals")
    assert not open_session.launched


def test_agreement_needs_no_ranks(open_session):
    """Counting answers is no reason to load a model on every rank."""
    session = open_session("select.selector=majority_conf", "context.filter=majority")
    runner.run_stage(STAGES, session, STAGE)
    found = read_signals(session.run.stage_dir("signals"))
    assert not open_session.launched
    assert found.uids == sorted(q.uid for q in session.pool)
    assert found.columns["majority_conf"].tolist() == [max(1, i % 4 + 1) / 4 for i in range(len(found.uids))]
    assert found.columns["agrees"][:4].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("overrides", "environment"),
    [
        (["select.selector=token_entropy"], {}),
        (["context.retriever=embedding_cos"], {}),
        (["select.selector=teacher_shift"], {}),
        (["select.selector=belief_shift"], {"SERVER": "yes"}),
    ],
)
def test_forward_passes_go_to_ranks_and_sampling_knows_the_server(open_session, overrides, environment):
    """A rank without the server's address would start a second server."""
    session = open_session(*overrides)
    assert not STAGE.runs_here(session.config)
    assert STAGE.asks_server(session.config) is bool(environment)
    runner.run_stage(STAGES, session, STAGE)
    assert open_session.launched == [("signals", environment)]


def test_fingerprint_follows_what_the_columns_depend_on(open_session, tmp_path):
    """Another selector without signals must not be refused; another reference must."""
    plain = STAGES.fingerprint(open_session(), STAGE)
    assert STAGES.fingerprint(open_session("select.selector=random", "signal.logit_chunk=9"), STAGE) == plain
    assert STAGES.fingerprint(open_session("select.selector=seq_nll"), STAGE) != plain
    reference = tmp_path / "reference.jsonl"
    nait = ("select.selector=nait", f"signal.reference={reference}")
    with pytest.raises(ConfigError, match="signal.reference=.*reference.jsonl can't be read"):
        STAGES.fingerprint(open_session(*nait), STAGE)
    prints = []
    for text in ("one", "two"):
        reference.write_text(text)
        prints.append(STAGES.fingerprint(open_session(*nait), STAGE))
    assert prints[0] != prints[1]
    belief = ("select.selector=belief_shift",)
    assert STAGES.fingerprint(open_session(*belief), STAGE) != STAGES.fingerprint(
        open_session(*belief, "context.m=1"), STAGE
    )


def test_poisoned_answers_change_nothing(open_session):
    """No answer column is ever read: the artefact is equal to the byte under other answers."""
    files = []
    for name, answer in (("clean", "A"), ("poison", "POISON")):
        session = open_session("select.selector=majority_conf", answer=answer, name=name)
        runner.run_stage(STAGES, session, STAGE)
        files.append((session.run.stage_dir("signals") / FILE).read_bytes())
        assert STAGES.fingerprint(session, STAGE)["columns"] == ["majority_conf"]
    assert files[0] == files[1] and b"POISON" not in files[1]


class Served:
    """In place of the server: with demonstrations, every answer is A; keeps the prompts."""

    def __init__(self):
        self.prompts = {}

    def generate(self, prompts, uids, sampling, seed, expected_version=None, logprobs=False, progress=None, **more):
        self.prompts |= dict(zip(uids, prompts))
        progress(len(uids), len(uids))
        return [
            [Rollout(u, k, p, [9], "<answer>A</answer>", "stop", 0) for k in range(sampling.n)]
            for u, p in zip(uids, prompts)
        ]


def test_belief_shift_compares_with_the_retrievers_demonstrations(open_session, monkeypatch):
    """Prompts without demonstrations, or with others than training would show, would measure something else."""
    session, served = open_session("select.selector=belief_shift", "signal.belief_samples=3"), Served()
    monkeypatch.setattr(Session, "client_holding", lambda self, folder, version: served)
    told = []
    folder = session.run.begin("signals", {})
    STAGE.work(session, folder, lambda done, total: told.append((done, total)))
    found = read_signals(folder)
    assert found.columns.keys() == {"belief_shift"} and told[-1] == (len(found.uids),) * 2

    def shift(agreeing):
        rest = (4 - agreeing) / 4  # others' share; JS against certainty of A
        p, m = agreeing / 4, (agreeing / 4 + 1) / 2
        own = p * math.log(p / m) + (rest * math.log(2) if rest else 0)
        return (own + math.log(1 / m)) / 2

    assert np.allclose(found.columns["belief_shift"], [shift(i % 4 + 1) for i in range(len(found.uids))], atol=1e-6)
    shown = session.tokenizer.decode(served.prompts[found.uids[3]])
    own = {q.uid: q for q in session.pool}[found.uids[3]].question
    neighbours = [q.question for q in session.pool if q.question in shown and q.question != own]
    wanted = {{q.uid: q for q in session.pool}[found.uids[i]].question for i in (2, 4)}  # the sets that share most
    assert set(neighbours) == wanted and "<answer>A</answer>" in shown and own in shown


def test_reference_examples_are_asked_as_they_stand(open_session, tmp_path):
    """Our system message about answer letters in a user's instruction data would bend the direction."""
    from nopsd.stages.signals import reference_examples

    path = tmp_path / "reference.jsonl"
    path.write_text('{"instruction": "Name", "input": "two", "output": "one two"}\n{"prompt": "a", "response": "b"}\n')
    session = open_session("select.selector=nait", f"signal.reference={path}")
    first, second = reference_examples(session)
    decode = session.tokenizer.decode
    assert "Name\n\ntwo" in decode(first.prompt_ids) and "letter" not in decode(first.prompt_ids)
    assert decode(first.response_ids, skip_special_tokens=True) == "one two"
    assert first.response_ids[-1] == second.response_ids[-1] == session.renderer.turn_end[0]
