"""Which configuration a command line asks for: the last word must be the one that is typed last."""

import argparse

from nopsd.commands.command import add_config_arguments, add_redo_argument, load, stage_name


def parsed(*argv):
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    add_redo_argument(parser)
    return parser.parse_args(argv)


def test_overrides_come_on_top_of_the_preset_and_a_commands_own_on_top_of_both():
    config = load(parsed("--preset", "lab", "train.steps=7", "train.lr=0.5"), "train.lr=0.25")
    assert (config.train.steps, config.train.lr) == (7, 0.25)


def test_a_preset_may_be_typed_as_a_setting_and_the_last_one_counts(tmp_path):
    """`preset=` among the settings is what people type; it is no key of the configuration."""
    (tmp_path / "own.yaml").write_text("base: lab\ntrain:\n  steps: 9\n")
    assert load(parsed("preset=paper/biology", f"preset={tmp_path / 'own.yaml'}")).train.steps == 9
    assert load(parsed("--config", str(tmp_path / "own.yaml"), "--preset", "lab")).train.steps == 9


def test_a_stage_is_known_by_its_other_name():
    assert [stage_name(name) for name in ("score", "neurons", None)] == ["neurons", "neurons", None]
