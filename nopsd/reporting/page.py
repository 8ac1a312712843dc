"""A page that can be passed on: NAME.md with its figures beside it, and NAME.html, which holds them.

Texts are the templates of `nopsd/reporting/templates`. What a markdown template prints is escaped unless it is `Markup`
(a table, a figure, a block of code): names that come from data can't become HTML.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from nopsd.files import write_atomic
from nopsd.reporting.escaping import code_block, escape, page_html
from nopsd.reporting.figures import style

__all__ = ["Page", "code_block", "escape"]


@cache
def _environment(autoescape: bool) -> Environment:
    return Environment(
        loader=PackageLoader("nopsd.reporting"),
        autoescape=autoescape,
        finalize=None if autoescape else lambda value: value if isinstance(value, Markup) else escape(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def markdown_of(template: str, **values: Any) -> str:
    """A markdown template's text."""
    return _environment(autoescape=False).get_template(template).render(**values).strip()


@dataclass
class Page:
    """A page as it grows: markdown parts, and PNG files by name, which lie in `place` beside it."""

    title: str
    place: str = "figures/"
    parts: list[str] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)

    def text(self, *parts: str) -> None:
        """Append paragraphs of markdown."""
        self.parts += parts

    def render(self, template: str, **values: Any) -> None:
        """Append a template's text; it may call `figure`."""
        self.text(markdown_of(template, figure=self.figure, **values))

    def figure(self, name: str, caption: str, drawn: Figure | None, gap: str = "") -> Markup:
        """Markdown of a figure with its caption, or of why there is none.

        Args:
            name: File name without its ending.
            caption: Below it.
            drawn: None: there is none.
            gap: The sentence that says why.
        """
        if drawn is None:
            return Markup(f"*{escape(gap)}*")
        self.images[name] = style.png(drawn)
        return Markup(f"![{escape(caption)}]({self.place}{name}.png)\n\n*{escape(caption)}*")

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write the page and its figures atomically; returns the paths of NAME.md and NAME.html."""
        text = "\n\n".join(self.parts) + "\n"
        for image, data in self.images.items():
            write_atomic(folder / self.place / f"{image}.png", data)
        paths = folder / f"{name}.md", folder / f"{name}.html"
        write_atomic(paths[0], text)
        write_atomic(paths[1], self._html(text))
        return paths

    def _html(self, text: str) -> str:
        inline = {
            f"{self.place}{name}.png": f"data:image/png;base64,{base64.b64encode(data).decode()}"
            for name, data in self.images.items()
        }
        body = Markup(page_html(text, inline))
        page = _environment(autoescape=True).get_template("page.html.jinja")
        return page.render(title=self.title, body=body) + "\n"
