"""What is said of a training that a guard ended: silent, the last healthy weights would pass for the trained ones."""

from nopsd.train.artefacts import stop_note


def test_a_stop_names_its_step_its_reason_and_the_weights_kept():
    said = stop_note({"steps": 30, "stopped": {"step": 42, "reason": "entropy fell"}}, 100)
    assert said == (
        "Training was stopped after 42 of 100 steps: entropy fell. The model is the checkpoint of step 30, from before."
    )


def test_a_whole_training_and_none_at_all_need_no_word():
    assert stop_note({"steps": 100, "stopped": None}, 100) == "" == stop_note({}, 100)
