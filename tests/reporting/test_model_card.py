"""The export's card: a wrong number or a path of the training machine in it would be passed on with the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from nopsd.config import load_config
from nopsd.reporting.model_card import CardInputs, amplified_errors, base_name, model_card

STATS = {
    "pool": 300,
    "selected": 60,
    "thresholds": {"mine": 444.0},
    "count_mean": 454.8,
    "count_quantiles": {"5": 431.6, "50": 454.5, "95": 473.7},
    "count_length_correlation": -0.388,
    "empty_contexts": 0,
}


@pytest.fixture
def inputs(make_judged: Any) -> CardInputs:
    """Before: 2 of 4 majorities right. After: one of them lost, one gained, and the wrong ones surer."""
    config = load_config(
        "lab", ["data.name=file", "data.path=/home/me/secret/q.jsonl", "data.domain=mine", "run_dir=/tmp/x"]
    )
    before = {"mine": make_judged("mine", ["AAAA", "AAAB", "BBBA", "BBCA"])}
    after = {"mine": make_judged("mine", ["AAAA", "BBBB", "AAAA", "BBBB"])}
    return CardInputs(config, 300, {"questions": 60}, {"steps": 20}, STATS, before, after, 0.25, ["Stopped early."])


def test_metadata_is_what_the_hub_reads(inputs: CardInputs) -> None:
    data = ModelCard(model_card(inputs)).data
    assert data.library_name == "transformers" and "arxiv:2607.02460" in data.tags
    assert {(r.metric_name, r.metric_value) for r in data.eval_results} >= {("Avg@4", 0.5), ("maj@4", 0.5)}
    assert data.base_model is None and data.datasets is None, "neither is on a hub"
    config = load_config("paper/biology")
    data = ModelCard(model_card(replace(inputs, config=config))).data
    assert (data.base_model, data.datasets) == ("Qwen/Qwen3-4B-Thinking-2507", ["hicai-zju/SciKnowEval"])


def test_nothing_of_the_machine_is_passed_on(inputs: CardInputs) -> None:
    text = model_card(replace(inputs, config=load_config("lab", ["model.path=/home/me/models/mine", "run_dir=/tmp/x"])))
    assert "/home/" not in text and "/tmp/" not in text and "/home/" not in model_card(inputs)
    assert "# mine, distilled on biology" in text


def test_the_amplified_errors_are_this_runs(inputs: CardInputs) -> None:
    shown, line = amplified_errors(inputs)
    assert shown.startswith("Of the answers shown to the teacher as demonstrations, 75% were wrong")
    assert "of 4 questions, 1 that the majority answer had right went wrong, and 1 that it had wrong went right" in line
    assert "its share of the votes went from 62% to 100%" in line, "(3/4 + 2/4) / 2, then 1"
    assert amplified_errors(replace(inputs, before={}, after={}, shown_right=None)) == []


def test_the_text_has_settings_selection_results_and_notes(inputs: CardInputs) -> None:
    text = model_card(inputs)
    for said in (
        "> Stopped early.",
        "| `train.lr` | 0.0001 |",
        "| selected | 60 |",
        "q.jsonl, domain mine: 300 in the pool",
    ):
        assert said in text, said
    assert "20 steps on 60 selected questions" in text and "in-domain: mine" in text and "| maj@4 |" in text


def test_without_an_evaluation_it_says_so(inputs: CardInputs) -> None:
    text = model_card(replace(inputs, before={}, after={}, shown_right=None))
    assert "Not evaluated" in text and "In this run that was not measured." in text
    assert ModelCard(text).data.eval_results is None


def test_a_local_folder_is_no_hub_id(lab_model_dir: Any) -> None:
    assert base_name(load_config("lab", [f"model.path={lab_model_dir}"])) == "model"
    assert base_name(load_config("lab", ["model.path=Qwen/Qwen3-8B"])) == "Qwen/Qwen3-8B"
