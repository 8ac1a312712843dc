"""A watch hears of every layer once a pass, or says which it missed."""

import pytest

from nopsd.errors import UserError
from nopsd.neurons.adapters import find_sites, watch
from tests.neurons.adapters.scores import all_scores


@pytest.mark.parametrize("family, value", [("qwen3", "act_fn"), ("qwen3", "gated"), ("gpt_neox", "act_fn")])
def test_a_fused_mlp_that_bypasses_its_projections_is_refused(build_family, family, value):
    """Else its layer's neurons would silently be missing from all sets."""
    model = build_family(family)
    (model.model if family == "qwen3" else model.gpt_neox).layers[1].mlp.forward = lambda x: x * 0.5
    with pytest.raises(UserError, match="layer 1 .* seen 0 times instead of once.*fused"):
        all_scores(model, value)


def test_a_watch_without_a_forward_pass_is_an_error(build_family):
    """A pass through another module (a compiled copy, say) would otherwise give empty sets."""
    with pytest.raises(UserError, match="no forward pass went through layer 0"):
        with watch(find_sites(build_family("qwen3")), "act_fn", lambda activity: None):
            pass
