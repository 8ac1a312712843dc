"""Calls on threads: if these fail, a hung server keeps the program from ending, or its error is lost."""

import threading
import time

import pytest

from nopsd.errors import ServerError
from nopsd.rollout.background import Background, all_at_once


def test_values_and_errors_are_handed_on_by_item():
    def half(number):
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number // 2

    values, failures = all_at_once(half, [2, 3, 4], 5)
    assert values == [(2, 1), (4, 2)] and [(n, str(e)) for n, e in failures] == [(3, "3 is odd")]


def test_a_call_that_hangs_is_left_after_its_time():
    hold = threading.Event()
    began = time.monotonic()
    _, ((item, error),) = all_at_once(lambda _: hold.wait(30), ["hangs"], 0.2)
    hold.set()
    assert item == "hangs" and isinstance(error, ServerError) and time.monotonic() - began < 5


def test_an_error_is_raised_where_the_result_is_asked_for():
    call = Background(lambda: 1 / 0)
    assert call.wait(5) and call.done() and not call.succeeded()
    with pytest.raises(ZeroDivisionError):
        call.result(0)
