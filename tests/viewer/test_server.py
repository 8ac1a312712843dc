"""nopsd.viewer.server: who has no token sees nothing, and nobody can write."""

import pytest
from starlette.testclient import TestClient

from nopsd.viewer.server import TOKEN, application
from tests.viewer.made import made_run, site

SECRET = "s3cret-of-this-test"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return application(site(made_run(tmp_path_factory.mktemp("r") / "a")), SECRET)


@pytest.fixture
def client(app):
    return TestClient(app, follow_redirects=False)


@pytest.fixture
def known(app):
    client = TestClient(app)
    assert client.get("/", params={TOKEN: SECRET}).status_code == 200
    return client


@pytest.mark.parametrize("path", ["/", "/rollouts", "/static/view.js", "/nothing", "/docs", "/openapi.json"])
@pytest.mark.parametrize(
    "given", [None, "", "wrong", SECRET[:-1], SECRET + "x", "é\udcff".encode("utf-8", "replace").decode()]
)
def test_without_the_token_there_is_nothing(client, path, given):
    answer = client.get(path, params={} if given is None else {TOKEN: given})
    assert answer.status_code == 401 and "set-cookie" not in answer.headers
    assert "<" not in answer.text


def test_the_token_leaves_the_address_for_a_cookie(client):
    """An address in a history, a log or a screenshot must not open the pages."""
    answer = client.get("/rollouts", params={TOKEN: SECRET, "step": "2"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/rollouts?step=2")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite" in cookie
    assert SECRET not in client.get("/rollouts?step=2").text


def test_two_servers_on_one_host_keep_their_cookies_apart(tmp_path):
    made = site(made_run(tmp_path / "a"))
    names = set()
    for token in ("one", "two"):
        answer = TestClient(application(made, token), follow_redirects=False).get("/", params={TOKEN: token})
        names.add(answer.headers["set-cookie"].split("=")[0])
    assert len(names) == 2


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_nothing_can_be_written(known, method):
    assert getattr(known, method)("/rollouts").status_code == 405


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/nothing", 404),
        ("/rollouts?step=x", 400),
        ("/static/view.css", 200),
        ("/static/..%2Fserver.py", 404),
        ("/static/base.html.jinja", 404),
    ],
)
def test_every_answer_has_the_policy(known, path, status):
    answer = known.get(path)
    assert answer.status_code == status
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"


def test_a_bad_address_is_a_page_with_the_reason(known):
    assert "step=x: give a number" in known.get("/rollouts?step=x").text


def test_it_works_through_a_forwarded_port(app):
    """`ssh -L` changes host and port: no page may name either."""
    client = TestClient(app, base_url="http://localhost:9999")
    page = client.get("/training", params={TOKEN: SECRET})
    assert page.status_code == 200 and "http://" not in page.text.replace("http://www.w3.org", "")
