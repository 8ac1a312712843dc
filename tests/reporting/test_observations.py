"""nopsd.reporting.observations: what a reader must not miss stands in the report, and nothing else."""

from nopsd.reporting.observations import observations
from nopsd.reporting.views import ReportInputs


def test_what_went_wrong_is_reported(make_result, make_training, make_pool):
    """Breaks if a fall in accuracy or calibration, or a loss that is lost, goes unsaid, or is said of a healthy run."""
    good, bad = make_result("bio", 0.9, 0, 200), make_result("bio", 0.3, 1, 200)
    said = " ".join(
        observations(
            ReportInputs(
                "x",
                "bio",
                make_training(5, entropy_gap=0.01, loss=None),
                {"bio": good},
                {"bio": bad},
                make_pool(lengths=make_pool().counts * 2),
            )
        )
    )
    for word in (
        "accuracy fell",
        "calibration got worse",
        "not more certain",
        "number in 5 of 5",
        "length go together",
    ):
        assert word in said
    assert observations(ReportInputs("x", "bio", make_training(5), {"bio": bad}, {"bio": good}, make_pool())) == []


def test_a_guards_count_is_reported_with_its_first_step_and_longest_streak(make_training):
    """Broken if a collapse's signs are in the log alone, or a probe's count, which stands between probes, adds up."""
    rows = [
        dict(row, **{"guard/max_repeated": n, "guard/min_entropy": 0, "guard/max_unparsed": p})
        for row, n, p in zip(make_training(7), (0, 1, 0, 1, 2, 3, 0), (0, 0, 1, 1, 1, 2, 2))
    ]
    said = observations(ReportInputs("x", training=rows))
    assert len(said) == 2
    assert said[0].startswith("guard.max_repeated was passed 4 times in 7 steps, first at step 1, 3 in a row at most")
    assert said[1].startswith("guard.max_unparsed was passed 2 times in 7 steps, first at step 2, 2 in a row at most")
