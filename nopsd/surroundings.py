"""What a process needs of its surroundings and may not find: UTF-8, a home, a place for the record of a crash.

Called first of all by the command line. Standard library only.
"""

from __future__ import annotations

import locale
import os
import pwd
import sys
import tempfile
import time
import traceback
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode where the locale has another encoding: questions, answers and
    our own files are UTF-8, and a report's dash can't be written in ASCII. Children inherit the mode."""
    if sys.flags.utf8_mode or locale.getpreferredencoding(False).lower().replace("-", "") == "utf8":
        return
    if os.environ.get("PYTHONUTF8") != "1" and not sys.flags.ignore_environment:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


def print_anything() -> None:
    """A character that the terminal's encoding lacks (PYTHONIOENCODING) is replaced, and ends nothing; what is printed
    to a stream that is closed (`>&-`) goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
    for stream in (sys.stdout, sys.stderr):
        if (stream.encoding or "").lower().replace("-", "") != "utf8" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def have_home() -> None:
    """Containers may run as a user that has no entry and no HOME: libraries that ask for either raise KeyError."""
    try:
        pwd.getpwuid(os.getuid())
        known = True
    except KeyError:
        known = False
        os.environ.setdefault("USER", str(os.getuid()))
        os.environ.setdefault("LOGNAME", os.environ["USER"])
    if os.environ.get("HOME") or known:
        return
    home = Path(tempfile.gettempdir()) / f"nopsd-home-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid == os.getuid():
        os.environ["HOME"] = str(home)


def crash_report(error: Exception, run_dir: str | None) -> str:
    """What to print of an unexpected error; its traceback is left in a file: in the run folder's logs, or
    among temporary files where that can't be."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(PACKAGE)]
    place = f"{Path(own[-1].filename).relative_to(PACKAGE.parent)}:{own[-1].lineno} {own[-1].name}" if own else "?"
    said = (str(error).strip().splitlines() or [""])[0][:300]
    text = "".join(traceback.format_exception(error))
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    folders = [Path(run_dir) / "logs"] if run_dir and Path(run_dir).is_dir() else []
    for folder in (*folders, Path(tempfile.gettempdir())):
        try:
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            where = f"the traceback is in {folder / name}"
            break
        except OSError:
            continue
    else:
        where = f"no file could be written, so here is the traceback:\n{text}"
    return (
        f"unexpected {type(error).__name__} in {place}: {said or 'no message'}; it is a bug of nopsd's, or an input "
        f"that should have been refused: {where}"
    )
