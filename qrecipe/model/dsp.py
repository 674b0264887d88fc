"""The one place that imports librosa and numba, and where and when numba compiles.

numba keeps compiled functions in files, and cannot share them between processes: it enters the name of a new file into a
function's index, which it read earlier and without a lock, and writes the file afterwards. Two processes that compile
one function for two types at once leave an index that names the code for the one type as that for the other, and every
later process that runs it gets an error or a segmentation fault. So no two living processes work in the same folder.
A folder is taken over, with what is in it, when its process has ended.

librosa has numba compile five functions while it is imported, which takes twenty seconds of a processor the first time;
what is used here needs two of them at most. So each is compiled when it is first called. Never imports torch.
"""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import IO, Any

from qrecipe.files import cache_dir
from qrecipe.store import try_lock

FOLDER = "NUMBA_CACHE_DIR"
"""Environment variable that numba asks for a folder; one that is given is used as it is."""
_LOCKS: list[IO[bytes]] = []
"""Never closed: they go with the process."""


@cache
def librosa() -> Any:
    """The package, imported at the first call."""
    compile_apart()
    import librosa

    return librosa


@cache
def compile_apart() -> Any:
    """Gives numba a folder of the user's cache that no other process has. To be called before anything imports numba, which it returns."""
    if "numba" in sys.modules:
        return sys.modules["numba"]
    pool, folder = cache_dir() / "numba", os.environ.get(FOLDER)
    if folder is None or Path(folder).parent == pool:  # a parent process has that one
        os.environ[FOLDER] = str(claimed(pool))
    import numba

    numba.guvectorize = _when_called(numba.guvectorize)
    return numba


def _when_called(guvectorize: Callable[..., Any]) -> Callable[..., Any]:
    """numba's decorator, whose functions are compiled at their first call instead of where they are written."""

    def decorator(*signature: Any, **options: Any) -> Callable[..., Any]:
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            compiled = cache(lambda: guvectorize(*signature, **options)(function))

            @wraps(function)
            def call(*arguments: Any, **named: Any) -> Any:
                return compiled()(*arguments, **named)

            return call

        return decorate

    return decorator


def claimed(pool: Path) -> Path:
    """The first numbered folder of `pool` that no living process has, claimed until this one ends, however it ends.

    Where nothing can be written or locked: a temporary folder.
    """
    for number in itertools.count():
        folder = pool / str(number)
        try:
            lock = try_lock(folder / ".held")
            if lock is not None:
                _LOCKS.append(lock)
                os.utime(lock.fileno())  # says when it was last of use
                return folder
        except OSError:
            break
    temporary = Path(tempfile.mkdtemp(prefix="qrecipe-numba-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary
