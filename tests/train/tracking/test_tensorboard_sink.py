"""TensorBoard's files read back: histograms by token and responses as text, of some steps alone."""

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nopsd.rollout.types import Rollout
from nopsd.traces.schema import COUNTED, StepTrace
from nopsd.traces.writer import TraceWriter
from nopsd.train.metrics_log import MetricsLog
from nopsd.train.tracking.tensorboard_sink import EVERY, TensorBoard, as_code, response_texts

HOSTILE = "# big\n<script>alert(1)</script>\x1b[31m [x](http://evil)\n\n***bold***"


def trace(step):
    rollouts = [
        Rollout("a", 0, [], [1, 2], "short", "stop", step),
        Rollout("b", 0, [], [3, 4, 5], HOSTILE, "length", step),
    ]
    kl = np.array([0.1, np.nan, 0.5, 0.5, 2.0], np.float32)
    return StepTrace(step, rollouts, {"reverse_kl": kl, COUNTED: np.array([1, 0, 1, 1, 1], bool)})


def test_every_tenth_step_is_shown_through_the_traces_own_thread(tmp_path):
    """Broken if a long run fills the disk with histograms, or the responses never arrive."""
    log = MetricsLog(tmp_path, 0, [TensorBoard(tmp_path, 0)])
    writer = TraceWriter(tmp_path / "trace", 1, 1 << 20)
    writer.also = log.responses
    for step in range(2 * EVERY + 1):
        writer.add(trace(step))
    writer.close()
    log.close()
    board = EventAccumulator(str(tmp_path / "tb"), size_guidance={"histograms": 0, "tensors": 0})
    board.Reload()
    shown = board.Histograms("teacher_student/kl_by_token")
    assert [event.step for event in shown] == [0, EVERY, 2 * EVERY]
    assert shown[0].histogram_value.num == 4 and abs(shown[0].histogram_value.max - 2.0) < 1e-6
    texts = [t for t in board.Tags()["tensors"] if t.startswith("responses/")]
    assert sorted(texts) == ["responses/first/text_summary", "responses/highest_kl/text_summary"]
    assert b"KL 1.000 nats a token" in board.Tensors(texts[1])[0].tensor_proto.string_val[0]


def test_a_models_text_is_shown_as_it_is():
    """Every line of an indented block is shown literally: no markup, no link, no control character."""
    shown = response_texts(trace(0))["responses/highest_kl"]
    head, _, body = shown.partition("\n\n")
    assert head.startswith("b, 3 tokens, length") and all(line.startswith("    ") for line in body.split("\n"))
    assert "\x1b" not in as_code(HOSTILE) and "<script>" in body


def test_a_board_that_fails_ends_neither_trace_nor_training(tmp_path):
    class Full:
        def scalars(self, step, values):
            pass

        def responses(self, trace):
            raise OSError("disk full")

        def close(self):
            pass

    log = MetricsLog(tmp_path, 0, [Full()])
    writer = TraceWriter(tmp_path / "trace", 1, 1 << 20)
    writer.also = log.responses
    for step in range(3):
        writer.add(trace(step))
        writer.flush()
    writer.close()
    log.log(3, {"loss": 1.0})
    assert len(list((tmp_path / "trace").glob("step-*"))) == 3
