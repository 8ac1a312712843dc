"""How a comparison's targets are laid out."""

from nopsd.reporting.compare.results import (
    ALL,
    SCIENCE,
)
from nopsd.reporting.compare.views import layout_for


def test_layouts():
    assert layout_for(["biology", "numbers"]).domains == ("biology", "numbers")
    paper = layout_for(["mmlu_pro", "Chemistry", "Biology"])
    assert (paper.science, paper.others) == (("Biology", "Chemistry"), ("mmlu_pro",))
    assert ALL != SCIENCE
