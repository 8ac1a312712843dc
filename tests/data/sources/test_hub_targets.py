"""A hub data set as a target: the real `datasets` client against a stand-in of the hub on this machine."""

import json
import os
import subprocess
import sys

from tests.data.sources.hub_data import serving
from tests.data.sources.test_others import write

LOAD = """
import json, sys
from nopsd.config import load_config
from nopsd.data.sources.others import load_run_answers, load_run_splits
from nopsd.errors import UserError
from nopsd.stages.data import chosen_tests

for target in sys.argv[2:]:
    more = ["data.name=file", f"data.path={sys.argv[1]}", "data.domain=mine", f"eval.targets=[{target}]"]
    config = load_config("lab", more)
    try:
        splits = load_run_splits(config)
        tests, key = chosen_tests(config, splits), load_run_answers(config)
        shown = {d: [[q.uid, q.question, len(q.options), key[q.uid]] for q in each] for d, each in tests.items()}
        print(json.dumps({"tests": shown, "pool": len(splits.pool), "held": len(splits.held)}))
    except UserError as error:
        print(json.dumps({"error": str(error)}))
"""


def load(tmp_path, url, *targets):
    """One after the other, in a process of its own: the hub's client reads its environment once."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", LOAD, str(write(tmp_path / "mine.jsonl", 30)), *targets]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()[-len(targets) :]]


def test_a_hub_data_sets_test_split_is_judged_and_another_name_refused_in_a_line(tmp_path):
    """Broken if what was forgotten can only be shown on files that somebody downloaded by hand. The pool stays."""
    rows = [{"id": f"g{i}", "question": f"geo {i}?", "options": ["x", "y"], "answer": "AB"[i % 2]} for i in range(5)]
    files = {"test.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}
    with serving("me/geo", files) as url:
        found, other = load(tmp_path, url, "me/geo", "me/other")
    assert list(found["tests"]) == ["geo"] and (found["pool"], found["held"]) == (27, 3)
    assert [question[1:] for question in found["tests"]["geo"]] == [[f"geo {i}?", 2, "AB"[i % 2]] for i in range(5)]
    assert all(question[0].startswith("geo/") for question in found["tests"]["geo"])
    assert "hub data set me/other can't be loaded" in other["error"] and "\n" not in other["error"]
