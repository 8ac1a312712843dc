"""The selectors by name (SPEC §4). In: a config. Out: the `Selector` it names, ours or a user's."""

from __future__ import annotations

from nopsd.config import ENTRY_POINTS, SelectConfig
from nopsd.plugins import resolve
from nopsd.selection.selectors.all import everything
from nopsd.selection.selectors.base import Selector
from nopsd.selection.selectors.belief_shift import belief_shift
from nopsd.selection.selectors.dual_neufs import dual_neufs
from nopsd.selection.selectors.length import length
from nopsd.selection.selectors.majority_conf import majority_conf
from nopsd.selection.selectors.nad_agreement import nad_agreement
from nopsd.selection.selectors.nait import nait
from nopsd.selection.selectors.neuron_count import neuron_count, neuron_count_top
from nopsd.selection.selectors.neuron_density import neuron_density
from nopsd.selection.selectors.random import random_draw
from nopsd.selection.selectors.self_certainty import self_certainty
from nopsd.selection.selectors.seq_nll import seq_nll
from nopsd.selection.selectors.token_entropy import token_entropy

GROUP = ENTRY_POINTS["select.selector"]  # of entry points
SELECTORS = {
    s.name: s
    for s in (
        neuron_count,
        neuron_count_top,
        random_draw,
        majority_conf,
        token_entropy,
        self_certainty,
        seq_nll,
        length,
        nad_agreement,
        dual_neufs,
        neuron_density,
        nait,
        belief_shift,
        everything,
    )
}


def find_selector(config: SelectConfig) -> Selector:
    """The selector of select.selector; ConfigError if there is none or its module can't be imported."""
    return resolve("select.selector", config.selector, SELECTORS, GROUP, Selector)
