"""Files that are whole or absent: atomic writes, content hashes, canonical JSON, the cache folder.

Everything is written under a temporary name in the same folder, synced and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from qrecipe.errors import Place, Problem, QRecipeError, UserError
from qrecipe.hash_table import UNMEASURED, HashTable, Known, Stored

T = TypeVar("T")

Measure = Callable[[bytes, int], float]
"""Seconds of a recording by its first bytes and its size, or `UNMEASURED`."""

_CHUNK, _START = 1 << 20, 1 << 16
NOT_UTF8 = "backslashreplace"
"""Treatment of bytes in the name of a file that are not UTF-8: Python's stand-ins for them become escapes of JSON."""
MAX_DOCUMENT = 64 << 20
"""Bytes of a JSON file that are read at most."""
READERS = 8
"""Threads that hash files."""
SHARE = 64
"""Files that a thread hashes before it is given others: handing one over takes as long as reading a small one."""
SLOW = 2e-4
"""Seconds for a file from which several threads read, because files are large or a disk is waited for."""
MAX_UNSAVED = 50_000
"""Hashes of files that are held in memory before they are stored."""


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


def sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return _read(path)[0]


def _read(path: Path | str) -> tuple[str, bytes, int]:
    """SHA-256 of a file's bytes, in hex, the first of them, and how many there are. Raises `OSError` with the path."""
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            start = os.read(fd, _START)
            h, size = hashlib.sha256(start), len(start)
            while chunk := os.read(fd, _CHUNK):
                h.update(chunk)
                size += len(chunk)
        finally:
            os.close(fd)
    except OSError as e:
        e.filename = str(path)
        raise
    return h.hexdigest(), start, size


def sha256_while_synced(path: Path) -> str:
    """SHA-256 of a file that was just written, read from memory while the disk takes it. Afterwards it is durable."""
    with open(path, "rb+") as f, ThreadPoolExecutor(1) as pool:
        synced = pool.submit(os.fsync, f.fileno())
        digest = sha256(path)
        synced.result()
    return digest


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
    joined = os.path.join(_real_folder(folder if os.path.isabs(folder) else os.path.join(os.getcwd(), folder)), name)
    return os.path.realpath(joined) if os.path.islink(joined) else joined


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


