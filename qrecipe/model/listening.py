"""Evaluators that transformers runs: Whisper and CTC recognisers, and WavLM's speaker vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qrecipe.model.stock import silence, stock

LISTENING_RATE = 16_000
"""Hz; what all of them read."""
MAX_TOKENS = 440
"""Tokens of a transcript at most; Whisper's decoder has 448 places, some of them taken by control tokens."""
TOKENS_PER_SECOND = 25
"""Of a transcript at most, and 20 more: nobody speaks as fast in any script. A recogniser that says one word over and over would
otherwise hold up its whole batch."""
MOST_AT_ONCE = 256
"""Recordings that Whisper hears in one batch at most."""
SHARE_OF_MEMORY = 1 / 8
"""Of a GPU, that the largest part of a batch may take: the keys and values of the encoder's states."""


class TransformersRecogniser:
    """Whisper, or wav2vec2 with a CTC head (MMS: with the adapter of the language). Raises OSError or ValueError if it cannot be loaded.

    On a GPU Whisper computes in float16, as its authors run it.
    """

    def __init__(self, folder: Path, beam_size: int, device: torch.device) -> None:
        stock()  # silences what transformers says
        with silence():
            from transformers import AutoConfig, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor

            here: dict[str, Any] = {"local_files_only": True}
            self._ctc: bool = AutoConfig.from_pretrained(str(folder), **here).model_type != "whisper"
            self._processor = AutoProcessor.from_pretrained(str(folder), **here)
            classes = AutoModelForCTC if self._ctc else AutoModelForSpeechSeq2Seq
            self._dtype = torch.float32 if self._ctc or device.type == "cpu" else torch.float16
            self._model = classes.from_pretrained(str(folder), dtype=self._dtype, **here).to(device).eval()
        self._beam_size, self._device = beam_size, device
        self._batch = 1 if self._ctc or device.type == "cpu" else _at_once(self._model.config, beam_size, device)
        self._adapter: str | None = None

    def transcribe(self, audios: Sequence[NDArray[np.float32]], language: str) -> list[str]:
        """Transcripts of recordings, [samples] float32 each at 16 kHz; `language` is Whisper's code, or the name of an MMS adapter.

        On a GPU Whisper hears several at once. Batches always have one size, filled up with silence, so that a transcript does
        not depend on what else is in its batch.
        """
        if self._ctc:
            return [self.transcribe_scored(audio, language)[0] for audio in audios]
        texts: list[str] = []
        for start in range(0, len(audios), self._batch):
            part = list(audios[start : start + self._batch])
            filled = [*part, *[np.zeros(LISTENING_RATE, np.float32)] * (self._batch - len(part))]
            texts += self._written(self._heard(filled, language))[: len(part)]
        return texts

    @torch.inference_mode()
    def transcribe_scored(self, audio: NDArray[np.float32], language: str) -> tuple[str, float]:
        """The transcript of one recording, and the mean probability of its letters or tokens."""
        if not self._ctc:
            tokens = self._heard([audio], language)
            return self._written(tokens)[0], self._likelihood(audio, tokens[0], language)
        likely, tokens = self._letter_logits(audio, language).softmax(-1).max(-1)
        scores = likely[tokens != self._processor.tokenizer.pad_token_id]
        return self._letters(tokens), float(scores.mean()) if scores.numel() else 0.0

    @torch.inference_mode()
    def _heard(self, audios: list[NDArray[np.float32]], language: str) -> torch.Tensor:
        """Whisper's tokens of recordings that are heard together, [recordings, tokens] int64."""
        settings: dict[str, Any] = {"do_sample": False, "num_beams": self._beam_size, "max_new_tokens": MAX_TOKENS}
        settings["stopping_criteria"] = [_Longest(torch.tensor([len(a) for a in audios], device=self._device))]
        with silence():
            tokens: torch.Tensor = self._model.generate(self._features(audios), language=language, task="transcribe", **settings)
        return tokens

    def _features(self, audios: list[NDArray[np.float32]]) -> torch.Tensor:
        """[recordings, mels, 3000] on the device, in the model's number format.

        Whisper reads 30 s of each, most of them silence, whose features are known: those of the rest alone are computed.
        """
        frames = 2 * self._model.config.max_source_positions
        longest = min(frames // 100, max(map(len, audios)) // LISTENING_RATE + 2)  # s, with silence behind each, as in 30 s
        settings: dict[str, Any] = {"sampling_rate": LISTENING_RATE, "return_tensors": "pt", "device": str(self._device)}
        mels = self._processor(audios, max_length=longest * LISTENING_RATE, **settings).input_features.to(self._device)
        # (bels + 4) / 4, where silence lies 8 bels below the loudest, and never below -10
        silent = (mels.amax((1, 2), keepdim=True) - 2).clamp(min=-1.5)
        return torch.cat([mels, silent.expand(-1, mels.shape[1], frames - mels.shape[-1])], -1).to(self._dtype)

    def _likelihood(self, audio: NDArray[np.float32], tokens: torch.Tensor, language: str) -> float:
        """Mean probability of a transcript's tokens when Whisper reads them again; 0 of an empty one."""
        tokenizer = self._processor.tokenizer
        words = tokens[tokens < tokenizer.eos_token_id]  # every control token comes after the words
        if not len(words):
            return 0.0
        control = [i for _, i in tokenizer.get_decoder_prompt_ids(language=language, task="transcribe")]
        prompt = torch.tensor([self._model.config.decoder_start_token_id, *control], device=self._device)
        with silence():
            logits = self._model(self._features([audio]), decoder_input_ids=torch.cat([prompt, words])[None]).logits[0]
        logs = logits[len(prompt) - 1 : -1].float().log_softmax(-1).gather(1, words[:, None])
        return float(logs.mean().exp())

    def _written(self, tokens: torch.Tensor) -> list[str]:
        return [str(t).strip() for t in self._processor.batch_decode(tokens, skip_special_tokens=True)]

    @property
    def aligns(self) -> bool:
        """Whether it can say how well a text fits a recording letter by letter: a CTC model can."""
        return self._ctc

    @torch.inference_mode()
    def letter_logs(self, audio: NDArray[np.float32], language: str) -> torch.Tensor:
        """[samples] float32 at 16 kHz -> log-probabilities of letters, [frames, letters] float32 on the CPU; of a CTC model."""
        return self._letter_logits(audio, language)[0].log_softmax(-1).cpu()

    def _letter_logits(self, audio: NDArray[np.float32], language: str) -> torch.Tensor:
        """[1, frames, letters] float32 of a CTC model."""
        self._use_adapter(language)
        with silence():
            inputs = self._processor(audio, sampling_rate=LISTENING_RATE, return_tensors="pt").to(self._device)
            logits: torch.Tensor = self._model(**inputs).logits.float()
        return logits

    def fit(self, logs: torch.Tensor, text: str) -> float:
        """How well a text fits a recording, from 0 to 1: the mean probability of the frames of `letter_logs`, onto which its letters
        are forced, blanks included: what the text lacks counts as much as what it has too much.

        Letters that the model does not know are left out; a text that is too long for the recording fits not at all.
        """
        import torchaudio.functional

        tokenizer = self._processor.tokenizer
        spellings = [tokenizer(cased).input_ids for cased in (text.lower(), text.upper())]
        known = [[i for i in ids if i not in (tokenizer.unk_token_id, tokenizer.pad_token_id)] for ids in spellings]
        letters = max(known, key=len)
        needed = len(letters) + sum(a == b for a, b in pairwise(letters))  # a blank parts doubled letters
        if not letters or needed > len(logs):
            return 0.0
        targets = torch.tensor([letters], dtype=torch.int32)
        _, scores = torchaudio.functional.forced_align(logs[None], targets, blank=tokenizer.pad_token_id)
        return float(scores.exp().mean())

    def _letters(self, tokens: torch.Tensor) -> str:
        """Text of CTC's best tokens, [1, frames]. Special ones go afterwards: with `skip_special_tokens` the blanks that part
        doubled letters would go first."""
        tokenizer = self._processor.tokenizer
        text = str(tokenizer.batch_decode(tokens)[0])
        for special in tokenizer.all_special_tokens:
            text = text.replace(special, "")
        return text.strip()

    def _use_adapter(self, language: str) -> None:
        """MMS has a vocabulary and a small adapter for every language; other CTC models have one vocabulary."""
        if self._adapter == language or getattr(self._model.config, "adapter_attn_dim", None) is None:
            return
        with silence():
            self._processor.tokenizer.set_target_lang(language)
            self._model.load_adapter(language, local_files_only=True)
        self._adapter = language


class _Longest:
    """Ends a transcript that is longer than its recording could make it, whatever the others of its batch do."""

    def __init__(self, samples: torch.Tensor) -> None:
        """`samples` is [recordings] int64, at 16 kHz."""
        self._most = 20 + TOKENS_PER_SECOND * samples / LISTENING_RATE

    def __call__(self, tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """[recordings x hypotheses, tokens] -> [recordings x hypotheses] bool."""
        return (tokens.shape[1] >= self._most).repeat_interleave(len(tokens) // len(self._most))


def _at_once(config: Any, beam_size: int, device: torch.device) -> int:
    """How many recordings of 30 s a Whisper hears at once on a GPU: a power of two that depends on the model and the card alone."""
    one = 2 * torch.float16.itemsize * config.decoder_layers * config.max_source_positions * config.d_model * beam_size
    fit = SHARE_OF_MEMORY * torch.cuda.get_device_properties(device).total_memory / one
    return min(MOST_AT_ONCE, 1 << int(math.log2(max(1.0, fit))))


class WavLmSpeaker:
    """Speaker vectors of a WavLM (or other) model with an x-vector head. Raises OSError or ValueError if it cannot be loaded."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        stock()
        with silence():
            from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

            self._extractor = AutoFeatureExtractor.from_pretrained(str(folder), local_files_only=True)
            model = AutoModelForAudioXVector.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
        self._model = model.to(device).eval()
        self._device = device

    @torch.inference_mode()
    def vector(self, audio: NDArray[np.float32]) -> torch.Tensor:
        """[samples] float32 at 16 kHz -> [hidden] float32."""
        inputs = self._extractor(audio, sampling_rate=LISTENING_RATE, return_tensors="pt").to(self._device)
        embedding: torch.Tensor = self._model(**inputs).embeddings[0].float().cpu()
        return embedding
