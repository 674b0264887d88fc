"""The tools that taught the embedded base to speak: the same losses as the recipes' objective, and what the corpus is made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "research" / "mini_base"


@pytest.fixture(scope="module", autouse=True)
def tools() -> Iterator[None]:
    sys.path.insert(0, str(TOOLS))
    yield
    sys.path.remove(str(TOOLS))


SENTENCES = [
    "The teacher closed the old window.",
    "No more!",
    "El niño pequeño quería ir a la playa con ella.",
    "Did the young doctor find the empty bottle near the bridge?",
]


@pytest.fixture(scope="module")
def corpus(opened: Any, tools: None) -> Any:
    """Twelve clips of random codes in two voices, a third of them under the automatic prefix."""
    import talker_data
    import torch

    from qrecipe.builtin import mini
    from qrecipe.model import prompt

    draw = np.random.default_rng(0)
    clips = []
    for k in range(12):
        text, frames = SENTENCES[k % 4], int(draw.integers(5, 60))
        codes = draw.integers(0, 512, (frames, 8)).astype(np.uint16)
        char = np.linspace(0, len(text) - 1, frames).astype(np.int16)
        clips.append(talker_data.Spoken(text, k % 2, int(k % 4 == 2), codes, char, np.ones((frames, 2), np.uint8)))
    vectors = torch.randn(2, 1, opened.net.talker.config.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.1
    role = tuple(opened.tokenizer.assistant("a")[0])
    languages = tuple(opened.language_row(name) for name in ("english", "spanish"))
    base = talker_data.Base(str(mini.folder()), prompt.ControlIds.of(opened.config), role, languages)
    before, talker_data.AUTO = talker_data.AUTO, 1 / 3
    made = talker_data.Corpus(base, clips, vectors, torch.device("cpu"), 1, 0, 12)
    talker_data.AUTO = before
    return made


def example(corpus: Any, opened: Any, k: int, layout: str, reference: int | None = None) -> Any:
    """The row as the recipes' objective would be given it."""
    import torch

    from qrecipe.model import prompt

    clip = corpus.clips[k]
    role, body = opened.tokenizer.assistant(clip.text)
    auto = int(corpus.plain["codec"][0, k, 3]) == opened.config.talker_config.codec_nothink_id
    language = None if auto else opened.language_row(("english", "spanish")[clip.language])
    more: dict[str, Any] = {}
    if reference is not None:
        other = corpus.clips[reference]
        more = {
            "reference_body": opened.tokenizer.assistant(other.text)[1],
            "reference_codes": torch.from_numpy(other.codes.astype(np.int64)),
        }
    return prompt.Example(
        role, body, torch.from_numpy(clip.codes.astype(np.int64)), corpus.vectors[clip.voice, 0], language, layout, **more
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["streaming", "non_streaming"])
@pytest.mark.parametrize("pairs", [False, True])
def test_the_losses_are_those_of_the_objective(corpus: Any, opened: Any, layout: str, pairs: bool) -> None:
    import torch
    from talker_net import Net

    from qrecipe.model import forward, prompt

    net = Net(opened.talker, (2, 3)).eval()
    index, streaming = torch.arange(12), torch.full((12,), layout == "streaming")
    with torch.no_grad():
        sums = net((corpus.pair_batch if pairs else corpus.batch)(index, streaming))
        rows = corpus.pair_rows.tolist() if pairs else [(k, None) for k in range(12)]
        batch = prompt.collate([example(corpus, opened, a, layout, b) for a, b in rows], prompt.ControlIds.of(opened.config))
        logits = forward.speech_logits(forward.Tables(opened.talker), batch, torch.float32, True)
    assert int(sums.labels) == len(batch.labels)
    assert float(sums.talker) == pytest.approx(float(forward.talker_nll(logits, batch).sum()), rel=1e-5)
    assert float(sums.predictor) == pytest.approx(float(forward.predictor_nll(logits, batch).sum()), rel=1e-5)


def test_guided_attention_points_at_the_token_that_is_spoken(corpus: Any, opened: Any) -> None:
    import torch

    rows = corpus.batch(torch.arange(12), torch.ones(12, dtype=torch.bool))
    for k, clip in enumerate(corpus.clips):
        body = opened.tokenizer.assistant(clip.text)[1]
        places = rows.places[k, : len(clip.codes)]
        spoken = rows.text[k].gather(0, places)
        assert spoken[0] == body[0]
        assert int(rows.speaker[k]) + 2 == int(places[0])
        assert places[-1] - places[0] == len(body) - 1


def test_nothing_of_a_misread_corpus_is_aligned(corpus: Any) -> None:
    import talker_data

    wrong = talker_data.misread(corpus.clips)
    assert sorted(clip.text for clip in wrong) == sorted(clip.text for clip in corpus.clips)
    assert all((clip.char == -1).all() for clip in wrong)
    assert sum(a.text != b.text for a, b in zip(wrong, corpus.clips, strict=True)) >= 6


SPANISH = {
    "guerra": "ɡˈera",
    "pingüino": "pinɡwˈino",
    "jirafa": "xiɾˈafa",
    "niño": "nˈiɲo",
    "llueve": "ʝwˈebe",
    "perro": "pˈero",
    "rosa": "rˈosa",
    "hoy": "ˈoj",
    "quería": "keɾˈia",
    "los": "los",
    "chico": "ʧˈiko",
}


@pytest.mark.parametrize("word", SPANISH)
def test_spanish_spelling(word: str) -> None:
    import voices

    assert voices.spanish(word) == SPANISH[word]


def test_a_phoneme_stands_at_the_letters_that_it_speaks() -> None:
    import corpus as made

    places = made.characters("ðə kˈæt.", "The cat.")
    assert places is not None
    assert places[:2] == [0, 1] or places[0] == 0
    assert "The cat."[places[2]] == " "
    assert {"The cat."[k] for k in places[3:7]} <= set("cat")
    assert "The cat."[places[-1]] == "."
    assert made.characters("wˈʌn tˈu", "one") is None


def test_warping_moves_a_formant() -> None:
    import voices

    part = np.zeros((601, 2), np.float32)
    part[100] = 1.0
    assert voices.warped(part, 1.2)[:, 0].argmax() == 120
    assert voices.warped(part, 0.8)[:, 0].argmax() == 80


def test_clips_are_whole_frames_and_their_symbols_stay_in_step() -> None:
    import voices

    samples = np.zeros(24_000, np.float32)
    samples[6000:18_000] = np.sin(np.arange(12_000) * 0.1)
    symbols = np.full(40, -1, np.int16)
    symbols[10:30] = np.arange(20)
    clip = voices.trimmed(samples, symbols)
    assert len(clip.samples) % voices.FRAME == 0
    assert len(clip.symbols) == -(-len(clip.samples) // voices.UNIT)
    first = int(np.flatnonzero(clip.symbols == 0)[0])
    loud = int(np.flatnonzero(np.abs(clip.samples) > 0.05)[0]) // voices.UNIT
    assert abs(first - loud) <= 1
