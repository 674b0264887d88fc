"""Generation on a GPU: nothing of the batch in what a prompt says, kernels and torch alike, and as near to float32 as stock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from qrecipe.inputs.bases import BaseInfo
from qrecipe.model import generate, speak
from qrecipe.model.generate import Draw, Prompt, Sampling
from qrecipe.model.load import LoadedBase, open_model
from qrecipe.qwen3 import Layout

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

TEXTS = [
    "Good morning, how are you today?", "Yes.", "uno dos tres", "The quick brown fox jumps over the lazy dog.", "Saya suka makan nasi.",
    "Kucing itu tidur di atas kerusi.", "One, two, three, four, five.", "Buenos dias, señora.",
]  # fmt: skip
WAYS: list[tuple[int | None, Layout]] = [(2050, "streaming"), (None, "streaming"), (2050, "non_streaming"), (None, "non_streaming")]
DRAWN = Sampling(Draw(True, 0.9, 50), Draw(True, 0.9, 50), 1.05, 2, 40)
GREEDY = Sampling(Draw(False), Draw(False), 1.0, 2, 40)


@pytest.fixture(scope="module")
def on_gpu(mini: BaseInfo) -> Iterator[LoadedBase]:
    opened = open_model(mini, torch.device("cuda"))
    yield opened
    opened.close()


def prompts(opened: LoadedBase, count: int, layout: str = "streaming") -> list[Prompt]:
    hidden = int(opened.config.talker_config.hidden_size)
    voice = torch.randn(hidden, generator=torch.Generator().manual_seed(0)) * 0.05
    found = []
    for i in range(count):
        role, body = opened.tokenizer.assistant(TEXTS[i % len(TEXTS)])
        found.append(Prompt(role, body, opened.language_row("english"), layout, voice, seed=i // len(TEXTS)))  # type: ignore[arg-type]
    return generate.numbered(found)


@pytest.mark.parametrize("task", [8, 64, 256])
def test_what_a_prompt_says_does_not_depend_on_its_batch(task: int, on_gpu: LoadedBase) -> None:
    """The same codes in any order, with any rows in use, and where rows that end are replaced."""
    many = prompts(on_gpu, 40)
    together = generate.generate(on_gpu, many, DRAWN, task=task)
    assert len({len(c) for c in together}) > 3
    for other in (
        generate.generate(on_gpu, many[::-1], DRAWN, task=task, batch=7)[::-1],
        [c for p in many[:3] for c in generate.generate(on_gpu, [p], DRAWN, task=task)],
    ):
        assert all(torch.equal(a, b) for a, b in zip(together, other, strict=False))


def test_kernels_are_in_use_and_agree(on_gpu: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published shapes and the embedded base's; of a frame most greedy codes are those of torch's operations."""
    for sizes in ((16, 8, 128, 2048), (16, 8, 128, 1024), (4, 2, 64, 256), (3, 3, 64, 192)):
        assert generate._kernels(*sizes) is not None, sizes
    some = prompts(on_gpu, 8)
    ours = generate.generate(on_gpu, some, GREEDY)
    generate._decoders(on_gpu).clear()
    monkeypatch.setattr(generate, "_ops", lambda weights: generate.torch_ops)
    plain = generate.generate(on_gpu, some, GREEDY)
    generate._decoders(on_gpu).clear()
    first = torch.stack([a[0] == b[0] for a, b in zip(ours, plain, strict=True)])
    assert first.float().mean() > 0.75, "codes of the first frame; later ones have another history"


def test_it_is_as_near_to_float32_as_stock(mini: BaseInfo, on_gpu: LoadedBase) -> None:
    """Greedy codes in bfloat16, by the share of frames before the first that differs from float32's."""
    exact = open_model(mini, torch.device("cpu"))
    some = [replace(p, language=row, layout=layout) for p in prompts(exact, 8) for row, layout in WAYS]
    wanted = generate.generate(exact, some, GREEDY)
    ours = generate.generate(on_gpu, some, GREEDY)
    greedy = {"do_sample": False, "subtalker_dosample": False, "repetition_penalty": 1.0}
    stock: dict[int, torch.Tensor] = {}
    for row, layout in WAYS:
        utterances = [speak.Utterance(t, "auto" if row is None else "english", some[0].x_vector) for t in TEXTS]  # type: ignore[arg-type]
        said = speak.speak(on_gpu, utterances, layout=layout, seed=0, max_frames=40, **greedy)
        stock |= {i: s.codes for i, s in zip(range(WAYS.index((row, layout)), len(some), len(WAYS)), said, strict=True)}
    shares = {"ours": same_start(ours, wanted), "stock": same_start([stock[i] for i in range(len(some))], wanted)}
    print(shares)
    assert shares["ours"] >= shares["stock"] - 0.1


def test_memory_that_runs_out_changes_no_result(on_gpu: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    some = prompts(on_gpu, 8)
    expected = generate.generate(on_gpu, some, DRAWN)
    step = generate.Decoder.step

    def failing(self: generate.Decoder) -> None:
        if self.shape.rows > 3:
            raise torch.OutOfMemoryError
        step(self)

    monkeypatch.setattr(generate.Decoder, "step", failing)
    assert all(torch.equal(a, b) for a, b in zip(generate.generate(on_gpu, some, DRAWN), expected, strict=True))


def test_weights_that_change_are_seen(on_gpu: LoadedBase) -> None:
    """Copies are brought up to date, graphs stay."""
    some = [replace(p, max_frames=4) for p in prompts(on_gpu, 2)]
    before = generate.generate(on_gpu, some, GREEDY)
    weight = on_gpu.talker.model.layers[0].self_attn.q_proj.weight.data
    original = weight.clone()
    weight.mul_(-3)
    changed = generate.generate(on_gpu, some, GREEDY)
    weight.copy_(original)
    after = generate.generate(on_gpu, some, GREEDY)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, changed, strict=True))


def same_start(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Mean share of an utterance before the first frame that differs."""
    shares = []
    for a, b in zip(some, others, strict=True):
        count = min(len(a), len(b))
        differs = (a[:count] != b[:count]).any(1).nonzero()
        shares.append((int(differs[0]) if len(differs) else count) / max(len(a), len(b), 1))
    return sum(shares) / len(shares)
