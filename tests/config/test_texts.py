"""A key that takes text holds what was written, whatever YAML would make of it."""

from pathlib import Path

import pytest

from nopsd.config import all_keys, load_config, to_yaml
from nopsd.config.rules import value_of
from nopsd.errors import ConfigError

TEXTS = ["no", "0123", "12:30", "1e3", "true", "a #b", "[x].jsonl", "{a: b}", "@q", "${USER}", "${", "${oc.env:HOME}"]
TEXTS += ["%x", "a: b", "*a", "&a", "!a", "|", "- a", "?", "???", "生物", "it's", '"', "a=b", "2026-11-26", ".", "\\"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_text_and_survives_a_saved_configuration(text, tmp_path):
    config = load_config(None, [f"data.domain={text}", f"data.path=/q/{text}", f"data.types=[{'q'}]"])
    assert (config.data.domain, config.data.path) == (text, f"/q/{text}")
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config))
    assert load_config(str(saved)) == config


@pytest.mark.parametrize("text", ["no", "0123", "12:30", "2026-11-26", "on"])
def test_text_of_a_file_stays_text(text, tmp_path):
    """In a list, too: levels [L1, no]."""
    file = tmp_path / "mine.yaml"
    file.write_text(f"data:\n  domain: {text}\n  types: [{text}, 'null']\n  path: null\n")
    data = load_config(str(file)).data
    assert (data.domain, data.types, data.path) == (text, [text, "null"], None)


def test_a_path_begins_at_the_users_home_wherever_a_path_is_meant(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    for key in all_keys():
        if key.path:
            config = load_config(None, ["data.name=file", f"{key.name}=~/a b"])
            assert value_of(config, key.name) == "/home/me/a b", key.name
    assert load_config(None, ["data.domain=~x"]).data.domain == "~x", "a name is no path"
    assert {key.name for key in all_keys() if key.path} == set(
        "run_dir model.path data.path data.test_path signal.reference server.sync_folder dist.hostfile "
        "dist.student_config dist.teacher_config dist.nvme_path train.replay train.neurons.run "
        "distill.contrast_run".split()
    )


def test_a_reference_is_another_keys_value(tmp_path):
    assert load_config("lab", ["run_dir=runs/${data.domain}-${seed}", "seed=3"]).run_dir == "runs/biology-3"
    assert load_config("lab", ["train.steps=${train.batch}"]).train.steps == load_config("lab").train.batch
    escaped = load_config("lab", [r"run_dir=\${seed}"])
    assert escaped.run_dir == "${seed}"
    (tmp_path / "c.yaml").write_text(to_yaml(escaped))
    assert load_config(str(tmp_path / "c.yaml")) == escaped
    with pytest.raises(ConfigError, match="refers to itself"):
        load_config("lab", ["seed=${train.seed}"])
    with pytest.raises(ConfigError, match="train.steps=.*whole number"):
        load_config("lab", ["train.steps=${oc.env:HOME}"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.domain=null", "data.domain=null: must be text"),
        ("data.domain=a\0b", "control character"),
        ("data.domain=a\udcffb", "control character"),
        ("data.types=a", "must be a list"),
        ("data.types=[a", "not readable as a list"),
        ("data.types=[{a: b}]", "must be text"),
        ("model.trust_remote_code=2", "true or false"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(setting, words):
    with pytest.raises(ConfigError, match=words) as found:
        load_config("lab", [setting])
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize("setting", ["data.path", "run_dir", "dist.hostfile", "method", "train.replay"])
def test_a_name_that_no_file_can_have_is_refused_by_its_key(setting):
    """Each look at such a path raises; of 256 bytes, which are 86 Chinese characters."""
    with pytest.raises(ConfigError, match=setting):
        load_config("lab", [f"{setting}={chr(0x65E5) * 86}"])


def test_a_key_given_twice_in_a_file_is_refused(tmp_path):
    Path(tmp_path / "m.yaml").write_text("train:\n  lr: 1.0e-5\n  lr: 1.0e-6\n")
    with pytest.raises(ConfigError, match="lr is given twice"):
        load_config(str(tmp_path / "m.yaml"))


@pytest.mark.parametrize(
    "settings",
    [
        ["data.name=sciknoweval", "data.test_path=t.jsonl"],
        ["data.name=instructions", "data.option_columns=[A,B]"],
        ["data.name=mmlu_pro", "data.config=main"],
        ["data.name=lab", "data.first_index=0"],
    ],
)
def test_a_key_that_a_data_set_does_not_read_is_refused(settings):
    """It was ignored: a test given apart stayed in the pool."""
    with pytest.raises(ConfigError, match="is not read by data.name="):
        load_config("lab", settings)
