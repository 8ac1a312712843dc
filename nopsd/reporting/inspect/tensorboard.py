"""What `nopsd inspect` shows, for TensorBoard: the figures as images, the columns as histograms, the text.

In: `InspectView` and its figures as PNGs. Out: event files in the folder, those of an earlier call removed.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from nopsd.evaluation.metrics import Array
from nopsd.reporting.inspect.report import correlation_table, neighbour_text, overlap_text
from nopsd.reporting.inspect.view import InspectView, Row


def write_board(folder: Path, view: InspectView, rows: Sequence[Row], images: Mapping[str, bytes]) -> None:
    """Write images `inspect/NAME`, histograms `inspect/COLUMN` and `layer/L`, texts.

    Args:
        folder: For the event file; what is there is removed.
        view: What is shown.
        rows: Of the table of correlations.
        images: PNGs by name.
    """
    # Here and not above: the import takes seconds.
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    board = SummaryWriter(str(folder))
    for name, png in images.items():
        board.add_image(f"inspect/{name}", pixels(png), dataformats="HWC")
    for name, values in columns(view).items():
        board.add_histogram(name, values, bins=40)
    board.add_text("inspect/correlations", correlation_table(rows))
    board.add_text("inspect/overlap", overlap_text(view))
    for shown in view.neighbourhoods:
        board.add_text(f"neighbours/{view.texts[shown.row].uid}", neighbour_text(view, shown))
    board.close()


def pixels(png: bytes) -> np.ndarray:
    """A PNG's colours, float [height, width, 3] in 0 to 1."""
    return np.asarray(imread(io.BytesIO(png)))[:, :, :3]


def columns(view: InspectView) -> dict[str, Array]:
    """What is shown as histograms; columns without a value are left out."""
    named = {"inspect/neuron_count": view.counts, "inspect/length": view.lengths}
    named |= {f"inspect/{name}": values for name, values in view.signals.items()}
    if view.overlap is not None:
        named["inspect/jaccard"] = view.overlap.pairs
    if view.correct is not None:
        named["labels/accuracy"] = view.correct
    named |= {f"layer/{layer:03d}": view.members[:, layer] for layer in range(view.members.shape[1])}
    finite = {name: np.asarray(v, dtype=float)[np.isfinite(v)] for name, v in named.items()}
    return {name: values for name, values in finite.items() if len(values)}
