"""Comparisons' plans, as the tests of nopsd.reporting.compare make them."""

from tests.reporting.compare.conftest import plan_of

__all__ = ["plan_of"]
