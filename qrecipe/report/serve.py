"""A server for pages on this machine: loopback unless asked otherwise, and never more than what its routes answer.

A request must name the host that is served, so that no page elsewhere reads through a name that points here. What changes
anything carries the token of the page. Every request ends with a status; none writes to the terminal.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from qrecipe.errors import Place, Problem, UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 4 << 20
"""Bytes that a request may bring."""
SECONDS = 20
"""A connection that says nothing for so long is closed."""
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})\Z")


@dataclass(frozen=True)
class Response:
    """The answer to a request."""

    content: bytes
    kind: str = "application/json"
    """Media type."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def message(text: str, status: int = 200) -> Response:
    """A sentence as JSON."""
    return Response(json.dumps({"message": text}, ensure_ascii=False).encode("utf-8", "replace"), status=status)


Get = Callable[[str], Response | None]
"""Answers a path; None: there is no such page."""
Post = Callable[[str, bytes], Response | None]


@dataclass
class Site:
    """Pages and what may be sent to them."""

    get: Get
    post: Post | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """Must come with whatever is sent."""


class _Handler(BaseHTTPRequestHandler):
    """Answers requests; subclasses say of which site."""

    site: Site
    host: str
    protocol_version = "HTTP/1.1"
    timeout = SECONDS
    server_version, sys_version = "qrecipe", ""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: the terminal is the user's."""

    def do_GET(self) -> None:
        self._send(self._refused() or self.site.get(urlsplit(self.path).path) or message("there is no such page", 404))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._send(self._refused() or self._posted())

    def _posted(self) -> Response:
        self.close_connection = True  # whatever else comes on it is not read
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not re.fullmatch(r"\d{1,9}", length):
            return message("the request does not say how long it is", 411)
        if int(length) > MAX_BODY:
            return message(f"more than {MAX_BODY:,} bytes", 413)
        if not secrets.compare_digest(self.headers.get("X-Token", "").encode("utf-8", "replace"), self.site.token.encode()):
            return message("the page is not from this program: load it again", 403)
        body = self.rfile.read(int(length))
        answer = self.site.post(urlsplit(self.path).path, body) if self.site.post is not None else None
        return answer or message("nothing can be sent here", 404)

    def _refused(self) -> Response | None:
        """The answer to a request under another name than this machine's own."""
        named = re.sub(r":\d+\Z", "", self.headers.get("Host", "")).strip("[]")
        if self.host in LOOPBACK and named not in LOOPBACK:
            return message("this program serves its own machine alone", 403)
        try:
            urlsplit(self.path)
        except ValueError:
            return message("no such address", 400)
        return None

    def _send(self, answer: Response) -> None:
        content, status, headers = answer.content, answer.status, dict(answer.headers)
        part = _RANGE.match(self.headers.get("Range", ""))
        if part is not None and status == 200:
            start = int(part[1])
            end = min(int(part[2] or len(content)), len(content) - 1)
            if start > end:
                content, status = b"", 416
            else:
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                content, status = content[start : end + 1], 206
        self.send_response(status)
        fixed = {
            "Content-Type": answer.kind,
            "Content-Length": str(len(content)),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Accept-Ranges": "bytes",
        }
        for name, value in (fixed | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_one_request(self) -> None:
        """One request. A browser that goes away, or speaks no HTTP, is no error of ours."""
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError, ValueError):
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a connection that broke is no news."""


def address_taken(host: str, port: int, error: OSError) -> UserError:
    """An address that cannot be listened on."""
    message = f"cannot listen on {host}:{port}: {error.strerror or error}"
    return UserError(Problem("QR070", message, Place("--port"), "take another port"))


@contextmanager
def served(site: Site, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serves a site and gives its address; ends with the block. Raises `UserError` where the address is taken."""
    handler = type("Handler", (_Handler,), {"site": site, "host": host})
    try:
        server = _Server((host, port), handler)
    except OSError as e:
        raise address_taken(host, port, e) from None
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    name = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{name}:{server.server_port}/"
    finally:
        with suppress(OSError):
            server.shutdown()
            server.server_close()
