"""One key names a method; what it sets, what comes after it, and what contradicts it."""

import pytest
import yaml

from nopsd.config import METHODS, PRESETS, load_config, to_yaml


def more(method):
    reference = ["signal.reference=examples.jsonl"] if method in ("nait_sft", "sft_given") else []
    return [*reference, *(["sft.train_on_labels=true"] if method == "sft_given" else [])]


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_has_a_preset_that_is_accepted(method):
    """A method without settings would silently be the paper's under another name."""
    assert (PRESETS / "method" / f"{method}.yaml").is_file()
    for preset in (None, "lab"):
        assert load_config(preset, [f"method={method}", *more(method)]).method == method
    assert {path.stem for path in PRESETS.glob("method/*.yaml")} == set(METHODS)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_methods_values_state_their_source(method):
    """The issue's demand: where a value comes from stands beside it (or in the file's first lines)."""
    for line in (PRESETS / "method" / f"{method}.yaml").read_text().splitlines():
        values = yaml.safe_load(line.strip()) if ":" in line and not line.startswith("#") else None
        if isinstance(values, dict) and any(isinstance(v, (int, float)) for v in values.values()):
            assert "#" in line, line


def test_a_resolved_configuration_is_read_back_as_it_was(tmp_path):
    """Ranks read RUN/config.yaml: a method's settings, or a refusal, must not come upon it a second time."""
    for method in METHODS:
        config = load_config("lab", [f"method={method}", "train.lr=0.5", *more(method)])
        (tmp_path / "config.yaml").write_text(to_yaml(config))
        assert load_config(str(tmp_path / "config.yaml")) == config


def test_the_order_of_settings(tmp_path):
    """A preset for a model (lab) wins over the method; one written for another method must not."""
    assert load_config("lab", ["method=ttrl"]).train.lr == 1e-4, "the lab's own rate"
    assert load_config("lab", ["method=ttrl"]).train.n == 8
    (tmp_path / "paper.yaml").write_text(
        "method: nopsd\ntrain: {steps: 150, lr: 1.0e-6, n: 1, warmup: 10}\nteacher: {kind: ema}\n"
        "context: {retriever: neuron_jaccard}\nselect: {selector: neuron_count}\n"
    )
    config = load_config(str(tmp_path / "paper.yaml"), ["method=ttrl"])
    assert (config.train.n, config.train.lr, config.train.epochs) == (8, 5e-7, 1)
    assert (config.context.retriever, config.select.selector, config.teacher.kind) == ("none", "all", "frozen")
    same = load_config(str(tmp_path / "paper.yaml"))
    assert (same.train.lr, same.teacher.kind) == (1e-6, "ema")


def test_the_later_of_steps_and_epochs_counts():
    """A user who asks for 2 steps of a method that counts in epochs must not wait for an epoch."""
    assert load_config("lab", ["method=lmsi"]).train.epochs == 1
    assert load_config("lab", ["method=lmsi", "train.steps=2"]).train.epochs is None
    asked = load_config("lab", ["method=lmsi", "train.epochs=3", "train.steps=2"]).train
    assert (asked.epochs, asked.steps) == (3, 2), "both at once: epochs stand in place of steps"
    assert load_config("lab", ["method=ttrl", "train.warmup=4"]).train.warmup_ratio is None


def test_memory_of_the_head_is_every_methods():
    assert load_config("lab", ["method=ttrl", "distill.logit_chunk=64"]).distill.logit_chunk == 64