class FileHashes:
    """SHA-256 of files, remembered by path, size and times, so that a plan does not read gigabytes twice."""

    def __init__(self, store: Path | None = None) -> None:
        self.store = store or cache_dir() / "hashes.sqlite"
        self._table = HashTable(self.store)
        self._known: dict[str, Known] = {}
        """Entries that were asked for one by one, and those that are not stored yet."""
        self._new: dict[str, None] = {}
        """Names of those that are not stored yet, in order: a table takes neighbours faster."""
        self._added: list[Stored] = []
        self._read: dict[Hashable, Any] = {}

    def known(self, path: Path | str) -> str | None:
        """The hash if the file was hashed before and has not changed since."""
        name, state = located(path)
        known = self._lookup(name)
        return known.sha256 if known is not None and known.state == state else None

    def sha256(self, path: Path | str) -> str:
        """The file's hash, computed if it is not known."""
        return self._entry(path)[1].sha256

    def seconds(self, path: Path | str, measure: Callable[[Path | str], float | None]) -> float | None:
        """How long a recording is, measured once and remembered beside the hash."""
        name, known = self._entry(path)
        if known.seconds == UNMEASURED:
            known = self._learn(name, known._replace(seconds=measure(path)))
        return known.seconds

    def sha256_of_all(self, paths: Sequence[str]) -> list[str]:
        """The hashes of many files; those that are not known are read, by several threads where that takes long."""
        return [known.sha256 for known in self.entries([located(path) for path in paths])]

    def seconds_of_all(self, paths: Sequence[str], measure: Callable[[Path | str], float | None]) -> list[float | None]:
        """How long recordings are, as `seconds` gives it for one."""
        files, lengths = [located(path) for path in paths], list[float | None]()
        for path, (name, _), known in zip(paths, files, self.entries(files)):
            if known.seconds == UNMEASURED:
                known = self._learn(name, known._replace(seconds=measure(path)))
            lengths.append(known.seconds)
        self._make_room()
        return lengths

    def entries(self, files: Sequence[tuple[str, str]], measure: Measure | None = None) -> list[Known]:
        """Entries of files that were `located`. Those that are not known are read, and measured."""
        stored = self._table.get([name for name, _ in files if name not in self._known])
        known = [self._known.get(name) or stored.get(name) for name, _ in files]
        unread = [i for i, (k, (_, state)) in enumerate(zip(known, files)) if k is None or k.state != state]
        for i, (checksum, seconds) in zip(unread, _read_all([files[i][0] for i in unread], measure)):
            name, state = files[i]
            known[i] = self._learn(name, Known(state, checksum, seconds))
        self._make_room()
        return [k for k in known if k is not None]

    def take(self) -> list[Stored]:
        """Entries that were learned and are not stored, which are then forgotten here: for another process to `add`."""
        entries = [(os.fsencode(name), *self._known.pop(name)) for name in self._new]
        self._new.clear()
        return entries

    def add(self, entries: Iterable[Stored]) -> None:
        """Adds entries that other hashes have learned. They are looked up here after `save`."""
        self._added += entries
        if len(self._added) > MAX_UNSAVED:
            self.save()

    def once(self, key: Hashable, read: Callable[[], T], is_current: Callable[[T], bool]) -> T:
        """The result of `read`, which is read again only where it is no longer current.

        Not kept on disk: for a command that reads one file for several recipes.
        """
        if key not in self._read or not is_current(self._read[key]):
            self._read[key] = read()
        value: T = self._read[key]
        return value

    def save(self) -> None:
        """Stores what was learned; a cache that cannot be written is no error."""
        entries = [*self._added, *((os.fsencode(name), *self._known[name]) for name in self._new)]
        if entries and self._table.put(entries):
            self._new.clear()
        else:
            self._known.update({os.fsdecode(name): Known(state, checksum, seconds) for name, state, checksum, seconds in self._added})
        self._added.clear()

    def _lookup(self, name: str) -> Known | None:
        if name not in self._known:
            self._known.update(self._table.get([name]))
        return self._known.get(name)

    def _entry(self, path: Path | str) -> tuple[str, Known]:
        """The name of a file and its entry, after it was read if need be."""
        name, state = located(path)
        known = self._lookup(name)
        if known is None or known.state != state:
            known = self._learn(name, Known(state, sha256(path)))
        return name, known

    def _learn(self, name: str, known: Known) -> Known:
        self._known[name] = known
        self._new[name] = None
        return known

    def _make_room(self) -> None:
        """Stores what was learned where it is so much that it would fill the memory."""
        if len(self._new) > MAX_UNSAVED:
            self.save()
            if not self._new:
                self._known.clear()


def _read_all(paths: Sequence[str], measure: Measure | None) -> Iterator[tuple[str, float]]:
    """SHA-256 and seconds of files: read here, or by several threads as soon as that takes long."""

    def read(paths: Sequence[str]) -> list[tuple[str, float]]:
        contents = map(_read, paths)
        return [(checksum, UNMEASURED if measure is None else measure(start, size)) for checksum, start, size in contents]

    for at in range(0, len(paths), SHARE):
        begin = time.perf_counter()
        yield from read(paths[at : at + SHARE])
        if time.perf_counter() - begin > SLOW * SHARE:
            with ThreadPoolExecutor(READERS) as pool:
                shares = (paths[i : i + SHARE] for i in range(at + SHARE, len(paths), SHARE))
                yield from chain.from_iterable(pool.map(read, shares))
            return


def located(path: Path | str) -> tuple[str, str]:
    """The name of a file with links followed, and its `state_of`. Raises `OSError`."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return os.path.realpath(path), state_of(os.stat(path))
    folder, _, last = os.path.abspath(path).rpartition(os.sep)
    return f"{_real_folder(folder or os.sep)}{os.sep}{last}", state_of(status)


def state_of(status: os.stat_result) -> str:
    """Size, times and number of a file: whoever replaces it can set its size and its first time, and neither of the others."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


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
