"""Files that are whole or absent: atomic writes, documents of JSON and their hashes, the cache folder.

Everything is written under a temporary name in the same folder, synced and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from qrecipe.errors import Place, Problem, QRecipeError, UserError

_CHUNK = 1 << 20
NOT_UTF8 = "backslashreplace"
"""Treatment of bytes in the name of a file that are not UTF-8: Python's stand-ins for them become escapes of JSON."""
MAX_DOCUMENT = 64 << 20
"""Bytes of a JSON file that are read at most."""


class WriteError(OSError):
    """A file that could not be written: `errno`, `strerror`, and `filename`, the name that a person knows it by."""


def cache_dir() -> Path:
    """The user's cache of audio codes, x-vectors and file hashes: `QRECIPE_CACHE`, else `~/.cache/qrecipe`.

    Raises `UserError` where neither says where it is: a container may run as a user without a home.
    """
    folder = os.environ.get("QRECIPE_CACHE")
    if folder:
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qrecipe"
    except RuntimeError:
        help_ = "set QRECIPE_CACHE to a folder that can be written, or HOME"
        raise UserError(Problem("QR075", "this user has no home folder to keep a cache in", Place("HOME"), help_)) from None


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode(errors=NOT_UTF8)).hexdigest()


def says_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full, in Python's words or in those of a native library."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or "Disk quota exceeded" in str(error)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes `path`: an error in it that concerns `path` leaves it as a `WriteError` under that name."""
    try:
        yield
    except QRecipeError:
        raise
    except Exception as e:
        if says_full(e):
            raise WriteError(getattr(e, "errno", None) or errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from e
        if isinstance(e, OSError) and e.errno is not None and _concerns(e.filename, path):
            raise WriteError(e.errno, os.strerror(e.errno), str(path)) from e
        raise


def _concerns(name: object, path: Path) -> bool:
    """Whether an error's file is `path`, beside it (a temporary name) or above it; errors of writing itself name none."""
    if name is None:
        return True
    if not isinstance(name, (str, os.PathLike)):
        return False
    return Path(name).is_relative_to(path.parent) or path.is_relative_to(name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; when the block ends without an error it is synced and takes the place of `path`.

    Raises `WriteError`.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(fd)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb+") as f:
                os.fsync(f.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=NOT_UTF8)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON for people to read, atomically, keys in the given order."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """JSON for people to read, keys in the given order, ended by a newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, at_most: int = MAX_DOCUMENT) -> Any:
    """Reads a JSON file. Raises `OSError` and `ValueError`, also for one of more than `at_most` bytes or nested too deeply."""
    with open(path, "rb") as f:
        content = f.read(at_most + 1)
    if len(content) > at_most:
        raise ValueError(f"more than {at_most:,} bytes")
    return loads_json(content.decode("utf-8"))


def loads_json(text: str) -> Any:
    """A JSON text of a stranger's. Raises `ValueError`, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """A document with the hash of the rest of it under `sha256`."""
    return {**value, "sha256": digest(value)}


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads what was written `sealed`. Raises `OSError`, and `ValueError` if a single character of it has changed."""
    value = read_json(path)
    if not isinstance(value, dict) or value.pop("sha256", None) != digest(value):
        raise ValueError(f"{path.name} was changed")
    return value


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends without an error.

    If `path` exists by then (another process was faster), the temporary folder is dropped. Raises `WriteError`.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            os.chmod(temporary, 0o755)
            yield temporary
            _sync(temporary)
            try:
                if not path.exists():
                    os.rename(temporary, path)
                    sync_folder(path.parent)
            except OSError:
                if not path.exists():  # not a race that another process won
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Makes everything in a folder durable."""
    for file in sorted(folder.rglob("*"), reverse=True):
        if file.is_dir():
            sync_folder(file)
        else:
            with open(file, "rb+") as f:
                os.fsync(f.fileno())
    sync_folder(folder)


def is_file(path: Path) -> bool:
    """Whether a file is there; False for names that no file can have, where `Path.is_file` raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or a NUL
        return False


def real_path(path: Path | str) -> str:
    """Like `os.path.realpath`, quick for many files of one folder."""
    folder, name = os.path.split(path)
    if name in ("", "..", "."):
        return os.path.realpath(path)
    joined = os.path.join(real_folder(folder if os.path.isabs(folder) else os.path.join(os.getcwd(), folder)), name)
    return os.path.realpath(joined) if os.path.islink(joined) else joined


@lru_cache(maxsize=4096)
def real_folder(folder: str) -> str:
    """`os.path.realpath` of a folder, remembered."""
    return os.path.realpath(folder)


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's content, sharing blocks where the file system can (reflink), never hard-linking."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(source, "rb") as s, open(target, "wb") as t:
        try:
            import fcntl

            fcntl.ioctl(t.fileno(), 0x40049409, s.fileno())  # FICLONE
            return
        except (ImportError, OSError):
            pass
        shutil.copyfileobj(s, t, _CHUNK)
