"""Runs scripts one after another in one process, so that what they share is imported once (`programs.run_peer`).

In: a line of JSON each, [script, its arguments]. Out: "done" each, or the end. What a script prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import runpy
import sys


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        sys.argv = json.loads(line)
        runpy.run_path(sys.argv[0], run_name="__main__")
        sys.stdout.flush()
        answers.write("done\n")
        answers.flush()


if __name__ == "__main__":
    main()
