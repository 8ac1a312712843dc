"""`nopsd config`: what it says of a key or a preset must be what a run does."""

import json

from nopsd.cli import main
from nopsd.config import all_keys, load_config


def shown(capsys, *arguments: str) -> str:
    assert main(["config", *arguments]) == 0
    return capsys.readouterr().out


def test_a_key_is_explained(capsys):
    text = shown(capsys, "--explain", "train.lr", "--preset", "lab")
    for row in (
        "type     float",
        "default  1e-06",
        "here     0.0001",
        "allowed  at least 0",
        "source   chosen: DemoPSD",
    ):
        assert f"\n  {row}" in text, row
    assert "neuron_density, nait" in shown(capsys, "--explain", "select.selector").replace("\n           ", " ")


def test_every_key_can_be_explained(capsys):
    """Breaks if a kind of key (a list, a choice with null, one that follows another) can't be shown."""
    for key in all_keys():
        assert key.help.split(":")[0][:40] in shown(capsys, "--explain", key.name), key.name


def test_a_section_is_a_line_a_key(capsys):
    lines = shown(capsys, "--explain", "teacher").splitlines()
    assert [line.split()[0] for line in lines] == [k.name for k in all_keys() if k.name.startswith("teacher.")]


def test_an_unknown_key_is_answered_with_one_near_it(capsys):
    assert main(["config", "--explain", "lr"]) == 1
    assert capsys.readouterr().err == "nopsd: error: lr is no key; near it: train.lr\n"


def test_diff_is_what_a_preset_changes(capsys):
    text = shown(capsys, "--diff", "lab", "train.steps=20")
    assert "train.lr: 1e-06 -> 0.0001\n" in text and "train.steps: 150 -> 20\n" in text
    assert "seed:" not in text
    changed = json.loads(shown(capsys, "--preset", "lab", "--diff", "lab", "select.fraction=0.1", "--json"))
    assert changed == {"select.fraction": {"from": "0.2", "to": "0.1"}}
    assert shown(capsys, "--preset", "lab", "--diff", "lab") == "no key differs\n"


def test_json_is_the_configuration(capsys):
    config = json.loads(shown(capsys, "--preset", "lab", "--json"))
    assert config["train"]["lr"] == load_config("lab").train.lr
    assert json.loads(shown(capsys, "--explain", "train.lr", "--json"))["train.lr"]["bounds"] == "at least 0"
