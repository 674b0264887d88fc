"""The stock package as people meet it through qrecipe: silent, with Qwen's tokenizer, without state left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.tokenizer import TextTokenizer, clean_text
from qrecipe.model import forward, prompt, speak
from qrecipe.model.dsp import FOLDER
from qrecipe.model.load import LoadedBase, open_model
from tests.support import recipes

TEXTS = ("Selamat pagi, apa khabar?", "WhatsApp", "สวัสดีครับ", "नमस्ते दुनिया", "مَرْحَبًا", "I'm here at 12:30.", "naïve — “quotes”")


IMPORTS = """
import numpy
from qrecipe.model.dsp import librosa
from qrecipe.model.stock import stock

stock().Model
librosa().feature.rms(y=numpy.ones(4096))
"""


@pytest.mark.slow
def test_importing_it_prints_and_compiles_nothing(tmp_path: Path) -> None:
    """Not even from the shell commands that it runs, which write to the file descriptors; in a new folder of numba's."""
    environment = {**os.environ, FOLDER: str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", IMPORTS], env=environment, capture_output=True, timeout=300, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert not list(tmp_path.rglob("guf-*"))


def test_masks_are_those_of_the_patterns(opened: LoadedBase) -> None:
    """Computed at once for all pairs of places; a pattern is also asked for each pair alone."""
    from transformers import masking_utils

    padded = torch.tensor([[True, True, False, True], [True, True, True, False]])
    pack = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    window = masking_utils.sliding_window_causal_mask_function(2)
    of_rows = masking_utils.and_masks(masking_utils.padding_mask_function(padded), masking_utils.packed_sequence_mask_function(pack))
    for pattern in (masking_utils.causal_mask_function, window, masking_utils.and_masks(window, of_rows)):
        mask = masking_utils.sdpa_mask(2, torch.arange(1, 4), 4, mask_function=pattern)
        expected = [[[[bool(pattern(b, 0, torch.tensor(q), k)) for k in range(4)] for q in range(1, 4)]] for b in range(2)]
        assert mask.tolist() == expected


def test_an_opened_model_tokenizes_like_qwen(opened: LoadedBase) -> None:
    """The wrapper's tokenizer and the one built from vocab.json and merges.txt with Qwen's pattern agree on every id."""
    for text in TEXTS:
        ids = opened.wrapper._tokenize_texts([opened.wrapper._build_assistant_text(text)])[0][0].tolist()
        role, body = opened.tokenizer.assistant(text)
        assert (ids[:3], ids[3:-5]) == (role, body)
        reference = opened.wrapper._tokenize_texts([opened.wrapper._build_ref_text(text)])[0][0].tolist()
        assert reference[3:-2] == opened.tokenizer.reference(text)


@pytest.mark.slow
def test_a_config_that_makes_transformers_swap_the_pattern_changes_no_ids(mini: LocalBase, tmp_path: Path) -> None:
    """transformers patches a local folder whose config says 4.57.3 when stock asks for `fix_mistral_regex`."""
    assert mini.folder is not None
    folder = tmp_path / "base"
    shutil.copytree(mini.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "4.57.3"}))
    opened = open_model(replace(mini, folder=folder, tokenizer=TextTokenizer.of_folder(folder)))
    test_an_opened_model_tokenizes_like_qwen(opened)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("Saya <|im_end|> suka", "special token `<|im_end|>`"),
        ("<tts_pad>", "special token"),
    ],
)
def test_texts_that_would_break_the_template_are_refused(raw: str, why: str, opened: LoadedBase) -> None:
    found = opened.tokenizer.text_problem(clean_text(raw))
    assert found is not None
    assert why in found


def test_outer_white_space_is_stripped(opened: LoadedBase) -> None:
    """A leading newline would run into the template's own; with the full vocabulary it changes the role's third token."""
    assert opened.tokenizer.assistant(clean_text("\n\nSelamat pagi. ")) == opened.tokenizer.assistant("Selamat pagi.")
    assert opened.tokenizer.assistant("\n\nSelamat pagi.") != opened.tokenizer.assistant("Selamat pagi.")
    assert clean_text("e\u0301") == "\u00e9"


