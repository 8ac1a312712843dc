"""How far apart two sound float32 computations of one thing may lie: what tests on engines and servers allow, and why.

Ranks, micro-batches, packed rows and servers add the same products in other orders. A sum of K products in another
order differs by about √K · UNIT of its terms' size, for each rounding goes up as often as down (Higham and Mary, 2019).
Each of a model's layers adds two such sums, of `width` products at most, to the residual stream; a logit moves by the
stream's relative error times its own size, and a log-prob by no more than its logit, but for log-softmax's last digits:

    gap = √2 (two computations) · √(2 · layers · width) · UNIT · largest logit

of the lab's model (4 layers, 448 wide, logits to 17) 9e-5, of the random ones of tests/models.py (2 layers, 96 wide,
logits to 6) 1e-5. A mean divergence over tokens moves by at most as much as log-probs that lie a few nats apart. A step
of AdamW adds nothing to it: what it turns round is a weight whose gradient is itself rounding.

Of distributions that are equal but for rounding δ a divergence is δ², below UNIT; what is left is the rounding of the
sums of p and of q over the vocabulary, log2(V) · UNIT each with V up to 1,024: 6e-7, in the largest case.

A gradient passes twice as many sums, the backward's too, and one over the tokens: √(4 · layers · width + tokens) · UNIT
is 2e-6 of its norm for the random models; five times that, for its terms cancel in part. With two divergences, twice.

tests/test_rounding.py has the formulas, and errors that are still caught.
"""

from __future__ import annotations

import math

UNIT = 2.0**-24  # half of float32's last digit, relative
LOGPROB = 1e-4  # nats: the largest gap of a token of the lab's model, or of its logits
SMALL_LOGPROB = 1e-5  # nats: likewise of a small random model
LOSS = 1e-5  # nats: a step's loss
ZERO = 1e-6  # nats: a divergence of equal distributions
GRADIENT, NOTHING = 1e-5, 1e-7  # of a gradient's norm; and what a gradient of 0 may have


def gap(layers: int, width: int, logit: float) -> float:
    """Of two computations' log-probs, in nats."""
    return math.sqrt(2 * 2 * layers * width) * UNIT * logit


def zero(vocabulary: int) -> float:
    """Of a divergence of equal distributions, in nats."""
    return math.log2(vocabulary) * UNIT
