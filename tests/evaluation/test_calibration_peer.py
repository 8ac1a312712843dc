"""ECE against torchmetrics' on the same (share, vote) pairs.

torchmetrics is no dependency: it lies in the peers' environment (tests/setup_peers.sh).
"""

import json
import subprocess

import numpy as np
import pytest

from nopsd.evaluation.metrics import ece
from tests.programs import require_peer

PEER = """
import json, sys, torch
from torchmetrics.functional.classification import binary_calibration_error
cases = json.load(sys.stdin)
print(json.dumps([
    float(binary_calibration_error(torch.tensor(c["share"]), torch.tensor(c["vote"]), n_bins=c["bins"], norm="l1"))
    for c in cases
]))
"""


def pairs(k, n, seed):
    """Shares of k samples and votes that are right a little less often than they say."""
    rng = np.random.default_rng(seed)
    share = rng.integers(1, k + 1, size=n) / k
    return share, rng.random(n) < 0.85 * share


def test_ece_is_torchmetrics():
    """Breaks if our bins, weights or norm are not those of the library that others report ECE by. k = 8 and 4, 15 bins:
    no share lies on an edge of a bin, where the two conventions would differ (0 and 1 apart, which fall alike)."""
    python = require_peer("torchmetrics")
    cases = [
        (*pairs(k, n, seed), bins)
        for k, n, seed, bins in ((8, 400, 0, 15), (8, 37, 1, 15), (4, 250, 2, 15), (8, 120, 3, 10), (16, 500, 4, 15))
    ]
    sent = [{"share": s.tolist(), "vote": v.astype(int).tolist(), "bins": b} for s, v, b in cases]
    done = subprocess.run(
        [python, "-c", PEER], input=json.dumps(sent), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours = [ece(share, vote, bins) for share, vote, bins in cases]
    assert ours == pytest.approx(json.loads(done.stdout), abs=1e-6)
    assert min(ours) > 0.02, "a check on nothing"
