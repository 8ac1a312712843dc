"""Our logs and extraction against lm-evaluation-harness 0.4.

It is no dependency: it lies in the peers' environment (tests/setup_peers.sh).
"""

import pytest

from nopsd.config import EvalConfig
from nopsd.evaluation.evaluate import evaluate_domain
from nopsd.evaluation.lm_eval_logs import Evaluated, task_name, write_harness_logs
from nopsd.files import read_json, read_jsonl
from nopsd.rollout.types import Rollout
from tests.evaluation.harness import peer, question

READER = r"""
import json, sys, glob, pathlib
from lm_eval.loggers.evaluation_tracker import EvaluationTracker
from lm_eval.utils import get_file_task_name, get_file_datetime, get_results_filenames, get_sample_results_filenames
from lm_eval.utils import get_latest_filename, hash_string, make_table
folder = sys.argv[1]
files = glob.glob(folder + "/*")
results = get_results_filenames(files)
samples = get_sample_results_filenames(files)
tree = json.loads(pathlib.Path(results[0]).read_text())
ours = [json.loads(line) for line in open(samples[0])]
doc_hash = hash_string(json.dumps(ours[0]["doc"], indent=2, ensure_ascii=False))
tracker = EvaluationTracker(output_path=sys.argv[2])
tracker.general_config_tracker.model_name_sanitized = "m"
row = {**ours[0], "arguments": [("prompt", {})]}
tracker.save_results_aggregated({"results": {}}, {"t": [row]})
tracker.save_results_samples("t", [dict(row)])
theirs = json.loads(open(glob.glob(sys.argv[2] + "/m/samples_t_*")[0]).readline())
aggregated = json.loads(pathlib.Path(glob.glob(sys.argv[2] + "/m/results_*")[0]).read_text())
print(json.dumps({
    "task": get_file_task_name(pathlib.Path(samples[0]).name), "latest": get_latest_filename(samples) == samples[0],
    "same_date": get_file_datetime(results[0]).replace(".json", "") == get_file_datetime(samples[0]),
    "doc_hash": doc_hash == ours[0]["doc_hash"], "prompt_hash": hash_string("prompt one") == ours[0]["prompt_hash"],
    "keys": sorted(set(theirs) - set(ours[0])), "top": sorted(set(aggregated) - set(tree)),
    "arguments": sorted(theirs["arguments"]["gen_args_0"]) == sorted(ours[0]["arguments"]["gen_args_0"]),
    "resps": type(theirs["resps"][0]).__name__ == type(ours[0]["resps"][0]).__name__, "table": make_table(tree),
}))
"""


def logs(tmp_path, config):
    questions = [question("one"), question("two")]
    texts = {"one": ["<answer>A</answer>", "the answer is (A)", "B", ""], "two": ["the answer is (C)"] * 4}
    rollouts = {u: [Rollout(u, i, [1], [1, 2], t, "stop", 0) for i, t in enumerate(ts)] for u, ts in texts.items()}
    result = evaluate_domain(questions, {"one": "A", "two": "C"}, rollouts, config)
    domain = Evaluated(result, {q.uid: q for q in questions}, rollouts, {"one": "prompt one", "two": "prompt two"})
    return result, write_harness_logs(tmp_path, "org/some model", [domain], config, 1.5)


CONFIG = EvalConfig(n=4, bootstrap=20)


def test_logs_hold_our_numbers(tmp_path):
    """Breaks if a reader of the harness's logs gets other numbers than metrics.json."""
    result, path = logs(tmp_path, CONFIG)
    tree = read_json(path)
    row = tree["results"]["nopsd_mmlu_pro"]
    assert row["exact_match,extract"] == pytest.approx(result.metrics["avg"])
    assert row["exact_match,majority"] == pytest.approx(result.metrics["maj"])
    assert row["exact_match,custom-extract"] == 0.5  # of the first samples: `<answer>` is not its rule's
    assert row["exact_match_stderr,majority"] == 0.0 and row["ece,extract"] == pytest.approx(result.metrics["ece"])
    rows = read_jsonl(next(tmp_path.glob("samples_*.jsonl")))
    assert [(r["doc_id"], r["filter"]) for r in rows][:4] == [
        (0, "extract"),
        (0, "majority"),
        (0, "custom-extract"),
        (1, "extract"),
    ]
    assert rows[0]["filtered_resps"] == ["A", "A", "B", "[invalid]"] and rows[0]["exact_match"] == 0.5
    for name in ("extract", "majority", "custom-extract"):
        scores = [r["exact_match"] for r in rows if r["filter"] == name]
        assert sum(scores) / 2 == pytest.approx(row[f"exact_match,{name}"])


def test_writing_again_leaves_one_set_of_logs(tmp_path):
    logs(tmp_path, CONFIG)
    logs(tmp_path, CONFIG)
    assert len(list(tmp_path.iterdir())) == 2
    assert task_name("computer science/AI") == "nopsd_computer-science-AI"


def test_the_harness_reads_our_logs(tmp_path):
    """Its own readers find files, task, date and hashes, print our results, and its own writer has no field that ours
    lacks."""
    logs(tmp_path / "ours", CONFIG)
    said = peer(READER, tmp_path / "ours", tmp_path / "theirs")
    assert said.pop("keys") == [] and said.pop("task") == "nopsd_mmlu_pro"
    assert set(said.pop("top")) <= {
        "system_instruction",
        "system_instruction_sha",
        "fewshot_as_multiturn",
        "chat_template",
        "chat_template_sha",
        "start_time",
        "end_time",
    }
    table = said.pop("table")
    assert "nopsd_mmlu_pro" in table and "custom-extract" in table and "exact_match" in table
    assert all(said.values()), said
