"""`nopsd view`: run folders as pages, served on this host alone, or written as one file."""

from __future__ import annotations

import platform
import threading
from collections.abc import Sequence
from pathlib import Path

from nopsd import network
from nopsd.config import Config
from nopsd.errors import UserError
from nopsd.files import write_atomic
from nopsd.keys import new_key
from nopsd.stages.registry import STAGES
from nopsd.viewer.site import Site

HOST = "127.0.0.1"
PORT = 8642


def view(configs: Sequence[Config], port: int | None = None) -> None:
    """Serve the runs' pages until interrupted. UserError if the port is taken."""
    import uvicorn

    from nopsd.viewer.server import TOKEN, application

    chosen, token = free(port), new_key()
    address = f"http://{HOST}:{chosen}/?{TOKEN}={token}"
    print(f"nopsd view: {address}", flush=True)
    print(f"from elsewhere: ssh -L {chosen}:{HOST}:{chosen} {platform.node()}, then the same address")
    print("Ctrl-C ends it; the runs go on", flush=True)
    site = Site.of(configs, STAGES)
    threading.Thread(target=site.warm, name="warm", daemon=True).start()
    app = application(site, token)
    uvicorn.run(app, host=HOST, port=chosen, log_level="warning", access_log=False, server_header=False)


def free(port: int | None) -> int:
    """The port as asked for; if nobody asked, the usual one, or another that is free. UserError if it is taken."""
    if port is None:
        return PORT if network.why_unusable(PORT, HOST) is None else network.free_port()
    if not 0 < port < 65536:
        raise UserError(f"--port {port}: give a number from 1 to 65535")
    if reason := network.why_unusable(port, HOST):
        raise UserError(f"--port {port}: {reason}: give another, or leave it out")
    return port


def export(configs: Sequence[Config], path: Path) -> None:
    """Write all pages as one file. UserError if it can't be written."""
    from nopsd.viewer.export import export as pages

    try:
        write_atomic(path, pages(Site.of(configs, STAGES)))
    except OSError as error:
        raise UserError(f"--export {path}: {error.strerror}: choose another place") from error
