"""The selectors by name. In: a config. Out: the `Selector` it names, ours or a user's."""

from __future__ import annotations

from nopsd.config import ENTRY_POINTS, SelectConfig
from nopsd.plugins import resolve
from nopsd.selection.selectors import columns
from nopsd.selection.selectors.base import Selector
from nopsd.selection.selectors.dual_neufs import dual_neufs
from nopsd.selection.selectors.facility_location import facility_location
from nopsd.selection.selectors.kcenter import kcenter
from nopsd.selection.selectors.neuron_density import neuron_density
from nopsd.selection.selectors.stratified import stratified

GROUP = ENTRY_POINTS["select.selector"]  # of entry points
SELECTORS = {
    s.name: s
    for s in (
        columns.neuron_count,
        columns.neuron_count_top,
        columns.random_draw,
        columns.majority_conf,
        columns.token_entropy,
        columns.self_certainty,
        columns.seq_nll,
        columns.length,
        columns.nad_agreement,
        dual_neufs,
        neuron_density,
        columns.nait,
        columns.belief_shift,
        columns.teacher_shift,
        columns.representation_shift,
        columns.learnability,
        kcenter,
        facility_location,
        stratified,
        columns.everything,
    )
}


def find_selector(config: SelectConfig) -> Selector:
    """The selector of select.selector; ConfigError if there is none or its module can't be imported."""
    return resolve("select.selector", config.selector, SELECTORS, GROUP, Selector)
