"""`qrecipe` under a launcher, where rank 1 meets a fault in its first attempt: `python -m tests.support.armed FAULT ARGUMENTS`."""

from __future__ import annotations

import os
import sys

from qrecipe.cli import main
from tests.support.crash import arm

if __name__ == "__main__":
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        arm(sys.argv[1])
    main(sys.argv[2:])
