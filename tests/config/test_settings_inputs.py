"""Settings as people mistype them: broken if one is a traceback, is accepted as something else, or isn't named."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from nopsd.config import load_config
from nopsd.config.rules import value_of
from nopsd.errors import ConfigError
from tests.config.settings_inputs import REFUSED, settings_inputs

INPUTS = list(settings_inputs())


def wrong(name: str, text: str, expected: Any) -> str | None:
    """What is wrong with what came of an input; None if nothing is."""
    try:
        value = value_of(load_config("lab", [f"{name}={text}"]), name)
    except ConfigError as error:
        said = str(error)
        if expected is not REFUSED:
            return f"refused: {said}"
        return None if name.split(".")[-1] in said and "\n" not in said else f"the key is not named in one line: {said}"
    except Exception as error:  # noqa: BLE001 - what must not happen
        return f"a traceback: {error!r}"
    return f"accepted as {value!r}" if expected is REFUSED or value != expected else None


def check(inputs: list[tuple[str, str, Any]]) -> None:
    found = [(name, text, why) for name, text, expected in inputs if (why := wrong(name, text, expected))]
    assert not found, found[:10]


def test_a_hundred_of_them() -> None:
    check(Random(0).sample(INPUTS, 100))


@pytest.mark.soak
def test_all_of_them() -> None:
    assert len(INPUTS) > 2000
    check(INPUTS)
