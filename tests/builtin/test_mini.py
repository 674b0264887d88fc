"""The embedded base: whole, stock, within its size, and alive: it reads, it speaks, and it tells voices apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from qrecipe.builtin import mini

RATE = 24_000
FOLDER = mini.folder()
VOICES = Path(__file__).parent / "voices"
"""Held-out sentences in three of the training voices, Ogg Opus; texts.json says what is spoken."""


def clip(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A held-out recording at 24 kHz."""
    from qrecipe.data.audio import load

    return load(VOICES / f"{name}.ogg", 10.0).samples


@pytest.fixture(scope="module")
def stock() -> Any:
    pytest.importorskip("qwen_tts")
    import torch
    from qwen_tts import Qwen3TTSModel

    return Qwen3TTSModel.from_pretrained(str(FOLDER), dtype=torch.float32)


def test_every_file_is_the_one_of_the_manifest() -> None:
    files = json.loads((FOLDER / mini.MANIFEST).read_text())["files"]
    there = {str(p.relative_to(FOLDER)) for p in FOLDER.rglob("*") if p.is_file()} - {mini.MANIFEST, "README.md"}
    assert set(files) == there
    for name, expected in files.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected, name


def test_size() -> None:
    weights = list(FOLDER.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) <= 40_000_000
    assert sorted(str(path.relative_to(FOLDER)) for path in weights) == ["model.safetensors", "speech_tokenizer/model.safetensors"]


def test_configs_have_the_published_keys() -> None:
    """What loaders of the published bases read without asking whether it is there."""
    talker = json.loads((FOLDER / "config.json").read_text())["talker_config"]
    assert {"position_id_per_seconds", "pad_token_id", "rope_scaling", "sliding_window"} <= talker.keys()
    assert {"max_length", "pad_token_id", "do_sample", "id2label", "num_beams"} <= talker["code_predictor_config"].keys()
    decoder = json.loads((FOLDER / "speech_tokenizer" / "config.json").read_text())["decoder_config"]
    assert {"num_semantic_quantizers", "semantic_codebook_size", "vector_quantization_hidden_dimension"} <= decoder.keys()


def test_every_key_is_matched() -> None:
    pytest.importorskip("qwen_tts")
    import torch
    from qwen_tts.core import Qwen3TTSTokenizerV2Model
    from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration
    from safetensors.torch import load_file

    with torch.device("meta"):
        model = Qwen3TTSForConditionalGeneration(Qwen3TTSConfig.from_pretrained(FOLDER))
    saved = {name: t for path in FOLDER.glob("model.safetensors") for name, t in load_file(path).items()}
    assert {name: t.shape for name, t in saved.items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}

    _, info = Qwen3TTSTokenizerV2Model.from_pretrained(FOLDER / "speech_tokenizer", output_loading_info=True)
    assert not any(info.values()), info


def test_ids(stock: Any) -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    tokenizer = stock.processor.tokenizer
    start, end = config["im_start_token_id"], config["im_end_token_id"]
    newline = tokenizer("\n").input_ids
    assert len(newline) == 1
    for text in ("Selamat pagi, apa khabar?", "你好 วันนี้ ñ 🙂", "assistant"):
        ids = stock._tokenize_texts([stock._build_assistant_text(text)])[0][0].tolist()
        assert ids[:3] == [start, config["assistant_token_id"], *newline]
        assert ids[-5:] == [end, *newline, start, config["assistant_token_id"], *newline]
        assert tokenizer.decode(ids[3:-5]) == text
    names = ("<tts_pad>", "<tts_text_bos>", "<tts_text_eod>")
    keys = ("tts_pad_token_id", "tts_bos_token_id", "tts_eos_token_id")
    assert tokenizer.convert_tokens_to_ids(list(names)) == [config[key] for key in keys]
    assert len(tokenizer) == config["talker_config"]["text_vocab_size"]


def test_rows_of_no_language_are_small(stock: Any) -> None:
    table = stock.model.talker.model.codec_embedding.weight.detach().norm(dim=1)
    talker = json.loads((FOLDER / "config.json").read_text())["talker_config"]
    controls = [v for k, v in talker.items() if k.startswith("codec_") and isinstance(v, int)]
    known = [*talker["codec_language_id"].values(), *controls]
    free = [row for row in range(2048, 3072) if row not in known]
    assert table[free].max() < 0.2 * table[known].min()


