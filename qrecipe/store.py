"""Results on disk by what they depend on: looked up before they are made, made once, whole or absent.

The inputs of a result are plain JSON of everything that it depends on, and its key is their digest. A store
holds entries of one kind in one folder; inputs that all of them share may name the folder. Every entry carries a
hash of its content, so a damaged one is as good as absent and is made again. Processes that want the same entries
at once share them out. Imports torch only where tensors are read or written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

from qrecipe.files import NOT_UTF8, digest, read_sealed, replacing, sealed, write_json, writing
from qrecipe.hashes import sha256

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PAUSE = 0.2
"""Seconds between two looks at what other processes are making."""
TEMPORARY_AGE = 3600.0
"""Seconds after which a temporary file in a folder that several processes share belongs to none of them."""
_TEMPORARY = re.compile(r"\..+\.tmp\Z")
_SEAL = 32
"""Bytes of the SHA-256 before the content of a sealed file."""


def key_of(inputs: Any, digits: int = 32) -> str:
    """The name of an entry: the first hex digits of the digest of its inputs, a value for canonical JSON."""
    return digest(inputs)[:digits]


class Store(Generic[T]):
    """Entries of one kind, a file each; subclasses read and write the files."""

    suffix = ""

    def __init__(self, folder: Path) -> None:
        """`folder` holds the entries. It is made when the first one is written."""
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where an entry is stored."""
        return self.folder / f"{key}{self.suffix}"

    def get(self, key: str) -> T | None:
        """The value of an entry, which then counts as used; None if it is absent or damaged."""
        path = self.path(key)
        try:
            value = self._read(path)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        _touch(path)
        return value

    def put(self, key: str, value: T) -> T:
        """Writes an entry atomically, over one that is damaged. Returns the value as `get` would."""
        with replacing(self.path(key)) as temporary:
            self._write(temporary, value)
        return value

    def get_or_make(
        self,
        keys: Sequence[str],
        make: Callable[[int], T],
        pause: float = PAUSE,
    ) -> Iterator[tuple[int, T]]:
        """Gives (index of the key, value) for every key, in the order in which the values are ready.

        A process that makes an entry holds a lock beside its file; other processes make the next entries and
        come back. The lock goes with its process, however that ends.

        Args:
            keys: of the entries, each once.
            make: computes the value of a key by its index; it is stored before it is yielded.
            pause: seconds between two looks, when other processes are making all that is missing.
        """
        pending = list(range(len(keys)))
        while pending:
            taken = []
            for i in pending:
                value = self.get(keys[i])
                if value is None:
                    with _claim(self.path(keys[i])) as mine:
                        if mine:
                            value = self.get(keys[i])  # it may have been made between the two looks
                            value = self.put(keys[i], make(i)) if value is None else value
                if value is None:
                    taken.append(i)
                else:
                    yield i, value
            if taken == pending:
                time.sleep(pause)
            pending = taken

    def _read(self, path: Path) -> T:
        """Reads and checks a file. Raises `OSError`, `ValueError`, `KeyError` or `TypeError` if it is damaged."""
        raise NotImplementedError

    def _write(self, path: Path, value: T) -> None:
        raise NotImplementedError


class JsonStore(Store[dict[str, Any]]):
    """JSON objects, each with its own hash under `sha256`."""

    suffix = ".json"

    def _read(self, path: Path) -> dict[str, Any]:
        return read_sealed(path)

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        write_json(path, sealed(value))


class TensorStore(Store[dict[str, "torch.Tensor"]]):
    """A few tensors an entry, on the CPU: the SHA-256 of what follows, 32 bytes, then a safetensors file."""

    suffix = ".sealed"

    def __init__(self, folder: Path, *names: str) -> None:
        """An entry that holds other tensors than `names` counts as damaged."""
        super().__init__(folder)
        self._names = set(names)

    def _read(self, path: Path) -> dict[str, torch.Tensor]:
        from safetensors.torch import load

        content = path.read_bytes()
        body = memoryview(content)[_SEAL:]
        if hashlib.sha256(body).digest() != content[:_SEAL]:
            raise ValueError(f"{path.name} was changed")
        tensors = load(bytes(body))
        if tensors.keys() != self._names:
            raise ValueError(f"{path.name} holds other tensors")
        return tensors

    def _write(self, path: Path, value: dict[str, torch.Tensor]) -> None:
        from safetensors.torch import save

        body = save(value)
        path.write_bytes(hashlib.sha256(body).digest() + body)


