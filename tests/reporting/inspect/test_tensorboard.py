"""The TensorBoard of `nopsd inspect`: all its figures, and none of an earlier call."""

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nopsd.reporting.figures.style import png
from nopsd.reporting.inspect import figures as drawn
from nopsd.reporting.inspect.tensorboard import write_board
from nopsd.reporting.inspect.view import correlation_rows


def test_tensorboard_has_images_histograms_and_text(view, tmp_path):
    """A board without the figures or with an earlier call's would show nothing, or the wrong run."""
    rows = correlation_rows(view)
    figures = {"counts": drawn.counts_figure(view), "map": drawn.map_figure(view)}
    for _ in range(2):
        write_board(tmp_path / "tb", view, rows, {name: png(figure) for name, figure in figures.items()})
    assert len(list((tmp_path / "tb").iterdir())) == 1
    board = EventAccumulator(str(tmp_path / "tb"), size_guidance={"histograms": 0, "images": 0, "tensors": 0})
    board.Reload()
    tags = board.Tags()
    assert tags["images"] == ["inspect/counts", "inspect/map"]
    image = board.Images("inspect/counts")[0]
    height, width = np.array(figures["counts"].get_size_inches() * figures["counts"].dpi, int)[::-1]
    assert (image.height, image.width) == (height, width)
    assert {"inspect/neuron_count", "inspect/length", "inspect/jaccard", "inspect/majority_conf", "layer/002"} <= set(
        tags["histograms"]
    )
    assert board.Histograms("inspect/neuron_count")[0].histogram_value.num == 30
    assert any("neighbours/q04" in tag for tag in tags["tensors"])
    assert not any(tag.startswith("labels") for kind in ("images", "histograms") for tag in tags[kind])
