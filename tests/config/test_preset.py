"""Presets and their bases: what a short preset leaves out must come from its base, and a wrong base be refused."""

import json
from pathlib import Path

import pytest

from nopsd.config import Config, load_config, preset_names, to_plain
from nopsd.errors import ConfigError
from nopsd.files import flatten

PAPER = json.loads((Path(__file__).parent / "paper_presets.json").read_text())


def values(name):
    return flatten(to_plain(load_config(name)))


def difference(name, base):
    resolved = values(name)
    return {key: resolved[key] for key in resolved if resolved[key] != base[key]}


def test_the_papers_setting_differs_from_the_defaults_as_expected():
    """A default that changes must not change the paper's setting silently, nor the other way round."""
    assert difference("paper/biology", flatten(to_plain(Config()))) == PAPER["paper/biology"]


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("paper/")])
def test_a_paper_preset_differs_from_biology_as_expected(name):
    """A short preset must resolve to what the long one of its own was."""
    assert difference(name, values("paper/biology")) == (PAPER[name] if name != "paper/biology" else {})


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return lambda name: load_config(str(folder / f"{name}.yaml"))


def test_a_base_is_a_name_or_a_file_beside_the_preset(tmp_path):
    load = write(
        tmp_path,
        mine="base: lab\ntrain: {max_response: 7}\n",
        other="base: mine.yaml\ncontext: {m: 2}\n",
    )
    config, lab = load("other"), load_config("lab")
    assert (config.train.max_response, config.context.m) == (7, 2)
    assert (config.train.lr, config.neuron) == (lab.train.lr, lab.neuron)


def test_a_base_for_another_method_comes_before_the_methods_settings(tmp_path):
    """As `--preset BASE method=ttrl` does: the base's values were written for the method that it names."""
    load = write(
        tmp_path,
        mine="base: paper/chemistry\nmethod: ttrl\ntrain: {batch: 32}\n",
        same="base: paper/chemistry\ntrain: {lr: 2.0e-6}\n",
    )
    config = load("mine")
    assert (config.train.n, config.train.lr, config.train.batch, config.data.domain) == (8, 5e-7, 32, "Chemistry")
    assert config.teacher == Config().teacher, "what ttrl doesn't read is back at its default"
    assert (load("same").method, load("same").train.lr, load("same").train.n) == ("nopsd", 2e-6, 1)


def test_steps_of_a_preset_stand_in_place_of_its_bases_epochs(tmp_path):
    load = write(tmp_path, below="train: {epochs: 2}\n", above="base: below.yaml\ntrain: {steps: 3}\n")
    assert (load("above").train.epochs, load("above").train.steps) == (None, 3)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"mine": "base: labb\n"}, r"mine.yaml: base: labb: unknown preset labb; did you mean lab"),
        ({"mine": "base: gone.yaml\n"}, r"mine.yaml: base: gone.yaml: .*does not exist"),
        ({"mine": "base: mine.yaml\n"}, r"mine.yaml: base: mine.yaml: .*itself"),
        ({"mine": "base: other.yaml\n", "other": "base: ./mine.yaml\n"}, r"other.yaml: base: ./mine.yaml: .*itself"),
        ({"mine": "base: other.yaml\n", "other": "train: {lrr: 1}\n"}, r"other.yaml: unknown key train.lrr.*train.lr"),
        ({"mine": "base: other.yaml\n", "other": "train: {lr: x}\n"}, r"other.yaml: train.lr"),
        ({"mine": "base: other.yaml\n", "other": "train: 3\n"}, r"other.yaml: train is a section.*train.steps"),
        ({"mine": "base: other.yaml\n", "other": "- 3\n"}, r"other.yaml: the top level"),
        ({"mine": "train: {lr: [\n"}, r"mine.yaml: not readable as YAML"),
    ],
)
def test_a_wrong_base_is_refused_with_its_file(tmp_path, files, words):
    with pytest.raises(ConfigError, match=words):
        write(tmp_path, **files)("mine")


def test_a_section_s_old_name_is_answered_with_its_new_one():
    with pytest.raises(ConfigError, match=r"rollout_zs\.n; did you mean zero_shot\.n\?"):
        load_config("lab", ["rollout_zs.n=2"])
