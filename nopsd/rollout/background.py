"""Calls on daemon threads: unlike a thread pool's, one that hangs doesn't keep the program from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from nopsd.errors import ServerError

T = TypeVar("T")


class Background:
    """One call under way."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._value: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # raised again by whoever waits
            self._error = error

    def raise_if_failed(self) -> None:
        if not self._thread.is_alive() and self._error is not None:
            raise self._error

    def done(self) -> bool:
        return not self._thread.is_alive()

    def succeeded(self) -> bool:
        return self.done() and self._error is None

    def wait(self, seconds: float) -> bool:
        """Whether the call has ended, after at most `seconds`."""
        self._thread.join(seconds)
        return self.done()

    def result(self, timeout_s: float) -> Any:
        """The call's value, or what it raised; ServerError if it hasn't ended within `timeout_s`."""
        if not self.wait(timeout_s):
            raise ServerError(f"no end within {timeout_s:g} s")
        self.raise_if_failed()
        return self._value


def all_at_once(
    call: Callable[[T], Any], items: Sequence[T], timeout_s: float
) -> tuple[list[tuple[T, Any]], list[tuple[T, Exception]]]:
    """Call a function for every item at the same time.

    Args:
        call: Given an item.
        items: All of them.
        timeout_s: Each call's, in seconds; one that hasn't ended by then is a ServerError and is left.

    Returns:
        (item, value) of those that ended well, (item, error) of the others.
    """
    running = [(item, Background(lambda item=item: call(item))) for item in items]  # type: ignore[misc]
    values, failures = [], []
    for item, call_of_item in running:
        try:
            values.append((item, call_of_item.result(timeout_s)))
        except Exception as error:  # the caller decides what the loss of one means
            failures.append((item, error))
    return values, failures