def utterances(voice: Any, *texts: str) -> list[speak.Utterance]:
    return [speak.Utterance(t, "english", voice.x_vector) for t in texts]


def test_speaking_is_reproducible_by_batch_and_seed(opened: LoadedBase, voice: Any) -> None:
    said = utterances(voice, "Selamat pagi.", "Apa khabar?")

    def codes(batch: list[speak.Utterance], seed: int, layout: Any = "streaming") -> list[list[list[int]]]:
        return [s.codes.tolist() for s in speak.speak(opened, batch, layout=layout, seed=seed, max_frames=4)]

    first = codes(said, 0)
    torch.rand(3)
    assert codes(said, 0) == first
    assert codes(said, 1) != first
    assert speak.batch_seed(said, "streaming", 0) != speak.batch_seed(said[:1], "streaming", 0)
    assert speak.batch_seed(said, "streaming", 0) != speak.batch_seed(said, "non_streaming", 0)
    assert all(0 < len(c) <= 4 for c in first)


def test_speaking_leaves_nothing_behind(opened: LoadedBase, voice: Any) -> None:
    """Neither on the module (`rope_deltas`, a patched `generate`) nor in the global generator."""
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    speak.speak(opened, utterances(voice, "Hai."), layout="streaming", seed=3, max_frames=2)
    assert torch.equal(torch.rand(4), expected)
    assert opened.talker.rope_deltas is None
    assert "generate" not in vars(opened.net)


def test_it_cleans_up_after_a_failure_too(opened: LoadedBase, voice: Any) -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="Unsupported languages"):
        speak.speak(opened, [speak.Utterance("Hai.", "klingon", voice.x_vector)], layout="streaming", seed=0)
    assert "generate" not in vars(opened.net)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_losses_do_not_depend_on_an_earlier_generation(opened: LoadedBase, voice: Any, example: Any) -> None:
    batch = prompt.collate([example()], prompt.ControlIds.of(opened.config))
    with torch.no_grad():
        before = forward.speech_logits(forward.Tables(opened.talker), batch, torch.float32).talker
        speak.speak(opened, utterances(voice, "Selamat pagi.", "Hai."), layout="streaming", seed=0, max_frames=3)
        after = forward.speech_logits(forward.Tables(opened.talker), batch, torch.float32).talker
    assert torch.equal(before, after)


def test_the_cap_is_in_frames(opened: LoadedBase, voice: Any) -> None:
    end = opened.talker.codec_head.weight.data[opened.config.talker_config.codec_eos_token_id]
    before = end.clone()
    end[0] = -8.0
    try:
        (said,) = speak.speak(opened, utterances(voice, "Hai."), layout="streaming", seed=0, max_frames=3)
    finally:
        end.copy_(before)
    assert said.codes.shape == (3, opened.groups)
    assert len(said.audio) == 3 * opened.samples_per_frame
    assert said.rate == 24_000


def test_x_vectors_and_codes_are_those_of_stock(opened: LoadedBase, voice: Any) -> None:
    """What training conditions on is what `create_voice_clone_prompt` gives."""
    (item,) = opened.wrapper.create_voice_clone_prompt((voice.samples, 24_000), ref_text=recipes.REFERENCE_TEXT)
    assert torch.equal(item.ref_code, voice.codes)
    assert item.ref_spk_embedding.float().sub(voice.x_vector).abs().max() < 1e-6


def test_a_capital_letter_in_the_config_would_never_be_spoken(fresh: LoadedBase, voice: Any) -> None:
    """Why language keys are lower-case: stock lets `Malay` pass its check and then does not find it."""
    fresh.config.talker_config.codec_language_id["Malay"] = 2072
    fresh.net.supported_languages.append("Malay")
    with pytest.raises(NotImplementedError, match="Malay"):
        speak.speak(fresh, [speak.Utterance("Hai.", "Malay", voice.x_vector)], layout="streaming", seed=0, max_frames=2)
