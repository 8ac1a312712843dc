"""`python -m nopsd`: the command line."""

import sys

if not sys.flags.safe_path:  # a module of the working folder, random.py say, must not stand in for Python's own
    sys.path.append(sys.path.pop(0))

from nopsd.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
