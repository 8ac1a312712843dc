"""The server's side of a weight sync."""

from __future__ import annotations

import pytest

from nopsd.rollout.vllm_plugin import refuse_missing


def test_parameters_left_unset_are_an_error() -> None:
    refuse_missing({"a"}, {"a", "b"}, "it")
    with pytest.raises(RuntimeError, match="it left 1 parameters .*'b'"):
        refuse_missing({"a", "b"}, {"a"}, "it")
