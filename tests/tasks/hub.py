"""A stand-in of the hub's HTTP API on this machine: enough of it for a repository to be made and pushed to.

It is no hub: what it accepts is what huggingface_hub 2.4 sends, as read from that client's requests.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What the stand-in holds: repositories' files, objects of large files by hash, and the requests it got."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.repos: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        found: dict[str, bytes] = self.repos[repo]["branches"][branch]
        return found


@contextmanager
def running_hub(token: str) -> Iterator[Hub]:
    """A hub at `.url` until the end of the block."""
    hub = Hub(token)

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Nothing on standard error."""

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.state.token}":
            return True
        self.answer({"error": "Invalid username or password."}, 401)
        return False

    def do_GET(self) -> None:
        self.state.requests.append(("GET", self.path))
        if not self.allowed():
            return
        repo = "/".join(self.path.split("?")[0].split("/")[3:5])
        if self.path.startswith("/api/models/") and repo in self.state.repos:
            self.answer({"id": repo, "sha": "0" * 40, "private": True, "siblings": []})
        else:
            self.answer({"error": "Repository not found"}, 404)

    def do_PUT(self) -> None:
        self.state.requests.append(("PUT", self.path))
        self.state.objects[self.path.rsplit("/", 1)[1]] = self.body()
        self.answer({})

    def do_POST(self) -> None:
        self.state.requests.append(("POST", self.path))
        body = self.body()
        if not self.allowed():
            return
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            private = asked.get("private") or asked.get("visibility") == "private"
            self.state.repos.setdefault(name, {"private": bool(private), "branches": {"main": {}}})
            self.answer({"url": f"{self.state.url}/{name}", "id": name})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self.answer(self.batch(json.loads(body)))
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": self.mode(f["path"]), "shouldIgnore": False} for f in files]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            self.commit(body)
        elif "/branch/" in self.path:
            repo, branch = "/".join(self.path.split("/")[3:5]), self.path.rsplit("/", 1)[1]
            self.state.repos[repo]["branches"].setdefault(branch, {})
            self.answer({})
        else:
            self.answer({"error": f"the stand-in has no {self.path}"}, 404)

    @staticmethod
    def mode(path: str) -> str:
        return "lfs" if path.endswith(".safetensors") else "regular"

    def batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = [
            {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.state.url}/lfs/{o['oid']}"}}}
            for o in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def commit(self, body: bytes) -> None:
        repo, branch = "/".join(self.path.split("/")[3:5]), self.path.split("/commit/")[1].split("?")[0]
        files = self.state.files(repo, branch)
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
        self.answer({"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.state.url}/{repo}/commit/{'1' * 40}"})
