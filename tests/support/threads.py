"""Processes with as many threads as torch takes by itself, as people run them; the suite's own have one."""

from __future__ import annotations

import os


def default_threads() -> dict[str, str]:
    """This process's environment without its number of threads.

    Threads that wait for each other leave the core to other tests meanwhile, which changes nothing that is computed.
    """
    return {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"OMP_WAIT_POLICY": "PASSIVE"}
