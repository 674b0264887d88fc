"""Batches that fit into memory: order, results and the limit that is kept, with memory that is full beyond a bound."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qrecipe.errors import BaseModelError, UserError
from qrecipe.inputs.bases import LocalBase
from qrecipe.model import load as opened
from qrecipe.model.batcher import AdaptiveBatcher, recording_too_large


class Gpu:
    """Doubles numbers, if those of a part add up to no more than `memory`."""

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.tried: list[int] = []

    def __call__(self, part: Sequence[int]) -> list[int]:
        self.tried.append(sum(part))
        if sum(part) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * n for n in part]


def batcher(limit: float, name: str = "clip") -> AdaptiveBatcher[int]:
    return AdaptiveBatcher(limit, sum, lambda n: recording_too_large(f"{name} {n}"))


def computed(batches: AdaptiveBatcher[int], items: list[int], gpu: Gpu) -> list[int]:
    return [r for _, results in batches.run(items, gpu) for r in results]


def test_parts_are_as_large_as_asked_for() -> None:
    gpu = Gpu(1000)
    assert computed(batcher(10), [1, 2, 3, 4, 5, 50, 6], gpu) == [2, 4, 6, 8, 10, 100, 12]
    assert gpu.tried == [10, 5, 50, 6]


def test_what_does_not_fit_is_halved_and_not_tried_again() -> None:
    gpu = Gpu(9)
    batches = batcher(32)
    assert computed(batches, [4] * 20, gpu) == [8] * 20
    assert gpu.tried == [32, 16] + [8] * 10
    assert computed(batches, [4] * 2, gpu) == [8, 8]
    assert gpu.tried[-1] == 8


def test_an_item_that_does_not_fit_alone_is_named_after_what_came_before_it() -> None:
    gpu = Gpu(9)
    done: list[int] = []
    with pytest.raises(UserError, match="does not fit into the GPU's memory: clip 12") as caught:  # noqa: PT012  # what was yielded before is part of it
        for _, results in batcher(32).run([4, 5, 12, 1], gpu):
            done += results
    assert [p.code for p in caught.value.problems] == ["QR074"]
    assert done == [8, 10]


@pytest.mark.parametrize("given", [None, "max_split_size_mb:512"])
def test_memory_of_a_gpu_grows_in_one_piece_unless_a_person_says_otherwise(
    mini: LocalBase, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in opened.ALLOCATOR:
        monkeypatch.setenv(name, "")
    if given is not None:
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", given)
    asked = []

    def from_pretrained(folder: str, **settings: Any) -> None:
        asked.append((settings["device_map"], os.environ.get("PYTORCH_ALLOC_CONF")))
        raise RuntimeError("there is no GPU here")

    monkeypatch.setattr(opened, "stock", lambda: SimpleNamespace(Model=SimpleNamespace(from_pretrained=from_pretrained)))
    for device in ("cpu", "cuda"):
        with pytest.raises(BaseModelError, match="there is no GPU here"):
            opened.open_model(mini, torch.device(device))
    assert asked == [("cpu", ""), ("cuda", "" if given else "expandable_segments:True")]
