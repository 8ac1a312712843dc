"""What models and users write is never executed: hostile text in every field of every page, and in the export."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from nopsd.config import load_config
from nopsd.viewer.export import export
from nopsd.viewer.render import link, plain
from tests.viewer.made import made_run, site

HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> [press](javascript:alert(1)) {{ 7*7 }} {% raw %} "
    "</title></style></textarea></pre><svg onload=alert(1)> &lt;b&gt; \x1b[31mred\x1b[0m \x00 \x9b \u202e gnitset"
)
PAGES = {
    "overview": {},
    "training": {},
    "rollouts": {"uid": "<script>", "answer": "", "finish": HOSTILE},
    "response": {"step": "2", "row": "0"},
    "questions": {"q": "<script>alert(1)</script>"},
    "question": {"uid": "<b>000"},
    "compare": {},
}
SCRIPTS = {"/static/view.js"}


class Page(HTMLParser):
    """What a browser would run, load or follow."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts, self.handlers, self.addresses, self.styled = set(), [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        given = dict(attributes)
        if tag == "script":
            self.scripts.append(given.get("src"))
        self.handlers += [name for name in given if name.startswith("on")]
        self.styled += [tag] if "style" in given else []
        self.addresses += [given[name] for name in ("href", "src", "action") if given.get(name)]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp("h")
    return site(
        *(made_run(root / name, text=HOSTILE, uid="<b>", overrides=["data.domain=<i>x"]) for name in ("<u>a", "b"))
    )


@pytest.mark.parametrize("page", PAGES)
def test_no_page_runs_or_loads_anything_foreign(hostile, page):
    html = hostile.page(page, PAGES[page])
    found = Page(html)
    assert found.scripts == ["/static/view.js"]
    assert not found.handlers and not found.styled and not found.tags & {"img", "iframe", "object", "b>", "u", "style"}
    assert all(re.match(r"/(?!/)|#", address) for address in found.addresses), found.addresses
    assert "{{ 7*7 }}" in html or "7*7" not in html


@pytest.mark.parametrize("page", ["rollouts", "questions", "question"])
def test_the_text_is_there_as_text(hostile, page):
    """Cleaned away it would hide what the model says; a control character would hide what stands beside it."""
    query = {**PAGES[page], "uid": "" if page == "rollouts" else "<b>000", "finish": "", "q": ""}
    html = hostile.page(page, query)
    assert "&lt;script&gt;" in html
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", html)


def test_control_characters_are_shown_as_such():
    assert plain("a\x1b[31m\x00\tb\n\x9b\u202e") == "a␛[31m␀\tb\n⟨U+009B⟩⟨U+202E⟩"


def test_addresses_are_quoted():
    assert link("question", uid="a b&c=<d>#e") == "/question?uid=a+b%26c%3D%3Cd%3E%23e"


def test_the_export_holds_all_and_loads_nothing(hostile):
    html = export(hostile)
    found = Page(html)
    assert found.scripts == [None] and not found.handlers and not found.styled
    assert all(address.startswith("#") for address in found.addresses)
    assert not found.tags & {"img", "link", "iframe", "form"}
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert all(f'id="{name}"' in html for name in ("overview", "training", "rollouts", "questions", "compare"))


def test_an_export_of_a_run_that_has_just_begun(tmp_path):
    assert "no trace" in export(site(load_config("lab", [f"run_dir={tmp_path / 'n'}"])))
