"""`python -m nopsd`: the command line."""

from nopsd.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
