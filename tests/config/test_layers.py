"""Which layers a text means: a wrong one would score other neurons than the user asked for."""

import pytest

from nopsd.config import load_config
from nopsd.config.layers import chosen_layers
from nopsd.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", (0, 1, 2, 3, 4, 5)),
        ("2-4", (2, 3, 4)),
        ("5", (5,)),
        ("every 2", (0, 2, 4)),
        ("every 9", (0,)),
        ("4-5, 0, 4", (0, 4, 5)),
    ],
)
def test_layers_of_a_model_of_six(text, layers):
    assert chosen_layers(text, 6) == layers


@pytest.mark.parametrize("text", ["", "4-2", "every 0", "-1", "1:3", "last", "1,,2"])
def test_what_cannot_be_read_is_refused_when_the_configuration_is_loaded(text):
    with pytest.raises(ConfigError, match="^(command line: )?neuron.layers="):
        load_config("lab", [f'neuron.layers="{text}"'])


def test_a_layer_that_the_model_lacks_is_refused():
    with pytest.raises(ConfigError, match="neuron.layers=3-6: the model has the layers 0-5"):
        chosen_layers("3-6", 6)
