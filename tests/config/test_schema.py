"""The description of every key: what a user reads of it, and what is refused, must be what the code does."""

import dataclasses
import math

import pytest

from nopsd.config import RUNTIME_ONLY, Config, all_keys, load_config, shaping, shaping_keys, to_plain, validate
from nopsd.errors import ConfigError
from nopsd.files import flatten

KEYS = {key.name: key for key in all_keys()}

CONTRASTS = (None, "random_ctx", "other_domain", "at_odds")


def with_value(name, value):
    """A default configuration with one key set."""
    config = Config()
    *sections, last = name.split(".")
    node = config
    for section in sections:
        node = getattr(node, section)
    setattr(node, last, value)
    return config


def test_every_field_is_described():
    """A field without its description would be in the configuration and in no page of it."""
    assert set(KEYS) == set(flatten(to_plain(Config())))
    for key in KEYS.values():
        assert key.help and key.source, key.name


def test_a_default_is_a_value_that_the_key_takes():
    for name, value in flatten(to_plain(Config())).items():
        KEYS[name].check(value)
        assert KEYS[name].default in (value, "${seed}"), name


def test_a_description_is_complete():
    """What docs are written from: type, null, default, choices, source and help."""
    lr, contrast, seed = KEYS["train.lr"], KEYS["distill.contrast"], KEYS["train.seed"]
    assert (lr.type, lr.default, lr.bounds, lr.optional) == ("float", 1e-6, "at least 0", False)
    assert lr.source.startswith("chosen: DemoPSD")
    assert (contrast.type, contrast.choices, contrast.optional) == ("str or null", CONTRASTS, True)
    assert (seed.type, seed.default, seed.follows) == ("int", "${seed}", "seed")
    assert KEYS["train.betas"].type == "list[float]"


@pytest.mark.parametrize("name", [key.name for key in KEYS.values() if key.bounds])
def test_bounds_are_enforced(name):
    """Both sides of each bound: a bound that is stated and not checked lets a run start that can't be meant."""
    key = KEYS[name]
    step = 1 if key.type.startswith("int") else 1e-6
    wrong = [key.ge - step, key.gt, key.le + step, key.lt]
    for value in [value for value in wrong if math.isfinite(value)] + ([] if step == 1 else [math.nan]):
        with pytest.raises(ConfigError, match=f"{name}=.*{key.bounds}"):
            validate(with_value(name, [value] * key.size if key.size else value))
    for value in [value for value in (key.ge, key.le) if math.isfinite(value)]:
        key.check([value] * key.size if key.size else value)


@pytest.mark.parametrize("name", [key.name for key in KEYS.values() if key.choices])
def test_choices_are_enforced(name):
    """A wrong word is answered with the nearest right one."""
    known = [choice for choice in KEYS[name].choices if choice]
    with pytest.raises(ConfigError, match=f"{name}={known[0]}x: use one of .*did you mean"):
        validate(with_value(name, f"{known[0]}x"))
    for choice in KEYS[name].choices:
        KEYS[name].check(choice)


def test_null_is_taken_where_the_type_says_so():
    assert load_config("lab", ["distill.is_clip=null", "train.micro_tokens=null"]).distill.is_clip is None
    with pytest.raises(ConfigError, match="distill.is_clip=0.0: must be above 0, or null"):
        load_config("lab", ["distill.is_clip=0"])
    with pytest.raises(ConfigError, match="train.lr"):
        load_config("lab", ["train.lr=null"])


def test_own_code_is_taken_where_a_key_takes_it():
    assert load_config("lab", ["select.selector=mine:Selector"]).select.selector == "mine:Selector"
    with pytest.raises(ConfigError, match="teacher.kind"):
        load_config("lab", ["teacher.kind=mine:Teacher"])


def test_results_depend_on_every_key_that_is_not_runtime_only():
    """A runtime-only key among the others would make a run start anew for a change that changes nothing."""
    config = Config()
    for section in ("train", "distill", "teacher"):
        names = {field.name for field in dataclasses.fields(getattr(config, section))}
        left = {key.split(".")[1] for key in RUNTIME_ONLY if key.startswith(f"{section}.")}
        assert left and set(shaping(config, section)) == names - left
        assert shaping_keys(section) == tuple(f"{section}.{name}" for name in shaping(config, section))
    assert shaping(config, "grpo") == to_plain(config.grpo)
