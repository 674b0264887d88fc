"""A process whose user the system does not know, as in a container that runs under any number."""

from __future__ import annotations

import os
import pwd


def settle_user() -> None:
    """Gives such a process what libraries ask for: torch a user's name, librosa's dependencies a folder for caches."""
    try:
        pwd.getpwuid(os.getuid())
        return
    except KeyError:
        pass
    os.environ.setdefault("USER", f"uid-{os.getuid()}")
    if not os.environ.get("HOME") and os.environ.get("QRECIPE_CACHE"):
        os.environ.setdefault("XDG_CACHE_HOME", os.environ["QRECIPE_CACHE"])
