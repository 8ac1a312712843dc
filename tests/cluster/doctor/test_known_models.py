"""The table of sizes against the models' own configurations: else `nopsd init` proposes what does not fit."""

from pathlib import Path

import pytest

import nopsd
from nopsd.cluster.doctor.known_models import SHAPES
from nopsd.cluster.doctor.memory import shape_of
from nopsd.config import load_config

MODELS = Path(nopsd.__file__).parent / "cluster" / "doctor" / "published" / "Qwen"


@pytest.mark.parametrize("preset", SHAPES)
def test_sizes_are_those_of_the_models_config(preset):
    assert SHAPES[preset] == shape_of(str(MODELS / load_config(preset).model.path.split("/")[1]))
