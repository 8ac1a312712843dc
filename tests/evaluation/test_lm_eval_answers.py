"""Answers by the harness's rule beside ours: where the two differ, and by how much."""

import json

import pytest

from nopsd.data.answers import extract_answer
from nopsd.evaluation.lm_eval_answers import harness_answer, harness_match, rule_gap
from tests.evaluation.harness import peer, question

# response, gold, what the harness takes, what we take (options A to E)
CANNED = [
    ("The answer is (B).", "B", "B", "B"),
    ("The answer is B", "B", "B", "B"),
    ("the answer is (C). No: the answer is (D).", "D", "C", "C"),  # both take the first
    ("<answer>A</answer>", "A", "[invalid]", "A"),
    ("I think the answer is (A). <answer>B</answer>", "B", "A", "B"),
    (r"So \boxed{C}.", "C", "[invalid]", "C"),
    ("Answer: D", "D", "[invalid]", "D"),
    ("It must be option E", "E", "[invalid]", "E"),
    ("The answer is (J).", "J", "J", None),  # no such option
    ("The Answer is (B)", "B", "[invalid]", "B"),  # the rule minds the case
    ("<think>the answer is (A)</think> The answer is (B).", "B", "A", "B"),
    ("<think>the answer is (A), surely", "A", "A", None),
    ("answer is b", "B", "[invalid]", None),
    ("", "A", "[invalid]", None),
    ("The final answer is: (B)", "B", "[invalid]", "B"),
    ("The answer is **(B)**", "B", "[invalid]", "B"),
    ("the answer is Because of A", "A", "B", "A"),  # the rule's own trap: a word's first letter
]


PEER = r"""
import json, sys, yaml, pathlib, lm_eval
from lm_eval.filters import build_filter_ensemble
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.api.instance import Instance
text = (pathlib.Path(lm_eval.__file__).parent / "tasks/mmlu_pro/_default_template_yaml").read_text()
task = yaml.safe_load(text.replace("!function ", ""))
rule, = task["filter_list"]
steps = [[f["function"], {k: v for k, v in f.items() if k != "function"}] for f in rule["filter"]]
ensemble = build_filter_ensemble(rule["name"], [[n, k or None] for n, k in steps])
metric, = task["metric_list"]
options = {k: metric[k] for k in ("ignore_case", "ignore_punctuation")}
out = []
for response, gold in json.load(sys.stdin):
    instance = Instance(request_type="generate_until", doc={}, arguments=("", {}), idx=0, resps=[response])
    ensemble.apply([instance])
    answer = instance.filtered_resps[rule["name"]]
    score = exact_match_hf_evaluate(predictions=[answer], references=[gold], **options)["exact_match"]
    out.append([answer, bool(score)])
print(json.dumps({"name": rule["name"], "out": out}))
"""


def ours_of(response):
    return extract_answer(response, question())


def test_both_rules_on_canned_outputs():
    """What each rule takes, case by case: breaks if our copy of the harness's rule, or our own, moves."""
    assert [harness_answer(r) for r, *_ in CANNED] == [theirs for _, _, theirs, _ in CANNED]
    assert [ours_of(r) for r, *_ in CANNED] == [ours for *_, ours in CANNED]


def test_where_and_by_how_much_they_differ():
    """The gap that `nopsd eval` prints, counted by hand on the canned outputs."""
    gap = rule_gap([r for r, *_ in CANNED], [ours_of(r) for r, *_ in CANNED], [g for _, g, *_ in CANNED])
    only_ours = sum(o == g and t != g for _, g, t, o in CANNED)
    only_theirs = sum(o != g and t == g for _, g, t, o in CANNED)
    assert (gap.only_ours, gap.only_harness) == (only_ours, only_theirs) == (10, 2)
    assert gap.unread_by_harness == sum(t == "[invalid]" and o is not None for *_, t, o in CANNED)
    assert "samples right by ours alone" in str(gap)
    with pytest.raises(ValueError):
        rule_gap([], [], [])


def test_the_rule_is_the_harnesss_own():
    """Its own filter and metric, read from its own task file, on the same outputs."""
    said = peer(PEER, sent=json.dumps([[r, g] for r, g, *_ in CANNED]))
    assert said["name"] == "custom-extract"
    assert said["out"] == [[harness_answer(r), harness_match(harness_answer(r), g)] for r, g, *_ in CANNED]
