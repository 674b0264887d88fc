"""The embedded base: the same bytes each time, complete in the stock classes, alive in codes and voices."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from qrecipe.builtin import mini, mini_weights

RATE = 24000
CALIBRATE = Path(__file__).resolve().parents[2] / "tools" / "mini_base" / "calibrate.py"


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def sounds(count: int) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Speech-like clips of 2 s at 24 kHz, other ones than the base is calibrated on."""
    clip = runpy.run_path(str(CALIBRATE))["clip"]
    return [clip(1000 + seed, seconds=2.0) for seed in range(count)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.ensure(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def stock(base: Path) -> Any:
    pytest.importorskip("qwen_tts")
    import torch
    from qwen_tts import Qwen3TTSModel

    return Qwen3TTSModel.from_pretrained(str(base), dtype=torch.float32)


def test_two_builds_have_the_same_bytes(base: Path, tmp_path: Path) -> None:
    mini.build(tmp_path)
    first, second = hashes(base), hashes(tmp_path)
    assert set(first) - set(second) == {mini.MANIFEST}
    assert all(first[name] == second[name] for name in second)


def test_size(base: Path) -> None:
    assert sum((base / name).stat().st_size for name in mini.WEIGHTS) < 30_000_000


def test_every_key_is_matched(base: Path) -> None:
    pytest.importorskip("qwen_tts")
    import torch
    from qwen_tts.core import Qwen3TTSTokenizerV2Model
    from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration
    from safetensors.torch import load_file

    with torch.device("meta"):
        model = Qwen3TTSForConditionalGeneration(Qwen3TTSConfig.from_pretrained(base))
    saved = load_file(base / "model.safetensors")
    assert {name: t.shape for name, t in saved.items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}

    _, info = Qwen3TTSTokenizerV2Model.from_pretrained(base / "speech_tokenizer", output_loading_info=True)
    assert not any(info.values()), info


def test_ids(stock: Any, base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
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


def test_free_rows_are_small(base: Path) -> None:
    from safetensors.torch import load_file

    norms = load_file(base / "model.safetensors")["talker.model.codec_embedding.weight"].float().norm(dim=1)
    free = [i for i in range(mini_weights.FIRST_FREE_ROW, 3072) if i not in mini_weights.TRAINED_ABOVE]
    listed = [i for i in range(3072) if i not in free]
    assert norms[free].max() < 0.2 * norms[listed].min()


def test_codes_vary(stock: Any) -> None:
    tokenizer = stock.model.speech_tokenizer
    codes = [tokenizer.encode(clip, sr=RATE).audio_codes[0].numpy() for clip in sounds(6)]
    assert codes[0].shape == (25, 8)
    assert not np.array_equal(codes[0], codes[1])
    frames = np.concatenate(codes)
    for book in range(8):
        share = np.bincount(frames[:, book], minlength=mini_weights.CODES) / len(frames)
        entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
        assert entropy > 3.0, f"book {book}: {entropy:.2f} bits"


def test_both_quantizers_hold_the_same_codebooks(stock: Any) -> None:
    import torch

    codec = stock.model.speech_tokenizer.model
    for ours, theirs in (("semantic", "rvq_first"), ("acoustic", "rvq_rest")):
        encoder = getattr(codec.encoder.quantizer, f"{ours}_residual_vector_quantizer").layers
        decoder = getattr(codec.decoder.quantizer, theirs).vq.layers
        assert len(encoder) == len(decoder)
        for left, right in zip(encoder, decoder, strict=True):
            assert torch.equal(left.codebook.embed, right._codebook.embedding_sum)


def test_random_codes_decode_to_sane_audio(stock: Any) -> None:
    import torch

    codes = torch.randint(0, mini_weights.CODES, (25, 8), generator=torch.Generator().manual_seed(0))
    waves, rate = stock.model.speech_tokenizer.decode({"audio_codes": codes})
    assert rate == RATE
    assert waves[0].shape == (25 * 1920,)
    assert np.isfinite(waves[0]).all()
    assert waves[0].std() > 0.01
    assert (np.abs(waves[0]) >= 1).mean() < 0.01


def test_speakers_differ(stock: Any) -> None:
    import torch

    vectors = torch.stack([stock.model.extract_speaker_embedding(clip, RATE) for clip in sounds(4)])
    assert 0.03 < vectors.std() < 0.3
    assert torch.pdist(vectors).min() > 0.02


@pytest.mark.parametrize("xvector_only", [True, False])
def test_stock_generates(stock: Any, xvector_only: bool) -> None:
    import torch

    torch.manual_seed(0)
    waves, rate = stock.generate_voice_clone(
        text="Selamat pagi.",
        language="English",
        ref_audio=(sounds(1)[0], RATE),
        ref_text=None if xvector_only else "Hello there.",
        x_vector_only_mode=xvector_only,
        max_new_tokens=6,
    )
    assert rate == RATE
    assert waves[0].size > 0
    assert np.isfinite(waves[0]).all()


def _ensure(cache: Path) -> str:
    return str(mini.ensure(cache))


def test_ensure_under_a_race(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(_ensure, [tmp_path] * 3)
    assert len(set(found)) == 1
    assert [path.name for path in (tmp_path / "bases").iterdir()] == [Path(found[0]).name]


def test_ensure_reuses_and_repairs(tmp_path: Path) -> None:
    folder = mini.ensure(tmp_path)
    weights = folder / "model.safetensors"
    before, whole = weights.stat().st_mtime_ns, weights.read_bytes()
    assert mini.ensure(tmp_path) == folder
    assert weights.stat().st_mtime_ns == before
    weights.write_bytes(whole[:-1])
    assert mini.ensure(tmp_path) == folder
    assert weights.read_bytes() == whole
    assert [path.name for path in (tmp_path / "bases").iterdir()] == [folder.name]
