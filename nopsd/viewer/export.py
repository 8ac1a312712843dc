"""All pages in one file that can be passed on: it loads nothing, and runs nothing but its own script.

Of long tables it has a part: the last traced step's first responses, the first selected questions, the first changed
answers.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from markupsafe import Markup

from nopsd.viewer.pages import rollouts
from nopsd.viewer.query import PER_PAGE, Query
from nopsd.viewer.render import render, static
from nopsd.viewer.site import NAVIGATION, Site
from nopsd.viewer.source import Source

RESPONSES = 16  # of a run


def anchor(page: str, /, **parameters: Any) -> str:
    """Where a page stands in the file; empty for one that it leaves out."""
    return f"#{page}" if page in NAVIGATION and not any(parameters.values()) else ""


def export(site: Site) -> str:
    """The file's content."""
    exported = Site(site.sources, site.stages, anchor)
    everything = Query({})
    pages = {name: exported.content(name, site.sources[0], everything) for name in ("overview", "training", "compare")}
    style, script = static("view.css"), static("view.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return render(
        "export",
        **pages,
        responses=[(source, responses(source)) for source in site.sources],
        pools=[(source, exported.content("questions", source, Query({"selected": "yes"}))) for source in site.sources],
        sources=site.sources,
        source=site.sources[0],
        query={},
        navigation=NAVIGATION,
        tab="overview",
        live=False,
        exported=True,
        link=anchor,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        most=PER_PAGE,
    )


def responses(source: Source) -> list[dict[str, Any]]:
    """The first responses of the run's last traced step."""
    steps = source.trace.steps
    if not steps:
        return []
    count = len(source.trace.table(steps[-1], ["uid"]))
    rows = range(min(count, RESPONSES))
    return [rollouts.response(source, Query({"step": str(steps[-1]), "row": str(row)})) for row in rows]


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
