"""Limits of foreign code: if they fail, a model's chat template hangs a command or takes the machine's memory."""

import signal
import threading
import time

import pytest

from nopsd.data.limits import OutOfTime, memory_limit, time_limit


def compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_what_computes_too_long_is_stopped_though_it_catches_exceptions():
    """jinja's compiler catches every Exception of a constant expression and goes on."""
    stops = []
    with pytest.raises(OutOfTime), time_limit(0.05):
        for _ in range(2):
            try:
                compute(60)
            except OutOfTime:
                stops.append(1)  # the first is lost
                if len(stops) == 2:
                    raise
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_what_ends_in_time_leaves_no_timer_behind():
    """Else an unrelated computation is interrupted later."""
    before = signal.getsignal(signal.SIGVTALRM)
    with time_limit(0.05):
        time.sleep(0.1)  # waiting, for a busy machine say, is no computing
    compute(0.1)
    assert signal.getsignal(signal.SIGVTALRM) is before


def test_another_thread_goes_on_without_a_limit():
    """Signals are the main thread's: a notebook's worker thread must not fail for it."""
    done = []

    def work():
        with time_limit(0.01):
            compute(0.05)
        done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


def test_memory_beyond_the_limit_is_refused_and_the_limit_is_lifted():
    with pytest.raises(MemoryError), memory_limit(2**20):
        bytearray(2**31)  # more than what was freed and is the process's still
    assert len(bytearray(2**26)) == 2**26
