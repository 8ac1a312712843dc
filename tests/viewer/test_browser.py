"""The pages of nopsd.viewer in a real browser (Debian's chromium): what only a browser can tell of them."""

import shutil
import threading
import time

import pytest
import uvicorn

from nopsd.network import free_port
from nopsd.viewer.export import export
from nopsd.viewer.server import TOKEN, application
from tests.viewer.made import made_run, site
from tests.viewer.test_hostile_text import HOSTILE

SECRET = "token-of-this-test"
PAGES = ("/", "/training", "/rollouts?step=2", "/response?step=2&row=0", "/questions", "/question?uid=q000", "/compare")
WIDTHS = (375, 1440)


@pytest.fixture(scope="module")
def browser():
    """Skipped, in continuous integration too, where no Chromium can be installed."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium (Debian: apt-get install chromium)")
    driver = pytest.importorskip("playwright.sync_api")
    with driver.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A site of two runs, one of hostile text, and its address."""
    root = tmp_path_factory.mktemp("browser")
    made = site(made_run(root / "a", steps=30), made_run(root / "b", text=HOSTILE))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application(made, SECRET), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield made, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def page(browser, served):
    """A signed-in page that collects what the browser complains of."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    opened.complaints = []
    opened.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("dialog", lambda dialog: (opened.complaints.append("a dialog opened"), dialog.dismiss()))
    opened.goto(f"{served[1]}/?{TOKEN}={SECRET}")
    yield opened
    context.close()


def test_no_page_is_wider_than_the_screen_or_breaks_the_policy(page, served):
    """At a phone's width and a desktop's, in light and dark; hostile text runs nothing anywhere."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for path in PAGES:
                run = "&run=1" if "?" in path else "?run=1"
                for address in (path, path + run):
                    page.goto(served[1] + address)
                    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    assert wide <= 0, f"{address} at {width} px is {wide} px too wide"
    assert page.complaints == []


def test_text_can_be_read_in_light_and_dark(page, served):
    """Contrast of text on its background, of WCAG's AA: at least 4.5."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(served[1] + "/")
        assert page.evaluate(CONTRAST, ["body", "h2", ".dim", "a", ".advice li, .stages .what"]) >= 4.5


CONTRAST = """names => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => c.slice(0, 3).map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  return Math.min(...names.flatMap(name => [...document.querySelectorAll(name)].map(element => {
    const pair = [light(rgb(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  })));
}"""


def test_a_token_tells_its_probabilities_to_pointer_and_keys(page, served):
    page.goto(served[1] + "/response?step=2&row=0")
    tokens, tip = page.locator("[data-tokens] > *"), page.locator(".tip")
    tokens.nth(2).hover()
    assert "token 3" in tip.inner_text() and "student: p" in tip.inner_text() and "teacher: p" in tip.inner_text()
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert "token 2" in tip.inner_text()
    assert page.evaluate("document.activeElement.dataset.hint").startswith("token 2")
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_everything_is_reached_by_keys(page, served):
    page.goto(served[1] + "/rollouts?step=2")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/rollouts?step=3")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "step"
    page.goto(served[1] + "/training")
    page.locator(".chart").first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert "step 2" in page.locator(".tip").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_url("**/rollouts?*step=2")


def test_a_step_of_a_curve_can_be_clicked(page, served):
    page.goto(served[1] + "/training")
    page.locator(".chart").first.locator(".hit").nth(4).click()
    page.wait_for_url("**/rollouts?*step=4")


def test_a_live_page_follows_the_run(page, served):
    source = served[0].sources[0]
    page.goto(served[1] + "/training")
    before = page.locator(".chart").first.get_attribute("aria-label")
    path = source.file("train", "metrics.jsonl")
    path.write_text(path.read_text() + path.read_text().splitlines()[0].replace('"step": 0', '"step": 30') + "\n")
    page.wait_for_function("old => document.querySelector('.chart').getAttribute('aria-label') !== old", arg=before)


def test_the_export_works_without_a_server(browser, served, tmp_path):
    (tmp_path / "run.html").write_text(export(served[0]))
    context = browser.new_context(viewport={"width": 375, "height": 800})
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("dialog", lambda dialog: (complaints.append("a dialog opened"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "run.html").as_uri())
    page.locator("details.card summary").first.click()
    page.locator("[data-tokens] > *").nth(1).hover()
    assert "token 2" in page.locator(".tip").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert complaints == [] and len(asked) == 1
    context.close()
