"""What a finished run shows in TensorBoard besides its curves: prompts and examples as text, the pool as histograms,
the report's figures as images, and the settings with the final metrics for the HParams tab.

In: `ReportInputs` and prompts as text. Out: event files in one folder, those of an earlier report removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nopsd.files import flatten
from nopsd.keys import redacted
from nopsd.reporting.escaping import code_block
from nopsd.reporting.figures import pool as pool_figures
from nopsd.reporting.figures import style
from nopsd.reporting.figures.evaluation import accuracy_figure, calibration_figure
from nopsd.reporting.inspect.figures import layers_figure
from nopsd.reporting.inspect.tensorboard import pixels
from nopsd.reporting.views import ReportInputs

FIRST = ("method", "train.lr", "select.selector", "context.retriever", "teacher.kind")  # settings of the HParams tab
METRICS = ("avg", "maj", "ece", "mean_length", "unparsed")  # of the HParams tab


def write_run_board(folder: Path, inputs: ReportInputs, prompts: Mapping[str, str]) -> None:
    """Write the events.

    Args:
        folder: Theirs alone.
        inputs: As the report's.
        prompts: Name -> text: the student's and the teacher's prompt of one question.
    """
    # Here and not above: the import takes seconds.
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    shutil.rmtree(folder, ignore_errors=True)
    board: Any = SummaryWriter(str(folder))
    for name, text in texts(inputs, prompts).items():
        board.add_text(name, text)
    for name, values in histograms(inputs).items():
        board.add_histogram(name, values, bins=40)
    for name, figure in figures(inputs).items():
        board.add_image(f"figures/{name}", pixels(style.png(figure)), dataformats="HWC")
    metrics = final_metrics(inputs)
    for event in hparams(settings(inputs), metrics):
        board.file_writer.add_summary(event)
    for name, value in metrics.items():
        board.add_scalar(name, value)
    board.close()


def texts(inputs: ReportInputs, prompts: Mapping[str, str]) -> dict[str, str]:
    """Prompts, then each example's question and both responses, as blocks of text that render nothing."""
    found = {f"prompts/{name}": str(code_block(text, "text")) for name, text in prompts.items()}
    for number, example in enumerate(inputs.examples):
        parts = [("question", example.asked), ("base", example.before), ("trained", example.after)]
        blocks = (f"{name}\n\n{code_block(text, 'text')}" for name, text in parts)
        found[f"examples/{number}_{example.kind}"] = "\n\n".join(blocks)
    return found


def histograms(inputs: ReportInputs) -> dict[str, np.ndarray]:
    """s(x), lengths and votes of the pool; demonstrations' distances. Columns without a value are left out."""
    pool, demos = inputs.pool, inputs.demos
    columns: dict[str, Any] = {}
    if pool is not None:
        columns = {"pool/neuron_count": pool.counts, "pool/length": pool.lengths, "pool/vote_share": pool.agreement}
    if demos is not None:
        columns["pool/demonstration_distance"] = [d for row in demos.distances for d in row]
    arrays = {name: np.asarray(values if values is not None else [], dtype=float) for name, values in columns.items()}
    return {name: values for name, values in arrays.items() if len(values)}


def figures(inputs: ReportInputs) -> dict[str, Figure]:
    """Reliability, accuracy, selection and layers, where there is what they are drawn from."""
    before, after, domain = inputs.before, inputs.after, inputs.pool_domain
    drawn = {
        "reliability": calibration_figure(before.get(domain), after.get(domain)),
        "accuracy": accuracy_figure(before, after, domain),
        "selection": pool_figures.selection_figure(inputs.pool),
    }
    pool = inputs.pool
    if pool is not None and pool.members is not None:
        drawn["layers"] = layers_figure(pool.members, pool.widths, np.asarray(pool.selected, dtype=bool))
    return {name: figure for name, figure in drawn.items() if figure is not None}


def final_metrics(inputs: ReportInputs) -> dict[str, float]:
    """final/DOMAIN/METRIC of the trained model, and the figures without labels."""
    found = {
        f"final/{domain}/{metric}": result.metrics[metric]
        for domain, result in inputs.after.items()
        for metric in METRICS
    }
    held = inputs.held.comparison if inputs.held is not None else None
    if held is not None:
        found |= {f"final/held_out/{name}": figure.after.value for name, figure in held.figures.items()}
    return found


def settings(inputs: ReportInputs) -> dict[str, bool | float | str]:
    """The configuration as TensorBoard takes it: numbers, truth values and text, without credentials.

    Its table shows the first five.
    """
    found = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in flatten(redacted(inputs.config)).items()
        if value is not None
    }
    return {key: found[key] for key in sorted(found, key=lambda key: (key not in FIRST, key))}
