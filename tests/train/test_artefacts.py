"""What is said of a training that a guard ended: silent, the last healthy weights would pass for the trained ones."""

from nopsd.train.artefacts import choice_note, shows_labels, stop_note


def test_a_stop_names_its_step_its_reason_and_the_weights_kept():
    said = stop_note({"steps": 30, "stopped": {"step": 42, "reason": "entropy fell"}}, 100)
    assert said == (
        "Training was stopped after 42 of 100 steps: entropy fell. The model is the checkpoint of step 30, from before."
    )


def test_a_whole_training_and_none_at_all_need_no_word():
    assert stop_note({"steps": 100, "stopped": None}, 100) == "" == stop_note({}, 100)


def test_a_step_chosen_while_labels_were_shown_is_no_fair_result():
    """Broken if the best of many test scores is reported as the one result, or an honest choice is accused."""
    record = {"steps": 50, "chosen": "50"}
    judged, unjudged = [{"step": 24, "eval/bio/avg": 0.5}], [{"step": 24, "eval/held_out/vote_share": 0.5}]
    assert "possibly chosen by labels" in choice_note(record, shows_labels(judged))
    assert choice_note(record, shows_labels(unjudged)) == "" == choice_note({"steps": 50}, True)
    assert (
        choice_note({"steps": 50, "chosen": "last"}, True) == "" == choice_note({"steps": 50, "chosen": "best"}, True)
    )
