"""nopsd.reporting.page: what is passed on is one file, and nothing that comes from data can become HTML."""

from nopsd.reporting.figures.style import panels
from nopsd.reporting.page import Page, code_block, escape


def test_names_from_data_stay_one_line_of_text():
    """Breaks if a domain's or a question's name can put tags or headings into a page."""
    assert escape("<b>a & b</b>\n# c") == "&lt;b&gt;a &amp; b&lt;/b&gt; # c"


def test_a_code_block_cannot_be_ended_by_its_text():
    """Breaks if a response with a fence spills into the page."""
    assert code_block("a\n```\n<b>", "text") == "```text\na\n'''\n<b>\n```"


def test_the_html_holds_the_figures_and_the_markdown_links_them(tmp_path):
    """Breaks if a page that is passed on shows broken images, or a figure is lost."""
    page = Page("<i>A</i>")
    page.text("# A", page.figure("one", "A <caption>", panels(1, 1, 1)[0]), page.figure("two", "B", None, "No | B."))
    markdown, html = page.write(tmp_path, "page")
    assert "![A &lt;caption&gt;](figures/one.png)" in markdown.read_text() and "*No | B.*" in markdown.read_text()
    assert (tmp_path / "figures" / "one.png").exists() and not (tmp_path / "figures" / "two.png").exists()
    text = html.read_text()
    assert text.count('src="data:image/png;base64,') == 1 and "figures/one.png" not in text
    assert "<title>&lt;i&gt;A&lt;/i&gt;</title>" in text
