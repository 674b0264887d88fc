"""Generation is held to stock `generate`: greedy codes, codes from the same uniform numbers, scores, and nothing of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from qrecipe.errors import UserError
from qrecipe.model import forward, generate, load
from qrecipe.model.generate import Draw, Prompt, Sampling, compiled, sampling
from qrecipe.model.generate.likelihood import log_probs, plain
from qrecipe.model.generate.weights import DecodingWeights
from qrecipe.model.kernels import small
from qrecipe.model.load import LoadedBase
from qrecipe.model.prompt import ControlIds, collate
from tests.support import recipes
from tests.support.shared import Voice

pytestmark = pytest.mark.usefixtures("patient")

TEXT = "Kucing itu tidur di atas kerusi."
LONG_TEXT = "Pada suatu hari, seekor kucing tidur di atas kerusi lama itu."
CAP = 24
CASES = list(product(("auto", "english"), ("streaming", "non_streaming"), ("x_vector", "none", "longer", "shorter")))
HALF = [case for i, case in enumerate(CASES) if (i // 8 + i // 4 + i) % 2 == 0]
"""Every two of language, layout and voice beside one another; that all cases are laid out as by stock is held in test_alignment."""
GREEDY = Sampling(Draw(sample=False), Draw(sample=False), 1.0, 2, CAP)
WAYS = {
    "penalty": Sampling(Draw(sample=False), Draw(sample=False), 1.3, 2, CAP),
    "drawn": Sampling(Draw(True, 0.9, 50, 1.0), Draw(True, 0.9, 50, 1.0), 1.05, 2, CAP),
    "nucleus": Sampling(Draw(True, 0.7, 0, 0.8), Draw(True, 1.1, 40, 0.9), 1.2, 2, CAP),
    "cooler": Sampling(Draw(True, 0.6, 20, 1.0), Draw(False), 1.0, 2, CAP),
}


ENGINES = {"compiled": load.SMALL, "torch": 0}
"""Largest hidden size whose layers are compiled: those of the embedded base or none."""


def text_of(voice: str) -> str:
    return LONG_TEXT if voice == "shorter" else "Hai." if voice == "longer" else TEXT


@pytest.fixture
def prompt_of(opened: LoadedBase, voice: Voice) -> Callable[..., Prompt]:
    """The prompt of a case."""

    def make(case: tuple[str, ...], text: str | None = None, seed: int = 0) -> Prompt:
        language, layout, kind = case
        role, body = opened.tokenizer.assistant(text or text_of(kind))
        in_context = kind in ("longer", "shorter")
        return Prompt(
            role,
            body,
            opened.language_row(language),
            layout,  # type: ignore[arg-type]
            None if kind == "none" else voice.x_vector,
            opened.tokenizer.reference(recipes.REFERENCE_TEXT) if in_context else None,
            voice.codes if in_context else None,
            seed,
        )

    return make


class Stock:
    """Stock `generate` of one prompt, with the probabilities that it draws from and the numbers that it draws with."""

    def __init__(self, opened: LoadedBase, voice: Voice) -> None:
        self._opened, self._voice = opened, voice

    def __call__(self, case: tuple[str, ...], how: Sampling, uniforms: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch) -> Any:
        language, layout, kind = case
        wrapper, in_context = self._opened.wrapper, kind in ("longer", "shorter")
        clone = None
        if kind != "none":
            clone = {
                "ref_code": [self._voice.codes if in_context else None],
                "ref_spk_embedding": [self._voice.x_vector],
                "x_vector_only_mode": [not in_context],
                "icl_mode": [in_context],
            }
        drawn: list[torch.Tensor] = []
        numbers = None if uniforms is None else iter(uniforms.flatten())

        def multinomial(probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
            assert numbers is not None
            drawn.append(probabilities)
            return sampling.invert(probabilities, next(numbers).view(1)).unsqueeze(1)

        self._opened.reset()
        with monkeypatch.context() as patched:
            patched.setattr(torch, "multinomial", multinomial)
            codes, _ = self._opened.net.generate(
                input_ids=wrapper._tokenize_texts([wrapper._build_assistant_text(text_of(kind))]),
                ref_ids=wrapper._tokenize_texts([wrapper._build_ref_text(recipes.REFERENCE_TEXT)]) if in_context else [None],
                voice_clone_prompt=clone,
                languages=[language],
                non_streaming_mode=layout == "non_streaming",
                max_new_tokens=how.max_frames + 1,
                do_sample=how.talker.sample,
                temperature=how.talker.temperature,
                top_k=how.talker.top_k,
                top_p=how.talker.top_p,
                repetition_penalty=how.repetition_penalty,
                subtalker_dosample=how.predictor.sample,
                subtalker_temperature=how.predictor.temperature,
                subtalker_top_k=how.predictor.top_k,
                subtalker_top_p=how.predictor.top_p,
            )
        self._opened.reset()
        return codes[0].cpu(), drawn


@pytest.fixture
def stock(opened: LoadedBase, voice: Voice) -> Stock:
    return Stock(opened, voice)


@pytest.mark.parametrize("case", HALF, ids="-".join)
def test_greedy_codes_are_those_of_stock(case: tuple[str, ...], stock: Stock, prompt_of: Any, opened: LoadedBase, monkeypatch: Any) -> None:
    expected, _ = stock(case, GREEDY, None, monkeypatch)
    for most in ENGINES.values():
        monkeypatch.setattr(load, "SMALL", most)
        (codes,) = generate.generate(opened, [prompt_of(case)], GREEDY)
        assert torch.equal(codes, expected)


@pytest.mark.parametrize(("case", "way"), [(0, "drawn"), (0, "nucleus"), (10, "penalty"), (10, "drawn"), (15, "cooler"), (15, "nucleus")])
def test_the_same_numbers_draw_the_same_codes_from_the_same_scores(
    case: int, way: str, stock: Stock, prompt_of: Any, opened: LoadedBase, monkeypatch: Any
) -> None:
    """Every distribution that a code is drawn from, and what is drawn from it."""
    how, prompt = WAYS[way], prompt_of(CASES[case])
    uniforms = torch.from_numpy(prompt.uniforms(CAP + 2, opened.groups))
    drawing = [d.sample for d in (how.talker, *[how.predictor] * (opened.groups - 1))]
    expected, theirs = stock(CASES[case], how, uniforms[:, torch.tensor(drawing)], monkeypatch)
    ours: list[torch.Tensor] = []
    invert = sampling.invert

    def listening(probabilities: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        ours.append(probabilities[:1].clone())
        return invert(probabilities, numbers)

    for most in ENGINES.values():
        ours.clear()
        with monkeypatch.context() as patched:
            patched.setattr(sampling, "invert", listening)
            patched.setattr(load, "SMALL", most)
            (codes,) = generate.generate(opened, [prompt], how)
        assert torch.equal(codes, expected)
        for mine, yours in zip(ours[: len(expected) * sum(drawing)], theirs, strict=False):
            torch.testing.assert_close(mine, yours, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("case", "temperature"), [(0, 1.0), (10, 1.4), (15, 1.0)])
def test_log_probabilities_are_those_of_what_stock_draws_from(
    case: int, temperature: float, stock: Stock, prompt_of: Any, opened: LoadedBase, monkeypatch: Any
) -> None:
    """Read again with its own codes as history, a sample has at every code the probability with which stock drew it, the end included."""
    how, prompt = replace(plain(temperature), max_frames=CAP), prompt_of(CASES[case])
    uniforms = torch.from_numpy(prompt.uniforms(CAP + 2, opened.groups))
    codes, theirs = stock(CASES[case], how, uniforms, monkeypatch)
    ended = len(codes) < CAP
    assert torch.equal(generate.generate(opened, [prompt], how)[0], codes)
    example = replace(prompt.example(opened.groups), codes=codes, cut=not ended)
    ids = ControlIds.of(opened.config)
    batch = collate([example], ids)
    with torch.no_grad():
        logits = forward.speech_logits(forward.Tables(opened.talker), batch, torch.float32)
        read = log_probs(logits, batch, [example.labels], ids.eos, temperature)
    assert read.talker is not None
    assert read.predictor is not None
    drawn = [p.squeeze(0) for p in theirs[: len(codes) * opened.groups + ended]]
    first = torch.stack([p[c] for p, c in zip(drawn[:: opened.groups], batch.labels, strict=True)])
    torch.testing.assert_close(read.talker, first.log(), rtol=1e-3, atol=1e-3)
    for i in range(1, opened.groups):
        others = torch.stack([p[c] for p, c in zip(drawn[i :: opened.groups], codes[:, i], strict=False)])
        torch.testing.assert_close(read.predictor[:, i - 1], others.log(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_prompt_says_does_not_depend_on_its_batch(
    engine: str, prompt_of: Any, opened: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes alone, in any batch and order, and where rows that end are replaced."""
    monkeypatch.setattr(load, "SMALL", ENGINES[engine])
    how = Sampling(Draw(True, 0.9, 50), Draw(True, 0.9, 50), 1.05, 2, CAP)
    prompts = [prompt_of(c, text=t, seed=s) for c in HALF for t, s in (("Hai.", 1), (LONG_TEXT, 2))]
    together = generate.generate(opened, prompts, how)
    assert len({len(c) for c in together}) > 3
    backwards = generate.generate(opened, prompts[::-1], how, batch=5)[::-1]
    alone = [generate.generate(opened, [p], how)[0] for p in prompts[::4]]
    assert all(torch.equal(a, b) for a, b in zip(together, backwards, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(together[::4], alone, strict=True))


def test_only_layers_of_a_known_kind_are_compiled(opened: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DecodingWeights(opened)
    assert compiled.suits(opened, weights)
    weights.talker = replace(weights.talker, activation=torch.relu)
    assert not compiled.suits(opened, weights)
    monkeypatch.setattr(small, "PANEL", 50)
    assert not compiled.suits(opened, DecodingWeights(opened))


def test_a_cap_of_its_own_only_cuts(prompt_of: Any, opened: LoadedBase) -> None:
    prompt = prompt_of(CASES[0], text=LONG_TEXT)
    whole, cut = generate.generate(opened, [prompt, replace(prompt, max_frames=5)], WAYS["drawn"])
    assert len(cut) == 5
    assert torch.equal(whole[:5], cut)


def test_equal_prompts_say_different_things(prompt_of: Any, opened: LoadedBase) -> None:
    prompt = prompt_of(CASES[0])
    one, two, other = generate.numbered([prompt, prompt, prompt_of(CASES[0], seed=1)])
    first, second, third = generate.generate(opened, [one, two, other], WAYS["drawn"])
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(generate.generate(opened, [two], WAYS["drawn"])[0], second)


def test_memory_that_runs_out_changes_no_result(prompt_of: Any, opened: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [prompt_of(c, seed=3) for c in CASES[:6]]
    expected = generate.generate(opened, prompts, WAYS["drawn"])
    step, calls = generate.Decoder.step, [0]

    def failing(self: Any) -> None:
        calls[0] += 1
        if self.shape.rows > 2 and calls[0] > 7:
            raise torch.OutOfMemoryError
        step(self)

    monkeypatch.setattr(generate.Decoder, "step", failing)
    assert all(torch.equal(a, b) for a, b in zip(generate.generate(opened, prompts, WAYS["drawn"]), expected, strict=True))


def test_no_row_at_all_is_an_error(prompt_of: Any, opened: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(generate.Decoder, "step", failing)
    with pytest.raises(UserError, match="does not fit"):
        generate.generate(opened, [prompt_of(CASES[0])], GREEDY)


def test_sampling_is_what_stock_would_take(opened: LoadedBase) -> None:
    """generation_config, arguments over it, and what transformers refuses."""
    defaults = opened.wrapper.generate_defaults
    how = Sampling.of(opened.wrapper)
    assert (how.talker.temperature, how.predictor.top_k, how.max_frames) == (
        defaults["temperature"],
        defaults["subtalker_top_k"],
        defaults["max_new_tokens"] - 1,
    )
    changed = Sampling.of(opened.wrapper, temperature=0.3, subtalker_dosample=False, top_p=0.5)
    assert (changed.talker.temperature, changed.talker.top_p, changed.predictor.sample) == (0.3, 0.5, False)
    with pytest.raises(ValueError, match="positive temperature"):
        Sampling.of(opened.wrapper, temperature=0.0)


def test_random_numbers_are_the_same_for_every_length(prompt_of: Any) -> None:
    """Fixed values: no version of numpy or of this package may change what a kept result was made with."""
    prompt = Prompt([1, 2, 3], [4, 5], None, "streaming", torch.ones(2))
    assert (prompt.uniforms(3, 2) == prompt.uniforms(9, 2)[:3]).all()
    assert (prompt.uniforms(1, 4) * 2**24).astype(int).tolist() == [[9709523, 5789622, 12896173, 4161252]]
