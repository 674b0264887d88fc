"""Ogg and AIFF files that broke off while they were copied. Decoders play what there is of them without a word."""

from __future__ import annotations

import struct
from pathlib import Path

TAIL = 1 << 17
"""Bytes at the end of an Ogg file that hold its last page's head; a page has at most 65,307."""
PAGE_HEAD = 27
"""Bytes of an Ogg page before its table of segments."""


def missing_bytes(path: Path) -> int:
    """Bytes that a file's last page or chunk lacks; 0 for a whole file and for other formats. Raises `OSError`."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        head = f.read(12)
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return int(max(0, struct.unpack(">I", head[4:8])[0] + 8 - size))
        if head[:4] != b"OggS":
            return 0
        f.seek(max(0, size - TAIL))
        return _of_the_last_page(f.read())


def _of_the_last_page(tail: bytes) -> int:
    start = tail.rfind(b"OggS")
    if start < 0:
        return 0
    page = tail[start:]
    if len(page) < PAGE_HEAD:
        return PAGE_HEAD - len(page)
    segments = page[26]
    table = page[PAGE_HEAD : PAGE_HEAD + segments]
    return max(0, PAGE_HEAD + segments + sum(table) - len(page))
