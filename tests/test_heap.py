"""Freed memory goes back to the system: if this fails, loading a model leaves a copy of it behind."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from nopsd.heap import give_back_freed
def held():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) / 1024
pieces = [bytes(100_000) + b"1" for _ in range(2000)]  # 190 MiB in pieces that the C library keeps when they are freed
last = pieces.pop()
whole = held()
del pieces
give_back_freed()
print(whole - held())
"""


def test_it_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert float(done.stdout) > 150
