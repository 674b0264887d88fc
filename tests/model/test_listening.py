"""Evaluators that transformers runs, on tiny random models: what they give is what transformers gives when it is asked directly."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qrecipe.model.listening import MOST_AT_ONCE, TransformersRecogniser, WavLmSpeaker, _at_once
from tests.support import audio

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SOUND = audio.speech(3, 1.0)[:16_000]
LETTERS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "a": 5, "b": 6, "c": 7}
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (160, 2),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
}


def extractor(folder: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(folder)


def test_ctc_is_read_greedily(tmp_path: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

    torch.manual_seed(0)
    (tmp_path / "vocab.json").write_text(json.dumps(LETTERS))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    processor = Wav2Vec2Processor(feature_extractor=Wav2Vec2FeatureExtractor(sampling_rate=16_000), tokenizer=tokenizer)
    processor.save_pretrained(tmp_path)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(LETTERS), **TINY)).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        best = model(**processor(SOUND, sampling_rate=16_000, return_tensors="pt")).logits.argmax(-1)[0].tolist()
    letters = {v: k for k, v in LETTERS.items()}
    collapsed = [letters[t] for i, t in enumerate(best) if i == 0 or t != best[i - 1]]
    expected = "".join(c for c in collapsed if len(c) == 1).replace("|", " ").strip()
    recogniser = TransformersRecogniser(tmp_path, 5, CPU)
    assert recogniser.transcribe([SOUND, SOUND], "ms") == [expected] * 2
    assert recogniser._letters(torch.tensor([[5, 5, 0, 5, 6, 4, 3, 7]])) == "aab c", "a blank parts doubled letters"

    # a text is forced onto what was heard: its own fits, in whatever case, another one hardly, and one without room not at all
    logs = torch.full((9, len(LETTERS)), -6.0)
    logs[range(9), [5, 5, 0, 5, 6, 4, 0, 7, 7]] = 0.0
    logs = logs.log_softmax(-1)
    assert recogniser.aligns
    assert recogniser.fit(logs, "aab c") == recogniser.fit(logs, "AAB?! C") > 0.95
    assert 0.8 > recogniser.fit(logs, "cab c") > recogniser.fit(logs, "aab") > recogniser.fit(logs, "c")
    assert recogniser.fit(logs, "abc" * 4) == recogniser.fit(logs, "xyz") == 0.0
    assert recogniser.letter_logs(SOUND, "ms").exp().sum(-1).allclose(torch.ones(len(best)), atol=1e-4)


def test_mms_takes_the_adapter_of_the_language(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

    torch.manual_seed(0)
    (tmp_path / "vocab.json").write_text(json.dumps({"eng": LETTERS, "zlm": {**LETTERS, "x": 5, "y": 6, "z": 7, "w": 8}}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), target_lang="eng")
    processor = Wav2Vec2Processor(feature_extractor=Wav2Vec2FeatureExtractor(sampling_rate=16_000), tokenizer=tokenizer)
    processor.save_pretrained(tmp_path)
    config = Wav2Vec2Config(vocab_size=len(LETTERS), adapter_attn_dim=4, do_stable_layer_norm=True, **TINY)
    model = Wav2Vec2ForCTC(config).eval()
    model.save_pretrained(tmp_path)
    adapter = {k: torch.randn_like(v) for k, v in model._get_adapters().items()}
    adapter["lm_head.weight"], adapter["lm_head.bias"] = torch.randn(9, 16), torch.zeros(9)
    save_file(adapter, tmp_path / "adapter.zlm.safetensors")
    recogniser = TransformersRecogniser(tmp_path, 5, CPU)
    first = recogniser.transcribe([SOUND], "zlm")
    assert recogniser._model.lm_head.out_features == 9
    assert recogniser.transcribe([SOUND], "zlm") == first


def test_wavlm_s_vectors(tmp_path: Path) -> None:
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    torch.manual_seed(0)
    extractor(tmp_path)
    config = WavLMConfig(tdnn_dim=(8, 8), tdnn_kernel=(3, 1), tdnn_dilation=(1, 1), xvector_output_dim=12, **TINY)
    model = WavLMForXVector(config).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        given = Wav2Vec2FeatureExtractor(sampling_rate=16_000)(SOUND, sampling_rate=16_000, return_tensors="pt")
        expected = model(**given).embeddings[0]
    found = WavLmSpeaker(tmp_path, CPU).vector(np.asarray(SOUND, dtype=np.float32))
    assert torch.allclose(found, expected, atol=1e-6)


def test_features_are_those_of_thirty_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the seconds that hold sound are computed."""
    from transformers import WhisperFeatureExtractor

    extract = WhisperFeatureExtractor()
    recogniser = TransformersRecogniser.__new__(TransformersRecogniser)
    config = SimpleNamespace(config=SimpleNamespace(max_source_positions=1500))
    for name, value in (("_processor", extract), ("_device", CPU), ("_dtype", torch.float32), ("_model", config)):
        monkeypatch.setattr(recogniser, name, value, raising=False)
    noise = np.random.default_rng(0).standard_normal(16_000 * 31).astype(np.float32)
    quiet, silent = 1e-6 * noise[:8000], np.zeros(4000, np.float32)
    for sounds in ([SOUND, 0.1 * noise[:39_999], quiet], [silent], [quiet], [noise[: 16_000 * 29 + 1], SOUND], [noise, silent]):
        expected = extract(sounds, sampling_rate=16_000, return_tensors="pt").input_features
        torch.testing.assert_close(recogniser._features(sounds), expected, rtol=0, atol=1e-5)


def test_batches_have_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a recording is heard with must not change its transcript, and a GPU rounds by the size of a batch."""
    heard: list[list[int]] = []
    recogniser = TransformersRecogniser.__new__(TransformersRecogniser)
    monkeypatch.setattr(recogniser, "_ctc", False, raising=False)
    monkeypatch.setattr(recogniser, "_batch", 4, raising=False)
    monkeypatch.setattr(recogniser, "_heard", lambda sounds, language: heard.append(list(map(len, sounds))) or sounds, raising=False)
    monkeypatch.setattr(recogniser, "_written", lambda sounds: [str(len(s)) for s in sounds], raising=False)
    sounds = [np.zeros(n, np.float32) for n in (5, 6, 7, 8, 9, 10)]
    assert recogniser.transcribe(sounds, "ms") == ["5", "6", "7", "8", "9", "10"]
    assert heard == [[5, 6, 7, 8], [9, 10, 16_000, 16_000]]


def test_a_batch_is_of_a_size_that_the_card_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    gigabyte = 2**30
    large = SimpleNamespace(decoder_layers=32, max_source_positions=1500, d_model=1280)
    sizes = []
    for memory in (1, 24, 80, 10_000):
        card = SimpleNamespace(total_memory=memory * gigabyte)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, card=card: card)
        sizes.append(_at_once(large, 1, CPU))
    assert sizes == [1, 8, 32, MOST_AT_ONCE]
