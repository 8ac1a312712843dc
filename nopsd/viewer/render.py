"""Templates to HTML. Everything that a template prints is escaped, but for the charts, which escape themselves.

What models and users wrote stays text: control characters are shown as such, there is no markdown, and the pages'
Content-Security-Policy runs no script but our own file.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from nopsd.viewer.charts import number

STATIC = ("view.css", "view.js")
# C0 but tab and newline, DEL, C1; bidirectional overrides, which turn what follows around.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain(text: object) -> str:
    """A text as it may be shown: control characters (ANSI codes among them) by their pictures."""
    return CONTROL.sub(_picture, str(text))


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def visible(text: str) -> str:
    """A token's text with its ends of line shown."""
    return plain(text).replace("\n", "↵\n")


def link(page: str, /, **parameters: Any) -> str:
    """The address of a page; parameters that are None or empty are left out."""
    given = {name: value for name, value in parameters.items() if value not in (None, "")}
    return f"/{'' if page == 'overview' else quote(page)}" + (f"?{urlencode(given)}" if given else "")


@cache
def environment() -> Environment:
    """The templates."""
    made = Environment(
        loader=PackageLoader("nopsd.viewer"),
        autoescape=True,
        finalize=lambda value: plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "visible": visible}
    return made


def render(template: str, **values: Any) -> str:
    """A template's text."""
    return environment().get_template(f"{template}.html.jinja").render(**{"link": link, **values})


@cache
def static(name: str) -> str:
    """The style sheet, or the script."""
    return files("nopsd.viewer").joinpath("static", name).read_text(encoding="utf-8")
