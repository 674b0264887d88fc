"""Pages of this machine: nothing but what the routes answer, to nobody else, and always with a status."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from qrecipe.report.serve import Response, Site, message, served

BODY = b"0123456789"


def get(path: str) -> Response | None:
    return Response(BODY, "text/plain") if path == "/" else None


def post(path: str, body: bytes) -> Response | None:
    return message(body.decode("utf-8", "replace")) if path == "/say" else None


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Site, int]]:
    one = Site(get, post)
    with served(one) as address:
        assert address.startswith("http://127.0.0.1:")
        yield one, int(address.rstrip("/").rpartition(":")[2])


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def test_a_page_and_none(site: tuple[Site, int]) -> None:
    status, body, headers = ask(site[1], "GET", "/?x=1")
    assert (status, body, headers["content-type"]) == (200, BODY, "text/plain")
    assert headers["x-content-type-options"] == "nosniff"
    assert ask(site[1], "GET", "/../../etc/passwd")[0] == 404
    assert ask(site[1], "HEAD", "/")[:2] == (200, b"")
    assert ask(site[1], "DELETE", "/")[0] == 501


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=8-", 206, b"89"),
        ("bytes=0-99", 206, BODY),
        ("bytes=10-", 416, b""),
        ("bytes=5-2", 416, b""),
        ("bytes=x", 200, BODY),
    ],
)
def test_parts_of_a_sound(asked: str, status: int, body: bytes, site: tuple[Site, int]) -> None:
    assert ask(site[1], "GET", "/", Range=asked)[:2] == (status, body)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_name_that_points_here_is_not_this_machine(host: str, site: tuple[Site, int]) -> None:
    assert ask(site[1], "GET", "/", Host=host)[0] == 403
    assert ask(site[1], "POST", "/say", b"x", Host=host, **{"X-Token": site[0].token})[0] == 403


def test_only_the_page_itself_may_send(site: tuple[Site, int]) -> None:
    assert ask(site[1], "POST", "/say", b"x")[0] == 403
    assert ask(site[1], "POST", "/say", b"x", **{"X-Token": "é"})[0] == 403
    status, body, _ = ask(site[1], "POST", "/say", b"hello", **{"X-Token": site[0].token})
    assert (status, body) == (200, b'{"message": "hello"}')
    assert ask(site[1], "POST", "/else", b"x", **{"X-Token": site[0].token})[0] == 404


def test_sizes(site: tuple[Site, int]) -> None:
    token = {"X-Token": site[0].token}
    assert ask(site[1], "POST", "/say", b"", **{**token, "Content-Length": "99999999"})[0] == 413
    assert ask(site[1], "POST", "/say", b"", **{**token, "Content-Length": "-1"})[0] == 411
    assert ask(site[1], "POST", "/say", b"", **{**token, "Transfer-Encoding": "chunked"})[0] == 411


def test_mutated_requests_end_in_a_status(site: tuple[Site, int], capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever comes, the server answers with a status or closes, says nothing on the terminal, and goes on."""
    sound = (
        f"POST /say HTTP/1.1\r\nHost: 127.0.0.1:{site[1]}\r\nX-Token: {site[0].token}\r\nContent-Length: 5\r\nRange: bytes=0-1\r\n\r\nhello"
    ).encode()
    drawn = random.Random(1)
    for _ in range(300):
        data = bytearray(sound)
        for _ in range(drawn.randint(1, 6)):
            at = drawn.randrange(len(data))
            data[at : at + drawn.choice([0, 1, 8])] = drawn.randbytes(drawn.choice([0, 1, 8, 200]))
        with socket.create_connection(("127.0.0.1", site[1]), timeout=10) as connection:
            connection.sendall(bytes(data))
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        assert answer == b"" or answer.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ", b"<!DOCTYPE HTML", b"{")), answer[:80]
    assert ask(site[1], "GET", "/")[0] == 200
    assert capfd.readouterr() == ("", "")
