"""Writes the tables of docs/settings.md, from "## All keys" on, from the schema. Usage: python tools/settings_page.py

With --check it writes nothing, and exits with 1 if the page is not what the schema says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import get_type_hints

from nopsd.config import Config, Key, all_keys
from nopsd.config.describe import allowed, plain

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
START = "## All keys"
INTRO = """\
Written by `python tools/settings_page.py` from [nopsd/config/schema](../nopsd/config/schema): edit there. "Source" is
where a default comes from: the paper, its authors' code, another published method, or chosen by us. A dot (·) marks
keys that change how a run is computed, not its results: a run may be continued with another value. After a type, `?`
allows null; in italics stands what else is allowed."""
TOP = "At the top level"


def page(text: str) -> str:
    """The page with its tables as the schema has them; what stands above `START` stays."""
    written = text.split(START)[0].rstrip("\n")
    return "\n".join([written, "", START, "", INTRO, *sections(all_keys())])


def sections(keys: Iterable[Key]) -> Iterator[str]:
    """A heading and a table for each section."""
    for name, members in groupby(keys, key=lambda key: key.name.rpartition(".")[0]):
        yield f"\n### {name or TOP}\n\n{about(name)}\n"
        yield "| key | type | default | what | source |\n|---|---|---|---|---|"
        yield from (row(key) for key in members)
    yield ""


def about(section: str) -> str:
    """The first paragraph of the section's class."""
    found: type = Config
    for part in section.split(".") if section else ():
        found = get_type_hints(found)[part]
    return " ".join((found.__doc__ or "").split("\n\n")[0].split())


def row(key: Key) -> str:
    """One key."""
    marks = " ·" if key.runtime_only else ""
    what = key.help + (f". *{allowed(key)}*" if allowed(key) else "")
    cells = [f"`{key.name}`{marks}", key.type.replace(" or null", "?"), f"`{plain(key.default)}`", what, key.source]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    text = PAGE.read_text()
    if "--check" not in arguments:
        PAGE.write_text(page(text))
    return int("--check" in arguments and page(text) != text)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
