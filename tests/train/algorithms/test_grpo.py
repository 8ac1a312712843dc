"""What GRPO refuses before any engine is started."""

from __future__ import annotations

import pytest

from nopsd.errors import ConfigError


def test_keys_that_make_no_group_or_another_policys_ratio_are_refused():
    """train.n=1 has no group; at another temperature the server's log-probs are not of the policy that sampled."""
    from nopsd.config import Config
    from nopsd.train.algorithms.grpo import check_config

    config = Config()
    for key, value in (("n", 1), ("temperature", 0.7)):
        config.train.n, config.train.temperature = 8, 1.0
        check_config(config)
        setattr(config.train, key, value)
        with pytest.raises(ConfigError, match=f"train.{key}"):
            check_config(config)
