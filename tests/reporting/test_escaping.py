"""Markdown as a page shows it, and cells as a spreadsheet does: broken if text that reached a page unescaped is more
than text there. Whole pages are in test_hostile_text.py."""

from __future__ import annotations

import pytest

from nopsd.reporting.escaping import csv_text, page_html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "[x](javascript:alert(1))",
        "<javascript:alert(1)>",
        "<http://example.org>",
        "[x][1]\n\n[1]: http://example.org",
        "![x](http://example.org/x.png)",
        "<iframe src=http://example.org></iframe>",
        "a@example.org <a@example.org>",
    ],
)
def test_no_foreign_tag_link_or_image_comes_out_of_markdown(text: str) -> None:
    html = page_html(text, {"ours.svg": "data:image/svg+xml;base64,AA=="})
    assert not any(tag in html for tag in ("<script", "<img", "<a ", "<iframe")), html


def test_our_own_images_and_subscripts_stay() -> None:
    html = page_html("![x](ours.svg) x&lt;sub&gt;−1.5&lt;/sub&gt;", {"ours.svg": "data:image/png;base64,AA=="})
    assert 'src="data:image/png;base64,AA=="' in html and "<sub>−1.5</sub>" in html


@pytest.mark.parametrize("text", ["=1+1", "+HYPERLINK()", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_text_in_a_cell(text: str) -> None:
    assert csv_text(text) == f"'{text}"


@pytest.mark.parametrize("text", ["+20.7 [+17.0, +24.4]", "-3", "biology", "1=1"])
def test_numbers_and_names_stay_as_they_are(text: str) -> None:
    assert csv_text(text) == text
