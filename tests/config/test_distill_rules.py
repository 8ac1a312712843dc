"""Objectives that contradict themselves are refused by the key's name, before anything is loaded."""

from __future__ import annotations

import pytest

from nopsd.config import Config, DistillConfig, validate
from nopsd.config.distill_rules import check_distill
from nopsd.errors import ConfigError


def name_of(keys: dict) -> str:
    return "-".join(str(value) for value in keys.values()) or "full"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"support": "topk", "tail": "none"}, "biased"),
        ({"support": "topk", "tail": "none", "divergence": "jsd", "beta": 1.0}, "biased"),
        ({"support": "topk", "tail": "stopgrad", "divergence": "jsd"}, "form of the reverse KL"),
        ({"divergence": "sampled_rkl", "support": "topk"}, "support=topk has no meaning"),
        ({"divergence": "sampled_rkl", "token_clip": 1.0}, "token_clip"),
        ({"pointwise_clip": 0.0}, "pointwise_clip=0"),
        ({"is_clip": 2.0, "temperature": 1.1}, "temperature=1"),
        ({"contrast": "random"}, "random_ctx"),
        ({"contrast": "random_ctx", "target": "pmi"}, "each define the target"),
    ],
)
def test_objectives_that_cannot_be_meant_are_refused_by_name(keys, message):
    with pytest.raises(ConfigError, match=message):
        validate(Config(distill=DistillConfig(**keys)))


@pytest.mark.parametrize("keys", [{"kl_base_coef": 0.1}, {"target": "pmi"}], ids=name_of)
def test_the_base_needs_a_teacher_that_stays_the_base(keys):
    config = Config(distill=DistillConfig(**keys))
    check_distill(config)
    config.teacher.kind = "ema"
    with pytest.raises(ConfigError, match="teacher.kind=frozen"):
        check_distill(config)
