"""A run's TensorBoard besides its curves: broken if a tab is empty, or shows a key or another run's numbers."""

from dataclasses import replace

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nopsd.config import Config, to_plain
from nopsd.reporting.board import final_metrics, settings, write_run_board
from nopsd.reporting.examples import Example
from nopsd.reporting.views import DemoView, ReportInputs


def inputs_of(make_result, make_pool):
    config = to_plain(Config())
    config["server"]["api_key"] = "sk-secret"
    shown = [Example("fixed", "q", "What?", "A", ("B", "A"), "<b>it is B</b>", "it is A")]
    pool = make_pool()
    return ReportInputs(
        "t",
        "bio",
        before={"bio": make_result("bio", 0.5, 0)},
        after={"bio": make_result("bio", 0.9, 1)},
        pool=replace(pool, members=np.full((len(pool.counts), 2), 3), widths=[8, 8]),
        demos=DemoView([[0.1, 0.2]]),
        config=config,
        examples=shown,
    )


def test_every_tab_has_what_it_is_for(tmp_path, make_result, make_pool):
    inputs = inputs_of(make_result, make_pool)
    for _ in range(2):  # a report that is made again leaves one board
        write_run_board(tmp_path / "board", inputs, {"student": "Answer: What?", "teacher": "So did others. What?"})
    assert len(list((tmp_path / "board").iterdir())) == 1
    board = EventAccumulator(str(tmp_path / "board"), size_guidance={"histograms": 0, "images": 0, "tensors": 0})
    board.Reload()
    tags = board.Tags()
    assert {"pool/neuron_count", "pool/length", "pool/demonstration_distance"} == set(tags["histograms"])
    assert {"figures/reliability", "figures/accuracy", "figures/selection", "figures/layers"} == set(tags["images"])
    texts = {tag.removesuffix("/text_summary") for tag in tags["tensors"]}
    assert {"prompts/student", "prompts/teacher", "examples/0_fixed"} <= texts
    shown = board.Tensors("examples/0_fixed/text_summary")[0].tensor_proto.string_val[0].decode()
    assert shown.count("```") == 6 and "it is A" in shown
    assert board.Scalars("final/bio/avg")[0].value > 0.8
    assert "_hparams_/experiment" in board.summary_metadata


def test_settings_hold_no_key_and_metrics_are_the_trained_models(make_result, make_pool):
    inputs = inputs_of(make_result, make_pool)
    found = settings(inputs)
    assert (
        list(found)[:2] == ["context.retriever", "method"]
        and "sk-secret" not in repr(found)
        and found["train.steps"] == 150
        and found["train.lr"] == 1e-6
    )
    assert final_metrics(inputs)["final/bio/maj"] == inputs.after["bio"].metrics["maj"]
