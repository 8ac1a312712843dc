"""tools/fig3.py: the readings, their numbers, the paper's bands, and the whole way on the lab model."""

import json
import random

import numpy as np
import pytest
import torch

from nopsd.config import NeuronConfig
from nopsd.data.records import Question
from nopsd.data.sources import load_answer_key
from nopsd.engine.distributed import Ranks
from nopsd.files import read_json, write_jsonl
from nopsd.neurons.store import NeuronSets, load_neurons
from nopsd.rollout.types import Rollout, write_rollouts
from nopsd.run.folder import RunFolder
from tools import fig3

ARGUMENTS = ("--preset", "lab", "--chunks", "4,1000")


def sets(counts, ids, widths, lengths):
    n = len(counts)
    ids = np.array(ids, np.int32)
    return NeuronSets(
        [f"q{i}" for i in range(n)],
        np.array(counts, np.float32),
        ids,
        np.zeros(ids.shape, np.float16),
        np.array(lengths, np.int32),
        np.zeros(n, bool),
        np.zeros((n, len(widths)), np.int32),
        {"widths": widths},
    )


def test_every_reading_that_counts_differently_stands_once():
    """A reading left out can't be settled; one that stands twice under two names would look like agreement."""
    made = fig3.readings(NeuronConfig(per_layer=7), [256, 1024], ["act_fn"], ["predict"])
    assert [r.name for r in made] == [
        "pairs-union-256",
        "pairs-union-1024",
        "pairs-exact",
        "chunk_topk-256",
        "chunk_topk-1024",
        "token_topk",
    ]
    assert {(r.config.count_mode, r.config.chunk_merge) for r in made} == {
        ("pairs", "union"),
        ("pairs", "exact"),
        ("chunk_topk", "union"),
        ("token_topk", "union"),
    }
    assert all(r.config.per_layer == 7 for r in made)
    more = fig3.readings(NeuronConfig(), [256], ["act_fn", "gated"], ["predict", "self"])
    assert len(more) == len({r.name for r in more}) == 16
    assert next(r for r in more if r.name == "pairs-exact-gated-self").config.value == "gated"


def test_numbers_are_the_columns_own():
    """Range, correlation with accuracy and mean J against numpy and Python sets."""
    counts, right, lengths = [10, 30, 20, 40, 25], [1.0, 0.0, 0.75, 0.25, 0.5], [5, 9, 7, 30, 8]
    ids = [[0, 1], [1, 2], [2, 3], [0, 2], [1, 3]]
    correct = {f"q{i}": share for i, share in enumerate(right)}
    found = fig3.outcome(fig3.Reading("r", NeuronConfig()), sets(counts, ids, [4, 4], lengths), correct, ("lab", "x"))
    assert found.quantiles[0] == 10 and found.quantiles[2] == 25 and found.quantiles[-1] == 40
    assert found.accuracy.pearson.value == pytest.approx(np.corrcoef(counts, right)[0, 1])
    assert found.length.pearson.value == pytest.approx(np.corrcoef(counts, lengths)[0, 1])
    own = [set(row) for row in ids]
    pairs = [1 - len(a & b) / len(a | b) for i, a in enumerate(own) for b in own[:i]]
    assert found.distance == pytest.approx(np.mean(pairs)) and found.verdicts == {}
    assert found.share == pytest.approx(25 / 8)
    assert "Not judged" in fig3.conclusion([found], "x")


@pytest.mark.parametrize(
    ("quantiles", "pearson", "distance", "domain", "expected"),
    [
        ((1, 20_000, 3, 55_000, 9e9), -0.16, 0.634, "Biology", (True, True, True)),
        ((1, 19_999, 3, 55_000, 9), -0.15, 0.685, "Biology", (False, False, False)),
        ((1, 20_000, 3, 55_001, 9), 0.4, 0.63, "Chemistry", (False, False, False)),
        ((1, 30_000, 3, 40_000, 9), -0.4, 0.87, "Chemistry", (True, True, True)),
    ],
)
def test_bands_are_the_papers(quantiles, pearson, distance, domain, expected):
    """Counts of 20k to 55k, Pearson below -0.15, a mean J near the domain's."""
    assert tuple(fig3.judged(quantiles, pearson, distance, domain).values()) == expected


def test_bands_are_for_the_papers_model_and_data_alone():
    """The lab model can't pass or fail a test about Qwen3-4B."""
    assert fig3.bands_apply([9728] * 36, "sciknoweval", "Physics")
    assert not fig3.bands_apply([448] * 4, "sciknoweval", "Physics")
    assert not fig3.bands_apply([9728] * 36, "lab", "biology") and not fig3.bands_apply([9728] * 36, "mmlu_pro", "x")


def test_agreeing_readings_are_named():
    """The conclusion must name the readings that pass all bands, and those alone."""
    none = fig3.correlation([1, 2, 3, 4], [4, 3, 2, 1.0])
    made = [
        fig3.Outcome(name, [0, 1, 2, 3, 4.0], 0.1, none, none, 0.63, {"s(x)": ok, "Pearson": True, "J": True})
        for name, ok in (("good", True), ("bad", False))
    ]
    assert fig3.conclusion(made, "Biology").endswith("Readings that agree with the paper: good.")
    assert "s(x) fail, Pearson pass, J pass" in fig3.table(made) and "s(x) pass" in fig3.table(made)


