"""`nopsd inspect` on a small run folder: what it needs, what it leaves alone, and that labels come from files only."""

import hashlib
import json

import numpy as np
import pytest

from nopsd import cli
from nopsd.data.records import Question
from nopsd.files import read_json, write_json, write_jsonl
from nopsd.neurons.store import NeuronSets, rank_file, write_neurons
from nopsd.rollout.types import Rollout, write_rollouts
from nopsd.run.folder import RunFolder
from nopsd.signals.store import Signals, write_signals

WIDTHS = [16, 24]
UIDS = [f"q{i:02d}" for i in range(24)]


def commit(run, stage, **inputs):
    run.begin(stage, {})
    run.commit(stage, {f"input.{name}": run.stage_hash(name) for name in inputs.get("reads", ())})


def write_sets(run, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.array([rng.choice(40, 8, replace=False) for _ in UIDS], np.int32)
    members = np.stack([(ids < 16).sum(1), (ids >= 16).sum(1)], 1).astype(np.int32)
    counts = np.arange(30, 54)[rng.permutation(24)].astype(np.float32)
    header = {"widths": WIDTHS, "ranks": 1}
    sets = NeuronSets(
        UIDS,
        counts,
        ids,
        np.ones_like(ids, np.float16),
        rng.integers(5, 60, 24).astype(np.int32),
        np.zeros(24, bool),
        members,
        header,
    )
    write_neurons(rank_file(run.stage_dir("neurons"), 0), sets)
    return sets


@pytest.fixture
def scored(tmp_path):
    """A run whose neurons stage is done: 24 questions, three rollouts each, the first question's all alike."""
    run = RunFolder(tmp_path / "run")
    write_jsonl(
        run.stage_dir("data") / "pool.jsonl",
        [Question(uid, "biology", "file", f"Text of {uid}?").to_json() for uid in UIDS],
    )
    commit(run, "data")
    rollouts = [
        Rollout(uid, s, [1, 2], [3], f"<answer>{0 if uid == 'q00' else s * (place % 2)}</answer>", "stop", 0)
        for place, uid in enumerate(UIDS)
        for s in (1, 0, 2)
    ]
    write_rollouts(run.stage_dir("rollout") / "rollouts.parquet", rollouts)
    commit(run, "rollout", reads=["data"])
    write_sets(run)
    commit(run, "neurons", reads=["data", "rollout"])
    return run


def select(run):
    write_json(run.stage_dir("select") / "selected.json", {"uids": UIDS[:5], "threshold": None, "stats": {}})
    commit(run, "select", reads=["data", "neurons"])


def inspect(run, *arguments):
    return cli.main(["inspect", "--preset", "lab", f"run_dir={run.root}", *arguments])


def text(run):
    return (run.root / "inspect" / "inspect.md").read_text()


def contents(run):
    """Digest of every file that inspect must leave alone."""
    files = [p for p in sorted(run.root.rglob("*")) if p.is_file() and "inspect" not in p.parts]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_scored_run_is_shown_and_left_as_it_was(scored, capsys):
    """The command's whole way on a real folder; it must not touch the stages' artefacts, and can be repeated."""
    select(scored)
    before = contents(scored)
    assert inspect(scored) == 0 and inspect(scored) == 0
    said = capsys.readouterr().out
    assert "24 questions, 5 selected; s(x) from 30 to 53" in said and "of 40 neurons" in said
    assert "majority_conf" in said and "inspect.html" in said and "tensorboard --logdir" in said
    assert contents(scored) == before
    folder = scored.root / "inspect"
    drawn = {p.stem for p in folder.glob("*.png")}
    assert drawn == {"counts", "confidence", "correlations", "overlap", "map", "layers"}
    assert len(list((folder / "tb").iterdir())) == 1
    for why in ("least s(x)", "median s(x)", "greatest s(x)"):
        assert f": {why}" in text(scored)
    table = text(scored).split("## What selectors would choose")[1]
    assert "| `neuron_count` | 100%" in table and "`kcenter (jaccard)`" in table and "`seq_nll`" not in table


@pytest.mark.usefixtures("unrendered")
def test_least_median_and_greatest_are_shown(scored):
    """The default questions must be those with these counts."""
    assert inspect(scored) == 0
    counts = dict(zip(UIDS, write_sets(scored).counts.tolist()))
    ranked = sorted(UIDS, key=lambda uid: (counts[uid], uid))
    for uid, why in ((ranked[0], "least"), (ranked[11], "median"), (ranked[-1], "greatest")):
        assert f"### {uid}: {why} s(x)\n\ns(x) = {counts[uid]:g}" in text(scored)


@pytest.mark.usefixtures("unrendered")
def test_a_question_asked_for(scored, capsys):
    """Its own text and first sample stand before its neighbours; an unknown one is refused by name."""
    assert inspect(scored, "--question", "q07", "--question", "q03") == 0
    shown = text(scored)
    assert shown.index("### q07: asked for") < shown.index("### q03: asked for")
    assert "Text of q07?" in shown and "<answer>0</answer>" in shown and "least s(x)\n" not in shown
    assert inspect(scored, "--question", "nobody") == 1
    assert "--question nobody: no such question in the pool" in capsys.readouterr().err


def test_without_scored_neurons_it_says_what_to_run(tmp_path, capsys):
    """An empty run folder must end in one line with the remedy, and stay empty."""
    run = RunFolder(tmp_path / "nothing")
    assert inspect(run) == 1
    error = capsys.readouterr().err
    assert "is not done: run `nopsd score`" in error and "Traceback" not in error
    assert not (tmp_path / "nothing" / "inspect").exists()


def test_majority_share_comes_from_the_rollouts(scored):
    """Label-free confidence of several rollouts: the majority's share, of the run's own responses."""
    from nopsd.config import load_config
    from nopsd.run.session import Session
    from nopsd.tasks.inspect import inspection

    with Session(load_config("lab", [f"run_dir={scored.root}"])) as session:
        view = inspection(session)
    expected = [1.0 if uid == "q00" or place % 2 == 0 else 1 / 3 for place, uid in enumerate(UIDS)]
    assert list(view.signals) == ["majority_conf"]  # agreement is NaN for all, and thus not there
    np.testing.assert_allclose(view.signals["majority_conf"], expected)
    assert view.correct is None and view.domains == ["biology"] * 24


def test_the_signals_stage_is_used(scored):
    """Its columns are by uid, in another order perhaps; what is no column of confidence is left out."""
    from nopsd.config import load_config
    from nopsd.run.session import Session
    from nopsd.tasks.inspect import inspection

    values = np.arange(23, dtype=np.float32)
    columns = {"token_entropy": values, "majority_conf": values / 23, "embedding": np.ones((23, 4), np.float32)}
    write_signals(scored.stage_dir("signals"), Signals(UIDS[1:], columns))
    commit(scored, "signals", reads=["rollout"])
    with Session(load_config("lab", [f"run_dir={scored.root}"])) as session:
        signals = inspection(session).signals
    assert sorted(signals) == ["majority_conf", "token_entropy"]
    assert np.isnan(signals["token_entropy"][0]) and signals["token_entropy"][1:].tolist() == values.tolist()
    np.testing.assert_allclose(signals["majority_conf"][1:], values / 23)


@pytest.mark.usefixtures("unrendered")
def test_accuracy_is_shown_only_from_a_file(scored, capsys):
    """No file, no accuracy; a given file; the run's own evaluation. The text says that labels made it."""
    assert inspect(scored) == 0
    assert "No accuracy" in text(scored) and "accuracy (labels)" not in text(scored)
    given = scored.root / "given.json"
    write_json(given, {uid: place % 2 for place, uid in enumerate(UIDS[:20])})
    assert inspect(scored, "--correct", str(given)) == 0
    assert f"`{given}`" in text(scored) and "| accuracy (labels) |" in text(scored) and "| 20 |" in text(scored)
    assert (scored.root / "inspect" / "accuracy.png").exists() and "accuracy (labels)" in capsys.readouterr().out

    own = scored.stage_dir("evaluate_base") / "pool_correct.json"
    write_json(own, dict.fromkeys(UIDS, 0.5))
    assert inspect(scored) == 0
    assert "No accuracy" in text(scored)  # that evaluation is not finished
    assert not (scored.root / "inspect" / "accuracy.png").exists()
    commit(scored, "evaluate_base", reads=["rollout"])
    assert inspect(scored) == 0
    assert f"`{own}`" in text(scored)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent.json", None, "no such file"),
        ("absent.jsonl", None, "no such file"),
        ("list.json", "[1]", "expected an object"),
        ("far.json", '{"q01": 1.5}', "question q01: 1.5 is not a share"),
        ("other.json", '{"x": 1}', "has none of the pool's questions"),
        ("rows.jsonl", '{"uid": "q01"}\n', "rows.jsonl:1: no `uid` with its list `correct`"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused(scored, capsys, name, content, said):
    """A wrong file must be named, not turned into a correlation."""
    path = scored.root / name
    if content is not None:
        path.write_text(content)
    assert inspect(scored, "--correct", str(path)) == 1
    assert said in capsys.readouterr().err


def test_evaluation_rows_are_read_too(scored):
    """eval_*.jsonl rows: the share of a question's right samples."""
    from nopsd.tasks.inspect import read_correct

    path = scored.root / "eval_base_pool.jsonl"
    path.write_text(
        "".join(
            json.dumps({"uid": u, "correct": [True, False, i % 2 == 0, True]}) + "\n" for i, u in enumerate(UIDS[:3])
        )
    )
    found = read_correct(path, UIDS)
    assert found[:3].tolist() == [0.75, 0.5, 0.75] and np.isnan(found[3:]).all()


@pytest.mark.usefixtures("unrendered")
def test_artefacts_of_other_inputs_are_not_mixed_in(scored):
    """A selection of former neuron sets, or rollouts made since, don't belong to what is shown."""
    select(scored)
    write_sets(scored, seed=1)
    commit(scored, "neurons", reads=["data", "rollout"])
    assert inspect(scored) == 0
    assert "select was made from another neurons than is there" in text(scored) and "| selected |" not in text(scored)
    rollouts = scored.stage_dir("rollout") / "rollouts.parquet"
    write_rollouts(rollouts, [Rollout(uid, 0, [1], [2], "changed", "stop", 0) for uid in UIDS])
    commit(scored, "rollout", reads=["data"])
    assert inspect(scored) == 0
    assert "neurons was made from another rollout than is there" in text(scored) and "changed" not in text(scored)


@pytest.mark.usefixtures("unrendered")
def test_what_is_missing_is_said(scored):
    """Questions, responses and selection may be gone; the counts and the overlap are still shown."""
    for stage in ("data", "rollout"):
        scored.redo(stage)
    assert inspect(scored) == 0
    for stage in ("data", "rollout", "select"):
        assert f"The {stage} stage is not done" in text(scored)
    assert "(not there" in text(scored) and "| pool | 24 |" in text(scored)


def test_the_manifest_of_neurons_is_what_counts(scored, capsys):
    """A scoring that was killed leaves files without a manifest: not done."""
    (scored.stage_dir("neurons") / "manifest.json").unlink()
    assert inspect(scored) == 1 and "is not done" in capsys.readouterr().err
    assert read_json(scored.stage_dir("neurons") / "begun.json") == {}
