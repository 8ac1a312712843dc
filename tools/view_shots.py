"""Photographs the pages of `nopsd view` for docs/view.md, at desktop and phone width, light and dark.

    python tools/view_shots.py RUN [RUN ...] --out docs/images [--only overview]

Needs Debian's chromium and playwright (pip install -e .[test]).
"""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import Browser, sync_playwright

from nopsd import network
from nopsd.config import load_config
from nopsd.stages.registry import STAGES
from nopsd.viewer.server import application
from nopsd.viewer.site import Site

SIZES = {"desktop": (1440, 900), "phone": (375, 760)}
TOKEN = "photograph"


def serve(runs: list[Path]) -> str:
    """Serve the runs' pages from a thread; their address."""
    configs = [load_config(str(run / "config.yaml"), [f"run_dir={run}"]) for run in runs]
    port = network.free_port()
    app = application(Site.of(configs, STAGES), TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return f"http://127.0.0.1:{port}"


def photograph(browser: Browser, address: str, pages: dict[str, str], size: str, scheme: str, out: Path) -> None:
    """One PNG a page."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}/?token={TOKEN}")
    for name, path in pages.items():
        page.goto(address + path)
        if name == "response":
            tokens = page.locator("[data-tokens] > *")
            tokens.nth(min(12, tokens.count() - 1)).hover()
        page.screenshot(path=out / f"view-{name}-{size}-{scheme}.png")
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--step", type=int, default=3)
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--uid", help="the question to show")
    parser.add_argument("--schemes", nargs="*", default=["light", "dark"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pages = {
        "overview": "/",
        "training": "/training",
        "rollouts": f"/rollouts?step={args.step}",
        "response": f"/response?step={args.step}&row={args.row}",
        "questions": "/questions?sort=score",
        "question": f"/question?uid={args.uid}",
        "compare": "/compare",
    }
    chosen = {name: path for name, path in pages.items() if (not args.only or name in args.only) and "None" not in path}
    address = serve(args.runs)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for size in SIZES:
            for scheme in args.schemes:
                photograph(browser, address, chosen, size, scheme, args.out)
        browser.close()


if __name__ == "__main__":
    main()
