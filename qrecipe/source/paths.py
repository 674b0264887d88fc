"""Paths as people from other systems write them: which file they name, or how they would be written here."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from qrecipe.errors import nearest
from qrecipe.files import is_file

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}|%\w+%")
_ESCAPES = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
"""Characters that JSON and YAML make of a backslash and the first letter of a name."""

Listings = dict[str, dict[str, str]]
"""Folder -> its files by their names as `_plain` has them, for whoever asks about many missing files."""


def find(folder: Path, text: str) -> tuple[Path, bool]:
    """The path that `text` means in a folder, and whether a file is there.

    Letters may be composed otherwise than on the disk: archives of another system write `e` and its accent apart.
    """
    path = folder / text
    if is_file(path):
        return path, True
    for form in () if text.isascii() else ("NFC", "NFD"):
        composed = folder / unicodedata.normalize(form, text)
        if is_file(composed):
            return composed, True
    return path, False


def hint(text: str, folder: Path, listings: Listings | None = None) -> str | None:
    """Why a path cannot name a file, and how it is written here; else the file of its folder that was most likely meant.

    With `listings` only names count that differ by case or ending, which takes no longer for very many.
    """
    escape = next((c for c in text if c in _ESCAPES), None)
    plain = "".join(_ESCAPES.get(c, c) for c in text).strip().strip("\"'").strip()
    address = _ADDRESS.match(plain)
    if address is not None and address[1].lower() != "file":
        return f"`{address[0]}` begins an address, and nothing is downloaded: fetch the file and write its path"
    written = unquote(urlsplit(plain).path) if address else plain.replace("\\", "/")
    if address is not None:
        why = "`file://` begins an address"
    elif _DRIVE.match(plain):
        why, written = "drives and backslashes are of another system", written[2:]
    elif "\\" in plain:
        why = "a backslash separates no folders here" + (f", and `{_ESCAPES[escape]}` is one character" if escape else "")
    elif plain.startswith("~"):
        why, written = "`~` does not stand for the home folder here", written.partition("/")[2]
    elif (variable := _VARIABLE.match(plain)) is not None:
        why, written = f"`{variable[0]}` is not replaced", written[variable.end() :]
    elif plain != text:
        why = "there are blanks or quotation marks around the path"
    elif "%" in plain and within(unquote(plain), folder):
        why, written = "`%` and two digits stand for a character in addresses alone", unquote(plain)
    else:
        return _sibling(folder / text, text, listings)
    here = within(written, folder)
    if here is None and "\\" in plain and not _DRIVE.match(plain):
        here = written
    return f"{why}: write " + (f"`{here}`" if here else "a path relative to the file that states it")


def within(text: str, folder: Path) -> str | None:
    """The longest end of a path that is a file of a folder: what remains right of it on another machine."""
    parts = [p for p in text.split("/") if p]
    ends = ("/".join(parts[i:]) for i in range(len(parts)) if ".." not in parts[i:])
    return next((end for end in ends if is_file(folder / end)), None)


def _sibling(path: Path, text: str, listings: Listings | None) -> str | None:
    """The file beside a missing one that was most likely meant, written as the path was."""
    folder = str(path.parent)
    if listings is None:
        close = nearest(path.name, _files(folder))
    else:
        if folder not in listings:
            listings[folder] = {key: name for name in _files(folder) for key in (_stem(name), _plain(name))}
        close = listings[folder].get(_plain(path.name)) or listings[folder].get(_stem(path.name))
    return f"did you mean `{os.path.join(os.path.dirname(text), close)}`?" if close else None


def _files(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [e.name for e in entries if e.is_file()]
    except (OSError, ValueError):
        return []


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _stem(name: str) -> str:
    """A name without its ending, which no whole name equals."""
    return os.path.splitext(_plain(name))[0] + "\0"
