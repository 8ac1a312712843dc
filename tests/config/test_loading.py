"""The typed configuration: what users type wrong must be refused by name, before anything runs."""

import pytest

from nopsd.config import load_config, loading, preset_names, to_yaml
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
        ("dist.ranks=40", "train.batch"),
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


def test_paper_preset_holds_the_papers_numbers():
    config = load_config("paper/biology")
    assert (config.neuron.per_layer, config.neuron.k, config.context.m) == (2000, 5000, 10)
    assert (config.train.steps, config.train.batch, config.select.fraction) == (150, 16, 0.2)
    assert (config.teacher.kind, config.teacher.rate, config.eval.n, config.eval.temperature) == ("ema", 0.01, 8, 0.6)


SEEDS = ("train", "select", "context", "eval")


def seeds(config):
    return [getattr(config, section).seed for section in SEEDS]


def test_a_sections_seed_is_the_runs_unless_it_is_set():
    assert seeds(load_config("lab")) == [0, 0, 0, 0]
    assert seeds(load_config("lab", ["seed=3"])) == [3, 3, 3, 3]
    assert seeds(load_config("lab", ["seed=3", "train.seed=5"])) == [5, 3, 3, 3]
    assert load_config("lab", ["seed=3"]).data.seed == 42, "the split into pool and test stays"


def test_a_seed_of_0_is_0():
    """It was taken as "not set": `compare` with seeds 0 and 1 of training trained seed 1 twice."""
    assert load_config("lab", ["seed=1", "train.seed=0"]).train.seed == 0


def test_a_seed_over_a_saved_configuration_moves_what_follows_it(tmp_path):
    """`--config RUN/config.yaml seed=3` is another run of seed 3, not one that trains by the old seed."""
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(load_config("lab", ["seed=1", "select.seed=7"])))
    assert seeds(load_config(str(saved))) == [1, 7, 1, 1]
    assert seeds(load_config(str(saved), ["seed=3"])) == [3, 7, 3, 3]


def test_a_seed_that_is_set_to_the_runs_is_no_other_run():
    """Else a finished stage would be computed again for the same numbers."""
    assert load_config("lab", ["seed=1", "train.seed=1"]) == load_config("lab", ["seed=1"])


@pytest.mark.parametrize(
    ("gpus", "overrides", "ranks"),
    [(0, [], 2), (1, [], 1), (4, [], 4), (64, ["train.batch=8"], 8), (8, ["dist.sequence_parallel=3"], 6)],
)
def test_the_lab_has_a_rank_for_each_gpu_and_two_on_a_cpu(monkeypatch, gpus, overrides, ranks):
    """Else the quickstart fails on one GPU, or lets all but two idle."""
    monkeypatch.setattr(loading, "visible_gpus", lambda: list(range(gpus)))
    assert load_config("lab", overrides).dist.ranks == ranks
    assert load_config("lab", [*overrides, "dist.ranks=3", "train.batch=32"]).dist.ranks == 3
