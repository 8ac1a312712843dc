"""The server of the pages: on this host alone, behind a token, read-only.

The token comes with the first address; a cookie keeps it from then on, so that no page, log or history needs it. Works
through `ssh -L`, since nothing in a page names a host or a port.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from nopsd.errors import UserError
from nopsd.viewer.render import STATIC, render, static
from nopsd.viewer.site import NAVIGATION, Site

TOKEN = "token"
TYPES = {"css": "text/css", "js": "text/javascript"}
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Next = Callable[[Request], Awaitable[Response]]


def application(site: Site, token: str) -> FastAPI:
    """The server of a site; every request needs the token, as a parameter or in the cookie."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Cookies of one host are shared by its ports: each server has a name of its own.
    cookie = f"nopsd_view_{hashlib.sha256(token.encode()).hexdigest()[:12]}"

    @app.middleware("http")
    async def guarded(request: Request, call_next: Next) -> Response:
        given = request.query_params.get(TOKEN)
        if not _equal(given or request.cookies.get(cookie, ""), token):
            answer: Response = PlainTextResponse(
                "Open the address that `nopsd view` has printed, with its token.\n", 401
            )
        elif given is not None:
            rest = [(name, value) for name, value in request.query_params.multi_items() if name != TOKEN]
            answer = RedirectResponse(request.url.path + (f"?{urlencode(rest)}" if rest else ""), 303)
            answer.set_cookie(cookie, token, httponly=True, samesite="lax")
        else:
            answer = await call_next(request)
        answer.headers.update(HEADERS)
        return answer

    @app.get("/static/{name}")
    def asset(name: str) -> Response:
        if name not in STATIC:
            return PlainTextResponse("There is no such file.\n", 404)
        return Response(static(name), media_type=TYPES[name.rpartition(".")[2]])

    @app.get("/")
    def overview(request: Request) -> Response:
        return _page(site, "overview", request)

    @app.get("/{page}")
    def page(page: str, request: Request) -> Response:
        return _page(site, page, request)

    return app


def _equal(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _page(site: Site, page: str, request: Request) -> Response:
    if not site.has(page):
        return HTMLResponse(error_page(site, "Not found", "There is no such page."), 404)
    try:
        return HTMLResponse(site.page(page, dict(request.query_params)))
    except UserError as error:
        return HTMLResponse(error_page(site, "This can't be shown", str(error)), 400)


def error_page(site: Site, title: str, message: str) -> str:
    """A page that says what is wrong."""
    return render(
        "error",
        content={"title": title, "message": message},
        source=site.sources[0],
        navigation=NAVIGATION,
        tab="overview",
        live=False,
        link=site.link,
    )