def test_both_quantizers_hold_the_same_codebooks(stock: Any) -> None:
    import torch

    codec = stock.model.speech_tokenizer.model
    for ours, theirs in (("semantic", "rvq_first"), ("acoustic", "rvq_rest")):
        encoder = getattr(codec.encoder.quantizer, f"{ours}_residual_vector_quantizer").layers
        decoder = getattr(codec.decoder.quantizer, theirs).vq.layers
        assert len(encoder) == len(decoder)
        for left, right in zip(encoder, decoder, strict=True):
            assert torch.equal(left.codebook.embed, right._codebook.embedding_sum)


def mel(samples: np.ndarray[Any, Any]) -> Any:
    """Log-mel spectrogram, [80, frames], by librosa."""
    import librosa

    power = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=1024, hop_length=256, n_mels=80)
    return np.log10(np.maximum(power, 1e-5))


def test_a_recording_survives_the_speech_tokenizer(stock: Any) -> None:
    tokenizer = stock.model.speech_tokenizer
    for name in ("clara-0", "bruno-0", "kumo-0"):
        samples = clip(name)
        samples = samples[: len(samples) // 1920 * 1920]
        heard = tokenizer.decode(tokenizer.encode(samples, sr=RATE))[0][0]
        assert heard.shape == samples.shape
        true, made, shuffled = mel(samples), mel(heard), mel(heard[::-1].copy())
        assert np.abs(true - made).mean() < 0.5 * np.abs(true - shuffled).mean()


def test_voices_are_told_apart(stock: Any) -> None:
    import torch

    names = [f"{voice}-{k}" for voice in ("clara", "bruno", "kumo") for k in range(6)]
    vectors = torch.stack([stock.model.extract_speaker_embedding(clip(name), RATE).flatten() for name in names]).double()
    assert 0.03 < vectors.std() < 0.3
    cosine = torch.nn.functional.normalize(vectors, dim=1)
    cosine = cosine @ cosine.T
    voice = np.array([name.split("-")[0] for name in names])
    same = cosine.numpy()[(voice[:, None] == voice) & ~np.eye(len(voice), dtype=bool)]
    other = cosine.numpy()[voice[:, None] != voice]
    thresholds = np.linspace(-1, 1, 401)
    errors = [max((same < t).mean(), (other >= t).mean()) for t in thresholds]
    assert min(errors) <= 0.1


@pytest.fixture(scope="module")
def said(opened: Any) -> Callable[[int], Any]:
    """Logits and batch of held-out clips under the text of the clip `shift` places on, in the same voice."""
    import torch

    from qrecipe.model import forward, prompt

    texts = json.loads((VOICES / "texts.json").read_text())
    names = [f"{voice}-{k}" for voice in ("clara", "bruno") for k in range(6)]
    codes = opened.encode([clip(name) for name in names])
    vectors = [opened.x_vector(clip(name)) for name in names]

    def under(shift: int) -> Any:
        examples = []
        for k, code in enumerate(codes):
            voice, place = k // 6 * 6, k % 6
            role, body = opened.tokenizer.assistant(texts[f"{names[voice + (place + shift) % 6]}.ogg"])
            row = opened.language_row("english")
            examples.append(prompt.Example(role, body, code, vectors[voice + (place + 1) % 6], row, "non_streaming"))
        batch = prompt.collate(examples, prompt.ControlIds.of(opened.config))
        with torch.no_grad():
            return forward.speech_logits(forward.Tables(opened.talker), batch, torch.float32, False), batch

    return under


def test_it_reads(said: Callable[[int], Any]) -> None:
    """A recording is far less likely under another recording's text: the measure of whether a talker reads at all."""
    from qrecipe.model import forward

    true, wrong = (float(forward.talker_nll(*said(shift)).mean()) for shift in (0, 1))
    assert true < 3.0
    assert wrong - true > 4.0


def test_codes_that_no_book_has_are_never_likely(said: Callable[[int], Any]) -> None:
    logits, _ = said(0)
    assert float(logits.talker.softmax(-1)[:, 512:2048].sum(-1).max()) < 1e-3


@pytest.mark.parametrize("xvector_only", [True, False])
def test_stock_generates(stock: Any, xvector_only: bool) -> None:
    import torch

    torch.manual_seed(0)
    waves, rate = stock.generate_voice_clone(
        text="Good morning.",
        language="English",
        ref_audio=(clip("clara-0"), RATE),
        ref_text=None if xvector_only else json.loads((VOICES / "texts.json").read_text())["clara-0.ogg"],
        x_vector_only_mode=xvector_only,
        max_new_tokens=60,
    )
    assert rate == RATE
    assert np.isfinite(waves[0]).all()
    assert waves[0].size < 60 * 1920, "it ends by itself"
