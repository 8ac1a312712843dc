"""The typed configuration: what users type wrong must be refused by name, before anything runs."""

import pytest

from nopsd.config import CHOICES, MINIMA, all_keys, load_config, preset_names, to_yaml
from nopsd.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.lrr=1", "train.lr"),
        ("lr=1", "train.lr"),
        ("teacher.knd=ema", "teacher.kind"),
        ("train.lr=abc", "train.lr"),
        ("teacher.kind=emma", "ema"),
        ("teacher.mix=1.5", "at most 1"),
        ("train.lora.rank=8", "train.lora.r"),
        ("train.lora.r=-1", "at least 0"),
        ("train.lora.dropout=1", "below 1"),
        ("train.steps=0", "at least 1"),
        ("select.fraction=1.5", "at most 1"),
        ("train.batch=1", "dist.ranks"),
        ("dist.sequence_parallel=3", "dist.ranks"),
        ("train.micro_tokens=0", "at least 1"),
        ("train.steps", "key=value"),
    ],
)
def test_a_wrong_override_is_refused_with_the_nearest_name(override, hint):
    with pytest.raises(ConfigError, match=hint):
        load_config("lab", [override])


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean lab"):
        load_config("labb")


def test_preset_file_with_unknown_key_names_file_and_key(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {stepz: 3}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml.*train.stepz.*train.steps"):
        load_config(str(file))


def test_overrides_beat_presets_beat_defaults():
    assert load_config(None).train.max_response == 8192
    assert load_config("lab").train.max_response == 64
    assert load_config("lab", ["train.max_response=7"]).train.max_response == 7


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_its_own_yaml(name, tmp_path):
    """A run folder's config.yaml must give the very same run again."""
    config = load_config(name)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "config.yaml")) == config


def test_checked_keys_exist():
    """A renamed key must not lose its check."""
    assert {*CHOICES, *MINIMA} <= set(all_keys())


def test_paper_preset_holds_the_papers_numbers():
    config = load_config("paper/biology")
    assert (config.neuron.per_layer, config.neuron.k, config.context.m) == (2000, 5000, 10)
    assert (config.train.steps, config.train.batch, config.select.fraction) == (150, 16, 0.2)
    assert (config.teacher.kind, config.teacher.rate, config.eval.n, config.eval.temperature) == ("ema", 0.01, 8, 0.6)
