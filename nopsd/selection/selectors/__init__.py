"""Which questions are trained on: one interface for ours and users' own.

from nopsd.selection.selectors import selector      # the decorator that makes one of a function
"""

from nopsd.selection.selectors.base import Clustered, Pool, Selector, selector
from nopsd.selection.selectors.choosing import Selection, budget, select
from nopsd.selection.selectors.registry import GROUP, SELECTORS, find_selector

__all__ = [
    "GROUP",
    "SELECTORS",
    "Clustered",
    "Pool",
    "Selection",
    "Selector",
    "budget",
    "find_selector",
    "select",
    "selector",
]
