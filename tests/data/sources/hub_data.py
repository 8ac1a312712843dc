"""A stand-in of the hub for one data set: what the `datasets` client asks of it, read from that client's requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHA = "a" * 40  # of the only commit


@contextmanager
def serving(repo: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """Its address until the end of the block. `files`: of the data set's root."""

    class Handler(_Handler):
        name, content = repo, files

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name: str
    content: Mapping[str, bytes]

    def log_message(self, *arguments: Any) -> None:
        """Nothing on standard error."""

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path, about = self.path.split("?")[0], f"/api/datasets/{self.name}"
        file = path.removeprefix(f"/datasets/{self.name}/resolve/").partition("/")[2]
        if path in (about, f"{about}/revision/{SHA}"):
            siblings = [{"rfilename": file} for file in self.content]
            self.answer(json.dumps({"id": self.name, "sha": SHA, "private": False, "siblings": siblings}).encode())
        elif path == f"{about}/tree/{SHA}":
            rows = [{"type": "file", "path": n, "size": len(d), "oid": "b" * 40} for n, d in self.content.items()]
            self.answer(json.dumps(rows).encode())
        elif file in self.content:
            self.answer(self.content[file], ETag=f'"{"c" * 40}"', X_Repo_Commit=SHA)
        else:
            missing = "EntryNotFound" if self.name in path else "RepoNotFound"
            self.answer(b"{}", 404, X_Error_Code=missing, X_Repo_Commit=SHA)

    do_HEAD = do_GET
