"""NAIT's direction: the first principal component as numpy's SVD has it, its sign by rule."""

import numpy as np
import pytest

from nopsd.signals.alignment import principal_direction


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12), (2, 5), (5, 1)])
def test_direction_is_the_first_right_singular_vector(shape):
    """Both ways of reckoning (Gram matrix, covariance) are the same component."""
    draw = np.random.default_rng(sum(shape))
    delta = draw.normal(size=shape) * np.linspace(1, 3, shape[1]) + draw.normal(size=shape[1])
    found = principal_direction(delta.astype(np.float32))
    rows = delta.astype(np.float32).astype(np.float64)
    wanted = np.linalg.svd(rows - rows.mean(0))[2][0]
    assert abs(found @ wanted) == pytest.approx(1, abs=1e-9)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-12)
    assert rows.mean(0) @ found >= 0


def test_sign_follows_the_mean_and_not_the_solver():
    """A flipped direction would select the worst-aligned questions."""
    draw = np.random.default_rng(0)
    delta = draw.normal(size=(20, 1)) * np.array([[1.0, 2.0, -1.0]]) + np.array([0.3, 0.5, -0.1])
    assert principal_direction(delta) @ principal_direction(-delta) == pytest.approx(-1)
    assert principal_direction(delta) @ delta.mean(0) > 0


def test_without_a_say_of_the_mean_the_largest_component_is_positive():
    """Mean 0 leaves the sign open; it must not depend on the machine."""
    delta = np.array([[3.0, -4.0], [-3.0, 4.0]])
    assert principal_direction(delta) == pytest.approx([-0.6, 0.8])
    assert principal_direction(-delta) == pytest.approx([-0.6, 0.8])


def test_equal_rows_have_no_direction():
    """A dead layer contributes nothing, instead of a direction made of rounding."""
    assert not principal_direction(np.tile(np.float32(0.1), (5, 4))).any()
    assert not principal_direction(np.zeros((3, 8), dtype=np.float32)).any()
