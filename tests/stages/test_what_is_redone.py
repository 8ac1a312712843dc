"""Which stages a command brings up to date, and which a changed setting would make again."""

import json
from types import SimpleNamespace

import pytest

from nopsd.config import load_config
from nopsd.errors import ArtefactError
from nopsd.files import sha256_json
from nopsd.run.folder import RunFolder
from nopsd.run.runner import forget_from, run_one
from nopsd.run.session import Session
from nopsd.stages.registry import STAGES
from nopsd.stages.select import write_selected_rows

BEFORE_SIGNALS = {"data", "rollout", "evaluate_base", "neurons"}


class Made(Session):
    """A run whose artefacts are other ones exactly if what they are made from is: each is its own fingerprint."""

    def __init__(self, *overrides):
        super().__init__(load_config("lab", overrides))
        self.model = SimpleNamespace(hash="m")
        self.run = SimpleNamespace(stage_hash=self.stage_hash)
        self.hashes = {}

    def stage_hash(self, name):
        if name not in self.hashes:
            self.hashes[name] = sha256_json(STAGES.fingerprint(self, STAGES[name]))
        return self.hashes[name]


@pytest.fixture
def redone(tmp_path):
    """Names of the stages that settings make other ones."""
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "x"}\n')

    def changed(*overrides, instead_of=()):
        data = ("data.name=file", f"data.path={path}", *instead_of)
        before, after = Made(*data), Made(*data, *overrides)
        return {stage.name for stage in STAGES if before.stage_hash(stage.name) != after.stage_hash(stage.name)}

    return changed


def test_how_work_is_shared_makes_nothing_again(redone):
    """Artefacts are equal to the bit for each of these: a user may change machines in the middle of a run."""
    sharing = (
        "context_exchange=gather_all",
        "block_mib=7",
        "ranks=1",
        "threads=2",
    )
    assert redone(*(f"dist.{setting}" for setting in sharing)) == set()


def test_another_choice_leaves_the_scores_alone(redone):
    """The neuron stage costs most: trying selectors and contexts must never repeat it."""
    changed = redone("select.selector=random", "select.fraction=0.5", "context.retriever=random", "context.m=1")
    assert not changed & BEFORE_SIGNALS and {"select", "train", "evaluate", "report"} <= changed
    assert "signals" not in changed, "neither choice needs any"
    changed = redone("select.selector=token_entropy")
    assert not changed & BEFORE_SIGNALS and {"signals", "select"} <= changed


def test_signal_settings_leave_earlier_stages_alone(redone):
    changed = redone(
        "signal.logit_chunk=7",
        "signal.max_batch_tokens=7",
        "signal.reference_limit=7",
        instead_of=["select.selector=token_entropy"],
    )
    assert not changed & BEFORE_SIGNALS and {"signals", "select"} <= changed


def test_settings_of_the_model_and_the_scores(redone):
    changed = redone("neuron.k=77")
    assert {"neurons", "select"} <= changed and not changed & {"data", "rollout", "evaluate_base"}
    changed = redone("model.dtype=bfloat16")
    assert {"rollout", "evaluate_base", "neurons", "train"} <= changed and "data" not in changed
    assert "neurons" in redone("zero_shot.temperature=0.1") and "select" not in redone("train.lr=1")
    assert "train" in redone("distill.beta=0.3") and "train" not in redone("distill.kernel=torch")  # rounding alone


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
            forget_from(STAGES, session, "select")
            assert [stage.name for stage in stages if session.run.manifest(stage.name)] == kept


def test_a_changed_given_response_is_another_data_set(tmp_path):
    """Responses are no part of the questions, whose hash alone would not see it."""
    path = tmp_path / "q.jsonl"
    settings = ["data.name=instructions", f"data.path={path}"]
    hashes = []
    for output in ("a", "b"):
        path.write_text(json.dumps({"instruction": "x", "output": output}) + "\n")
        hashes.append(Made(*settings).stage_hash("data"))
    assert hashes[0] != hashes[1]


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


def chosen(tmp_path, monkeypatch, uids, *overrides):
    """A session with `uids` selected."""
    run = RunFolder(tmp_path / "run")
    monkeypatch.setattr(RunFolder, "selection", lambda run: SimpleNamespace(uids=uids))
    return SimpleNamespace(config=load_config("lab", list(overrides)), run=run, pool=[])


def test_the_chosen_rows_are_copied_in_the_files_order(tmp_path, monkeypatch):
    rows = [f'{{"id":"q{i}",   "question":"Q {i}", "answer": "A", "more": [{i}]}}' for i in range(6)]
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    settings = ("data.name=file", f"data.path={tmp_path / 'q.jsonl'}", "data.domain=mine")
    session = chosen(tmp_path, monkeypatch, ["q4", "q1"], *settings)
    said = write_selected_rows(session)
    written = tmp_path / "run" / "select" / "selected.jsonl"
    assert written.read_text() == f"{rows[1]}\n{rows[4]}\n" and said.startswith("2 of") and str(written) in said
    written.unlink()
    with pytest.raises(ArtefactError, match="q.jsonl has no row q9"):
        write_selected_rows(chosen(tmp_path, monkeypatch, ["q9"], *settings))


def test_data_without_a_file_give_their_questions(tmp_path, monkeypatch):
    from nopsd.data.records import Question

    session = chosen(tmp_path, monkeypatch, ["b"])
    session.pool = [Question(uid, "d", "lab", f"{uid}?") for uid in "abc"]
    assert write_selected_rows(session).startswith("1 of 3")
    (row,) = (tmp_path / "run" / "select" / "selected.jsonl").read_text().splitlines()
    assert Question.from_json(json.loads(row)) == session.pool[1]
