"""A rank that only runs: python worker_rank.py FOLDER. It raises, disconnects or reports when a file there asks it."""

import os
import sys
import time
from pathlib import Path

from nopsd.cluster import rank


def main() -> None:
    folder, number = Path(sys.argv[1]), os.environ["RANK"]
    rank.setup("test")
    (folder / f"pid.{number}").write_text(str(os.getpid()))
    while not (folder / "disconnect").exists():
        if (folder / f"raise.{number}").exists():
            rank.report("ValueError: of its own")
            os._exit(1)
        if (folder / "raise.all").exists() and number != "0":
            rank.report("RuntimeError: Connection closed by peer")
            os._exit(1)
        time.sleep(0.02)
    rank.disconnect()


main()
