"""Text from data in pages and tables: it stays text, whatever stands in it.

In: names, questions, answers of users and models. Out: the same, escaped for markdown, HTML made of it, or CSV.
"""

from __future__ import annotations

import html
import re

from markdown import Markdown
from markupsafe import Markup

# Python-Markdown's own processors of what a page of ours never holds, but text from data might.
FOREIGN_BLOCKS = ("html_block",)
FOREIGN_INLINE = (
    *("html", "autolink", "automail", "link", "reference", "short_reference", "image_reference", "short_image_ref"),
)
SUBSCRIPT = re.compile(r"&lt;sub&gt;([+−-]?[\d.]+)&lt;/sub&gt;")  # the one tag that tables use
IMAGE = re.compile(r"<img\b[^>]*>")
NUMBERS = re.compile(r"[+-][\d.][\d\s.,\[\]()%+-]*")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escape(text: object) -> str:
    """A name from data as one line of markdown without HTML, links or images."""
    marked = re.sub(r"\](?=[(\[:])", r"\\]", str(text).replace("\\", "\\\\"))
    return " ".join(html.escape(marked, quote=False).splitlines())


def code_block(text: str, language: str) -> Markup:
    """A fenced block that its text can't end."""
    return Markup(f"```{language}\n" + text.replace("```", "'''") + "\n```")


def page_html(text: str, images: dict[str, str]) -> str:
    """Markdown as HTML whose only images are these (data by source): no foreign tags, no links, nothing remote."""
    converter = Markdown(extensions=["tables", "fenced_code"])
    for name in FOREIGN_BLOCKS:
        converter.preprocessors.deregister(name)
    for name in FOREIGN_INLINE:
        converter.inlinePatterns.deregister(name)
    converter.parser.blockprocessors.deregister("reference")
    body = SUBSCRIPT.sub(r"<sub>\1</sub>", converter.convert(text))

    def shown(found: re.Match[str]) -> str:
        source = re.search(r'src="([^"]*)"', found[0])
        data = images.get(source[1]) if source else None
        return found[0].replace(f'src="{source[1]}"', f'src="{data}"') if source and data else ""

    return IMAGE.sub(shown, body)


def csv_text(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) and not NUMBERS.fullmatch(text) else text