class MappedStore(Store[Any]):
    """Many tensors an entry, which stay on disk: an open safetensors file whose name ends in the hash of its bytes."""

    def get(self, key: str) -> Any:
        """The file of an entry, opened by `safe_open`; None if it is absent. A damaged one is removed."""
        from safetensors import safe_open

        for path in self.paths(key):
            if sha256(path).startswith(path.stem.partition("-")[2]):
                _touch(path)
                return safe_open(str(path), framework="pt")
            path.unlink(missing_ok=True)
        return None

    def put(self, key: str, value: Any) -> Any:
        """Writes tensors by name atomically, and opens the file: the tensors need not stay in memory."""
        from safetensors import safe_open
        from safetensors.torch import save_file

        part = self.folder / f"{key}.part"
        with replacing(part) as temporary:
            save_file(value, str(temporary))
            content = sha256(temporary)
        path = self.folder / f"{key}-{content[:32]}.safetensors"
        os.replace(part, path)
        return safe_open(str(path), framework="pt")

    def paths(self, key: str) -> Iterator[Path]:
        """Files that claim to be this entry: one, or none."""
        return self.folder.glob(f"{key}-*.safetensors")


class Journal:
    """Small answers in one file, a line of JSON each, written at once; without a file, for this process alone."""

    def __init__(self, path: Path | None = None, writes: bool = True) -> None:
        """Reads the answers that `path` holds so far; adds to it if this process `writes`."""
        self._path = path if writes else None
        self._answers: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        if path is None or not path.is_file():
            return
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # the line that a killed process was writing
                entry = json.loads(line)
                self._answers[entry["key"]] = entry["value"]

    def get(self, inputs: Any) -> Any:
        """The answer to these inputs, else None."""
        return self._answers.get(key_of(inputs))

    def get_or_make(self, inputs: Any, make: Callable[[], Any]) -> Any:
        """The answer to these inputs, plain JSON, made and written where it is not known yet."""
        key = key_of(inputs)
        if key not in self._answers:
            self.add({key: make()})
        return self._answers[key]

    def add(self, answers: dict[str, Any]) -> None:
        """Adds and writes answers by their keys, where they are not known yet."""
        for key in answers.keys() - self._answers.keys():
            self._answers[key] = self._new[key] = answers[key]
            if self._path is not None:
                line = json.dumps({"key": key, "value": answers[key]}, ensure_ascii=False).encode(errors=NOT_UTF8) + b"\n"
                with writing(self._path):
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    with open(self._path, "a+b") as f:
                        if f.tell() and (f.seek(-1, os.SEEK_END), f.read(1))[1] != b"\n":
                            f.write(b"\n")  # a killed process did not come to the end of its line
                        f.write(line)

    def take_new(self) -> dict[str, Any]:
        """Answers by their keys that were added since the last call: what another process may not know."""
        new, self._new = self._new, {}
        return new


def try_lock(path: Path) -> IO[bytes] | None:
    """Locks a file, made if need be, until the returned file is closed or the process ends, however it ends.

    Returns None if another process holds the lock. Raises `OSError` where files cannot be written or locked.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115  # the caller closes it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        file.close()
        if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return file


@contextmanager
def _claim(path: Path) -> Iterator[bool]:
    """Whether no other process is making this entry. Where files cannot be locked, nobody waits."""
    lock = path.with_name(f".{path.name}.tmp")
    try:
        file = try_lock(lock)
        mine = file is not None
    except OSError:
        file, mine = None, True
    try:
        yield mine
    finally:
        if file is not None:
            lock.unlink(missing_ok=True)
            file.close()


def _touch(path: Path) -> None:
    """Marks an entry as used: `gc` lists those that were not for long."""
    with suppress(OSError):  # a cache of somebody else's may be read only
        os.utime(path)


def unused(folder: Path, seconds: float) -> Iterator[Path]:
    """Files of entries that were not used for so long."""
    now = time.time()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not is_temporary(path.name) and now - path.stat().st_mtime > seconds:
            yield path


def leftovers(folder: Path, deep: bool, age: float = TEMPORARY_AGE) -> Iterator[Path]:
    """Temporary files and folders of at least that age, left by killed processes; `deep`: in folders below too."""
    if not folder.is_dir():
        return
    now = time.time()
    for path in sorted(folder.rglob(".*.tmp") if deep else folder.glob(".*.tmp")):
        if any(is_temporary(p) for p in path.relative_to(folder).parts[:-1]):
            continue  # goes with the folder that it lies in
        if now - path.stat().st_mtime >= age:
            yield path


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is still being written, or was when its process ended."""
    return _TEMPORARY.match(name) is not None
