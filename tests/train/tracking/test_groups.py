"""Metrics by group: broken if people look at empty curves first, or a number is shown nowhere."""

from nopsd.train.tracking.groups import ORDER, Shown, layout, shown_as


def test_every_metric_of_the_docs_has_a_group_of_the_order():
    """The docs list every metric (tests/test_docs.py): none may fall out of the groups."""
    import re
    from pathlib import Path

    text = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text().split("## Training")[1]
    names = [n for row in re.findall(r"^\| (`.*?) \|", text, re.M) for n in re.findall(r"`([\w/]+)`", row)]
    assert len(names) > 40
    for name in names:
        tag = shown_as(name)
        assert tag is None or tag.split("/")[0] in ORDER, name
    assert shown_as("loss") == "loss/loss" and shown_as("time/sync") == "speed/sync"
    assert (
        shown_as("eval/bio/avg") == "eval/bio/avg" and shown_as("probe/majority_share") == "eval/probe_majority_share"
    )


def test_what_is_off_is_not_shown_until_it_is_not_0():
    """TensorBoard opened with empty curves of clip_frac and context/fills."""
    shown = Shown()
    row = {
        "step": 0,
        "loss": 0.0,
        "clip_frac": 0.0,
        "context/fills": 3,
        "policy_version": 0,
        "guard/min_length_ratio": 0,
    }
    assert shown(row) == {"loss/loss": 0.0}
    assert shown({"clip_frac": 0.5, "loss": None}) == {"health/clip_frac": 0.5}
    assert shown({"clip_frac": 0.0}) == {"health/clip_frac": 0.0}  # from there on it is a curve


def test_shares_that_are_0_and_demonstrations_that_all_fit_are_no_curves():
    shown = Shown()
    whole = {"demos_kept_mean": 4.0, "demos_offered_mean": 4.0, "eval/bio/unparsed": 0.0, "probe/unparsed_share": 0.0}
    assert shown(whole) == {}
    cut = {"demos_kept_mean": 3.5, "demos_offered_mean": 4.0, "eval/bio/unparsed": 0.1}
    assert len(shown(cut)) == 3 and len(shown(whole)) == 3  # from there on they are curves


def test_the_layout_names_tags_that_there_are_in_the_order_people_look():
    charts = layout()
    assert list(charts) == [group for group in ORDER if group in charts]
    for group in charts.values():
        for kind, tags in group.values():
            assert kind == "Multiline" and all(tag.split("/")[0] in ORDER for tag in tags)


def test_the_speed_is_that_of_the_whole_step():
    row = {"loss_tokens": 300, "time/rollout": 2.0, "time/student": 1.0}
    assert Shown()(row) | {"speed/tokens_per_second": 100.0, "speed/rollout_share": 2 / 3} == Shown()(row)
    assert not any("tokens_per" in tag for tag in Shown()({"loss": 1.0, "time/rollout": 0.0, "loss_tokens": 3}))
