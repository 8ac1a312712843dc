"""torchmetrics' calibration error, run by the interpreter that has it; started by test_metrics.py.

usage: torchmetrics_reference.py IN.pt OUT.pt   In: (shares, votes, bins) of each case. Out: the errors.
"""

from __future__ import annotations

import sys

import torch
from torchmetrics.functional.classification import binary_calibration_error

cases = torch.load(sys.argv[1])
torch.save([float(binary_calibration_error(s, v, n_bins=bins, norm="l1")) for s, v, bins in cases], sys.argv[2])