@pytest.fixture
def lab_run(tmp_path, monkeypatch, lab_model_dir):
    """40 lab questions with made-up responses of 3 to 30 tokens, every third one's answer right; stages not run,
    the model not sharded (test_score_pool_on_ranks has that)."""
    from transformers import AutoModelForCausalLM

    from nopsd.config import load_config
    from nopsd.data.sources import load_splits

    config = load_config("lab", [f"run_dir={tmp_path}", "data.pool_limit=40"])
    pool, key, draw = load_splits(config.data).pool, load_answer_key(config.data), random.Random(0)
    run = RunFolder(tmp_path)
    write_jsonl(run.stage_dir("data") / "pool.jsonl", [q.to_json() for q in pool])
    rollouts = []
    for place, question in enumerate(pool):
        for sample in range(2):
            answer = key[question.uid] if place % 3 == 0 else "wrong"
            ids = [draw.randrange(900) for _ in range(draw.randint(3, 30))]
            rollouts.append(Rollout(question.uid, sample, [1, 2, 3], ids, f"<answer>{answer}</answer>", "stop", 0))
    write_rollouts(run.stage_dir("rollout") / "rollouts.parquet", rollouts)
    model = AutoModelForCausalLM.from_pretrained(lab_model_dir).eval()

    class Unsharded:
        module = model

        def __call__(self, **inputs):
            return model(**inputs)

    monkeypatch.setattr("nopsd.engine.frozen.load_frozen", lambda *a: Unsharded())
    monkeypatch.setattr("nopsd.engine.distributed.init_distributed", lambda c: Ranks(0, 1, torch.device("cpu")))
    monkeypatch.setattr("nopsd.run.runner.run_one", lambda *a: None)
    monkeypatch.setattr(fig3, "LEAST_QUESTIONS", 40)
    return tmp_path, pool, rollouts


def test_the_whole_way_on_the_lab_model(lab_run, capsys):
    """Readings scored from the same rollouts, judged with the key, printed and drawn."""
    folder, pool, rollouts = lab_run
    arguments = [*ARGUMENTS, f"run_dir={folder}", "data.pool_limit=40", "dist.ranks=1"]
    assert fig3.main(arguments) == 0
    said = capsys.readouterr().out
    out = folder / "fig3"
    assert "40 questions, accuracy over 8 answers" in said and "Not judged" in said and "| token_topk |" in said
    assert (out / "fig3.png").read_bytes().startswith(b"\x89PNG") and (out / "fig3.md").read_text() in said
    correct = read_json(out / "pool_correct.json")
    assert [correct[q.uid] for q in pool] == [float(place % 3 == 0) for place in range(40)]

    loaded = {name: load_neurons(out / name) for name in ("pairs-union-4", "pairs-union-1000", "pairs-exact")}
    counts = {name: neurons.counts for name, neurons in loaded.items()}
    np.testing.assert_array_equal(counts["pairs-union-1000"], counts["pairs-exact"])  # one chunk is all
    assert (counts["pairs-union-4"] >= counts["pairs-exact"]).all() and counts["pairs-union-4"].max() > 500
    first = {r.uid: len(r.response_ids) for r in rollouts if r.sample == 0}
    assert loaded["pairs-exact"].lengths.tolist() == [first[uid] for uid in loaded["pairs-exact"].uids]
    by_name = {o["name"]: o for o in json.loads((out / "fig3.json").read_text())}
    right = [correct[uid] for uid in loaded["pairs-exact"].uids]
    assert by_name["pairs-exact"]["accuracy"]["pearson"]["value"] == pytest.approx(
        np.corrcoef(counts["pairs-exact"], right)[0, 1]
    )


def test_few_questions_and_bad_options_are_refused(lab_run, capsys, monkeypatch):
    """A correlation of forty questions settles nothing: at least 200 are asked for."""
    monkeypatch.setattr(fig3, "LEAST_QUESTIONS", 200)
    folder = lab_run[0]
    assert fig3.main([*ARGUMENTS, f"run_dir={folder}"]) == 1
    assert "a pool of 40 questions: the figure needs at least 200" in capsys.readouterr().err
    assert fig3.main(["--preset", "lab", f"run_dir={folder}", "--chunks", "four"]) == 1
    assert "--chunks four: write whole numbers" in capsys.readouterr().err
    assert fig3.main(["--preset", "lab", f"run_dir={folder}", "--value", "gatd"]) == 1
    assert "neuron.value=gatd" in capsys.readouterr().err


def test_pool_of_a_user_without_answers_is_refused(tmp_path, monkeypatch):
    """Without answers there is nothing to correlate with."""
    from nopsd.config import load_config
    from nopsd.errors import DataError

    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps({"id": str(i), "question": f"What is {i}?"}) + "\n" for i in range(5)))
    config = load_config("lab", [f"run_dir={tmp_path}", "data.name=file", f"data.path={questions}", "data.domain=m"])
    run = RunFolder(tmp_path)
    write_jsonl(run.stage_dir("data") / "pool.jsonl", [Question(str(i), "m", "file", "x").to_json() for i in range(5)])
    write_rollouts(run.stage_dir("rollout") / "rollouts.parquet", [Rollout("0", 0, [1], [2], "x", "stop", 0)])
    with pytest.raises(DataError, match="answers are not known"):
        fig3.report(config, [], tmp_path / "fig3")
