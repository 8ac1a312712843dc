"""Our writer and Inspect's own reader, under an interpreter that has both; run by test_inspect_logs.py.

python inspect_reader.py FOLDER: writes a log of two questions there, reads it back, and prints what it holds as JSON.
"""

import json
import sys
from pathlib import Path

from inspect_ai.log import list_eval_logs, read_eval_log, read_eval_log_sample_summaries

from nopsd.config import EvalConfig
from nopsd.evaluation.evaluate import evaluate_domain
from nopsd.evaluation.inspect_logs import write_inspect_logs
from nopsd.evaluation.lm_eval_logs import Evaluated
from nopsd.rollout.types import Rollout
from tests.evaluation.harness import question

TEXTS = {
    "one": ["<answer>A</answer>", "<answer>B</answer>", "<answer>A</answer>", "?"],
    "two": ["<answer>C</answer>"] * 4,
}


def main(folder: Path) -> None:
    questions, config = [question("one"), question("two")], EvalConfig(n=4, bootstrap=20)
    rollouts = {
        uid: [
            Rollout(uid, i, [1, 1], [1, 2, 3], text, "length" if text == "?" else "stop", 0)
            for i, text in enumerate(texts)
        ]
        for uid, texts in TEXTS.items()
    }
    result = evaluate_domain(questions, {"one": "A", "two": "C"}, rollouts, config)
    domain = Evaluated(result, {q.uid: q for q in questions}, rollouts, {"one": "prompt one", "two": "prompt two"})
    for _ in range(2):  # the second time in place of the first
        (path,) = write_inspect_logs(folder, "org/some model", [domain], config)
    log = read_eval_log(str(path))
    found = {
        "listed": len(list_eval_logs(str(folder))),
        "status": log.status,
        "model": log.eval.model,
        "task": log.eval.task,
        "epochs": log.eval.config.epochs,
        "scores": {s.name: s.metrics["accuracy"].value for s in log.results.scores},
        "avg": result.metrics["avg"],
        "maj": result.metrics["maj"],
        "samples": [
            [s.id, s.epoch, s.target, s.messages[0].text, s.output.completion, s.output.stop_reason]
            + [s.scores["extract"].value, s.scores["extract"].answer, s.output.usage.output_tokens]
            for s in log.samples
        ],
        "summaries": len(read_eval_log_sample_summaries(str(path))),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
