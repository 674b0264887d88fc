"""Standard output and standard error: closed ones, ones that nobody reads any more, colours, lines of words.

What is shown must never end the work that it is about: a stream that can no longer be written is turned to nowhere.
"""

from __future__ import annotations

import io
import os
import re
import select
import sys
from contextlib import suppress
from typing import IO, TextIO

_WORDS = re.compile(r"(?:`[^`]*`|[^\s`])+|`")
"""Words; what stands in backquotes is one, so that a command can be copied."""


def settle_streams() -> None:
    """Makes the three standard streams usable, whatever this process was started with.

    A closed one is opened to nowhere: the next file that is opened would take its place and get what is printed.
    Characters that a terminal's encoding does not have are shown as escapes.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for the life of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_read(stream: TextIO) -> bool:
    """Whether what is written to a stream can arrive: false for a pipe or a terminal whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file of the operating system's
        return True
    return not poll.poll(0)


def can_write(stream: IO[str]) -> bool:
    """Whether a stream takes another line end; one that does not is given up."""
    try:
        print(file=stream, flush=True)
    except OSError:
        give_up(stream)
        return False
    return True


def give_up(stream: IO[str]) -> None:
    """Turns a stream that cannot be written to nowhere, for what is written to it from now on."""
    with suppress(OSError, ValueError):  # one that is no file of the operating system's
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def tell(text: str) -> None:
    """Prints to standard error, if anyone reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def wants_colours() -> bool:
    """Whether the environment lets a terminal have colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def wrapped(text: str, width: int | None, indent: int = 0) -> str:
    """A text in lines of at most `width` characters, later ones indented; a longer word stays whole on a line of its own.

    >>> print(wrapped("the help: `qrecipe gc --delete` frees some", 24, 2))
    the help:
      `qrecipe gc --delete`
      frees some
    """
    if width is None or len(text) <= width:
        return text
    lines = [text[: len(text) - len(text.lstrip())]]
    for word in _WORDS.findall(text):
        gap = " " if lines[-1].strip() else ""
        if gap and len(lines[-1]) + 1 + len(word) > width:
            lines.append(" " * indent + word)
        else:
            lines[-1] += gap + word
    return "\n".join(lines)
