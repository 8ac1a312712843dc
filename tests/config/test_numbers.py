"""Every key that takes a number refuses what it can't mean when the configuration is loaded, not hours later."""

import math

import pytest

from nopsd.config import all_keys, load_config
from nopsd.errors import ConfigError

NUMBERS = {key.name: key for key in all_keys() if key.is_number}
MAY_BE_NEGATIVE = {f"{section}.top_k" for section in ("zero_shot", "train", "eval")} | {"opsa.high", "opsa.low"}
# Each 0 means something: off, greedy, never, no limit, a free port, a seed, as many as GPUs.
MAY_BE_0 = MAY_BE_NEGATIVE | set(
    """seed data.seed data.first_index
    server.seed select.seed context.seed train.seed eval.seed server.port server.stall_timeout_s
    zero_shot.temperature train.temperature eval.temperature context.m train.ahead train.lr train.warmup
    train.warmup_ratio train.weight_decay train.betas train.clip train.lora.r train.lora.dropout train.mlp_tile
    train.keep_best train.probe_every train.sync_check_every train.sync_tolerance distill.beta distill.kl_base_coef
    distill.skip_first_tokens teacher.context_mib sft.min_share sft.per_question grpo.clip grpo.kl_coef grpo.epsilon
    rollout.servers_per_host
    guard.min_length_ratio guard.min_entropy guard.max_repeated guard.max_unparsed guard.max_kl_base eval.bootstrap
    dist.ranks dist.heartbeat_s data.holdout eval.every answer.tolerance select.redundancy context.mmr_lambda
    uopsd.tau ttpo.coef train.retain.share
    train.neurons.share train.neurons.seed""".split()
)
AT_MOST_1 = set(
    """data.test_ratio data.first_index
    zero_shot.top_p train.top_p eval.top_p server.gpu_memory_utilization select.fraction select.tau
    train.ahead train.warmup_ratio train.betas train.lora.dropout distill.beta distill.barycenter_alpha teacher.rate
    teacher.mix sft.min_share guard.max_repeated guard.max_unparsed answer.tolerance select.redundancy
    context.mmr_lambda opsa.fraction uopsd.tau ttpo.quantile train.retain.share
    train.neurons.share rollout.partial""".split()
)


def takes(key, value):
    try:
        key.check([value] * key.size if key.size else value)
    except ConfigError as error:
        assert key.name in str(error) and len(str(error).splitlines()) == 1
        return False
    return True


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_outside_of_what_a_key_means_is_refused(name):
    key = NUMBERS[name]
    tiny = 1 if key.type.startswith("int") else 1e-9
    expected = {
        -(2**60): False,
        -1: name in MAY_BE_NEGATIVE,
        -tiny: name in MAY_BE_NEGATIVE,
        0: name in MAY_BE_0,
        1 + tiny: name not in AT_MOST_1,
        2**60: False,
        **({} if key.type.startswith("int") else {math.nan: False, math.inf: False, -math.inf: False, 1e300: False}),
    }
    assert {value: takes(key, value) for value in expected} == expected


@pytest.mark.parametrize("text", ["nan", ".inf", "-1e400", "1:30", "true", "0x", "1,5", "9" * 5000, "[]", "one"])
def test_what_is_no_number_is_refused_by_its_key(text):
    """YAML's own reading made 90 of 1:30, and 1 of true."""
    for name, key in NUMBERS.items():
        shown = f"[{text}, {text}]" if key.size and text != "[]" else text
        with pytest.raises(ConfigError, match=name):
            load_config(None, [f"{name}={shown}"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.temperature=-1", "at least 0"),
        ("eval.top_p=2", "above 0 and at most 1"),
        ("data.pool_limit=-1", "at least 1, or null"),
        ("train.lr=nan", "at least 0"),
        ("train.betas=[0.9]", "must be 2 numbers, got 1"),
        ("train.betas=[0.9, 1]", "below 1"),
        ("train.betas=0.9", "must be a list"),
        ("train.betas=[[0.9], 0.999]", "must be a number"),
        ("distill.max_loss_tokens=0", "at least 1, or null"),
        ("train.steps=3.7", "must be a whole number"),
        ("train.steps=null", "must be a whole number"),
        ("server.port=65536", "at most 65535"),
        ("dist.threads=1e9", "at most 4096"),
        ("server.startup_timeout_s=1e12", "at most 1000000000"),
        ("eval.ece_bins=1e9", "at most 10000"),
        ("eval.bootstrap=1e9", "at most 1000000"),
    ],
)
def test_a_setting_that_was_accepted_is_refused(setting, words):
    with pytest.raises(ConfigError, match=words):
        load_config("lab", [setting])


def test_what_is_defined_is_accepted():
    """beta=0 of jsd is the forward KL; 0100 is a hundred, in no other base."""
    assert load_config("lab", ["distill.divergence=jsd", "distill.beta=0"]).distill.beta == 0
    assert load_config("lab", ["train.steps=0100"]).train.steps == 100
    assert load_config("lab", ["train.steps=1e3", "train.lr=1e-6"]).train.steps == 1000
