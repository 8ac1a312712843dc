"""MLPs without a gate."""

import numpy as np

from tests.neurons.adapters.scores import all_scores


def test_a_plain_mlps_gated_value_is_its_act_fn_value(build_family):
    model = build_family("gpt_neox")
    assert all(np.array_equal(a, b) for a, b in zip(all_scores(model, "gated"), all_scores(model, "act_fn")))
