"""Recordings in containers that libsndfile does not read: m4a, mp4, mov, webm, mkv, aac, wma, amr, gsm. Decoded by PyAV, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = (
    *((4, b"ftyp"), (4, b"moov"), (4, b"wide"), (4, b"mdat"), (0, b"\x1a\x45\xdf\xa3"), (0, b"\x30\x26\xb2\x75"), (0, b"#!AMR")),
    *((0, b"\xff\xf1"), (0, b"\xff\xf9"), (0, b"FLV"), (8, b"AVI "), (0, b"wvpk"), (0, b"\x0b\x77"), (0, b"MAC ")),
)
"""Offsets and first bytes: MP4 and its kin, old QuickTime, Matroska and WebM, ASF, AMR, AAC, Flash, AVI, WavPack, AC-3, Monkey's
Audio. PyAV opens nothing else: a playlist that calls itself a recording would have it read other files."""
BARE = {".gsm": "gsm", ".g722": "g722"}
"""Ends of names of files without a header -> their format."""
INSTALL = "PyAV reads it, which is not installed: pip install 'qrecipe[import]'"


def is_container(path: Path) -> bool:
    """Whether a file begins like a container of these. Raises `OSError`."""
    with open(path, "rb") as f:
        head = f.read(16)
    return path.suffix.lower() in BARE or any(head[offset : offset + len(magic)] == magic for offset, magic in MAGIC)


@dataclass(frozen=True)
class Stream:
    """The first sound of a file."""

    rate: int
    """Hz."""
    channels: int
    blocks: Iterator[NDArray[np.float32]]
    """[samples, channels] each; raises `ValueError` for a damaged file."""


def open_stream(path: Path) -> Stream:
    """Opens a file. Raises `ValueError` for one without sound, `ImportError` without PyAV."""
    try:
        import av
    except ImportError:
        raise ImportError(INSTALL) from None
    av.logging.set_level(None)
    try:
        container = av.open(str(path), format=BARE.get(path.suffix.lower()))
        sounds = container.streams.audio
    except (av.FFmpegError, OSError) as e:
        raise ValueError(str(getattr(e, "strerror", None) or e)) from None
    if not sounds:
        container.close()
        raise ValueError("the file holds no sound")
    return Stream(sounds[0].rate, sounds[0].channels, _blocks(av, container, sounds[0]))


def _blocks(av: Any, container: Any, stream: Any) -> Iterator[NDArray[np.float32]]:
    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    try:
        with container:
            for frame in container.decode(stream):
                for part in resampler.resample(frame):
                    yield np.ascontiguousarray(part.to_ndarray().T)
            for part in resampler.resample(None):
                yield np.ascontiguousarray(part.to_ndarray().T)
    except av.FFmpegError as e:
        raise ValueError(str(e.strerror or e)) from None
