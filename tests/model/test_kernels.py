"""Triton's kernels give what torch gives, number by number, as triton's interpreter runs them, which needs no GPU.

What is compiled is tried on the GPU before it is used.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

KERNELS = """
import torch
from qrecipe.model import attention
from qrecipe.model.generate.weights import Stack
from qrecipe.model.kernels import decode, short_attention

cpu = torch.device("cpu")
for sizes in ((4, 2, 64, 96), (3, 3, 32, 48)):
    assert decode.agrees(Stack([], torch.empty(0), *sizes, 1e-6, torch.empty(0), None), cpu, torch.float32), sizes

def wrong(*given):
    return short_attention.attend(*given[:-1], 2 * given[-1])

for length in (8, 16, 20):
    for dtype in (torch.float32, torch.float16):
        assert attention.agrees(short_attention.attend, 32, length, cpu, dtype), (length, dtype)
assert not attention.agrees(wrong, 32, 16, cpu, torch.float32)
"""


@pytest.mark.slow
def test_kernels_give_what_torch_gives() -> None:
    """Those of a step of speaking, and that between the projections; a process of its own, since triton asks once."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
