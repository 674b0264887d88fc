"""A hub on this machine, as far as a push goes: repositories, large files by their hash, commits, tags."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

import yaml

LARGE = (".safetensors", ".model")


@dataclass
class Repository:
    """Files by revision; `main` moves, tags stay."""

    private: bool
    revisions: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {".gitattributes": b"* lfs"}})
    commits: int = 0


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    url: str = ""
    token: str = "hf_aGoodTokenOfTheStubHub00000"
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    uploads: int = 0
    refuse: dict[str, int] = field(default_factory=dict)
    """Path -> status that is answered once."""
    gated: set[str] = field(default_factory=set)


def tree(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Files as the hub lists them."""
    entries = []
    for path, content in files.items():
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
        entries.append(entry)
    return entries


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def _answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
            content = json.dumps(value if value is not None else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            for key, text in (headers or {}).items():
                self.send_header(key, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else b""
            path = unquote(self.path.split("?")[0])
            hub.requests.append(f"{self.command} {path}")
            if path in hub.refuse:
                return self._answer(hub.refuse.pop(path), {"error": "refused"})
            if path.startswith("/blob/"):
                hub.blobs[path.removeprefix("/blob/")] = body
                hub.uploads += 1
                return self._answer(200)
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._answer(401, {"error": f"Invalid credentials {self.headers.get('Authorization')}"})
            value = None if path.endswith("/commit/main") else json.loads(body or b"null")
            if path == "/api/repos/create":
                name = f"{value['organization']}/{value['name']}" if value.get("organization") else f"me/{value['name']}"
                hub.repositories.setdefault(name, Repository(bool(value.get("private"))))
                return self._answer(200, {"url": f"{hub.url}/{name}"})
            if path == "/api/validate-yaml":
                front = yaml.safe_load(value["content"].split("---")[1])
                wrong = [] if isinstance(front, dict) else [{"message": "the card has no front matter"}]
                return self._answer(400 if wrong else 200, {"errors": wrong, "warnings": []})
            match = re.match(r"(?:/api/models)?/([^/]+/[^/]+?)(?:\.git)?(/.*)?$", path)
            assert match, path
            name, rest = match[1], match[2] or ""
            if name in hub.gated:
                return self._answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
            if name not in hub.repositories:
                return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return self._repository(name, hub.repositories[name], rest, value, body)

        def _repository(self, name: str, repo: Repository, rest: str, value: Any, body: bytes) -> None:
            if rest == "" or rest.startswith("/revision"):
                return self._answer(200, {"id": name, "private": repo.private, "siblings": []})
            if rest == "/refs":
                tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": "0" * 40} for t in repo.revisions if t != "main"]
                return self._answer(200, {"branches": [], "converts": [], "tags": tags})
            if rest.startswith("/tree/"):
                return self._answer(200, tree(repo.revisions[rest.removeprefix("/tree/")]))
            if rest == "/preupload/main":
                modes = [
                    {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular", "shouldIgnore": False, "oid": None}
                    for f in value["files"]
                ]
                return self._answer(200, {"files": modes})
            if rest == "/info/lfs/objects/batch":
                objects = []
                for item in value["objects"]:
                    known = item["oid"] in hub.blobs
                    actions = {} if known else {"actions": {"upload": {"href": f"{hub.url}/blob/{item['oid']}"}}}
                    objects.append({**item, **actions})
                return self._answer(200, {"transfer": "basic", "objects": objects})
            if rest == "/commit/main":
                files = dict(repo.revisions["main"])
                for line in body.splitlines():
                    entry = json.loads(line)
                    about = entry["value"]
                    if entry["key"] == "file":
                        files[about["path"]] = base64.b64decode(about["content"])
                    elif entry["key"] == "lfsFile":
                        files[about["path"]] = hub.blobs[about["oid"]]
                    elif entry["key"] == "deletedFile":
                        files.pop(about["path"])
                repo.revisions["main"] = files
                repo.commits += 1
                return self._answer(200, {"commitOid": "1" * 40, "commitUrl": f"{hub.url}/{name}/commit/{'1' * 40}"})
            if rest.startswith("/tag/"):
                repo.revisions[value["tag"]] = dict(repo.revisions["main"])
                return self._answer(200)
            raise AssertionError(rest)

        do_GET = do_POST = do_PUT = do_HEAD = _handle  # the names that http.server calls

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
