"""Opening a base: from what a recipe names to stock modules in memory, ready to train, judge and speak."""

from __future__ import annotations

import contextlib
import copy
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qrecipe.errors import BaseModelError, Place, Problem, in_a_line
from qrecipe.files import cache_dir
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.model.fits import require_fit
from qrecipe.model.kernels import codec
from qrecipe.model.stock import silence, stock
from qrecipe.model.threads import each_on_one, one_thread
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.recipe.language import TAGS
from qrecipe.world import World


def pick_device() -> torch.device:
    """This process's GPU if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Settings of torch's allocator, by the newer name and the older one; what a person sets stands."""
SMALL = 512
"""Hidden size up to which two threads take longer to share a vector's product than one takes to compute it."""
VOICES_AT_ONCE = 32
"""Recordings of one length whose speaker vectors a GPU computes in one batch."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass
class LoadedBase:
    """A base in memory: the stock wrapper, and what qrecipe needs beside it.

    On the CPU all weights are float32 (an exact copy of narrower ones); on a GPU they are bfloat16.
    """

    folder: Path
    wrapper: Any
    """`qwen_tts.Qwen3TTSModel`."""
    tokenizer: TextTokenizer
    device: torch.device
    export_dtype: torch.dtype
    """Number format of the weights on disk: what a bundle is rounded to."""
    world: World = field(default_factory=World)
    """The processes that hold the same weights and share the work."""
    tags: dict[str, str] = field(default_factory=lambda: dict(TAGS))
    """BCP 47 tags of its languages by name."""

    @property
    def net(self) -> Any:
        """`Qwen3TTSForConditionalGeneration`."""
        return self.wrapper.model

    @property
    def talker(self) -> Any:
        """The talker, code predictor included."""
        return self.net.talker

    @property
    def config(self) -> Any:
        """The stock config."""
        return self.net.config

    @property
    def compute_dtype(self) -> torch.dtype:
        """Number format of the frozen weights in memory."""
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16

    @property
    def groups(self) -> int:
        """Codebooks of a frame."""
        return int(self.config.talker_config.num_code_groups)

    @property
    def codebook_size(self) -> int:
        """Entries of the codebooks that the predictor speaks."""
        return int(self.config.talker_config.code_predictor_config.vocab_size)

    @property
    def samples_per_frame(self) -> int:
        """Samples of one codec frame at 24 kHz."""
        return int(self.net.speech_tokenizer.get_encode_downsample_rate())

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """bfloat16 autocast on a GPU, where what trains is float32; nothing on the CPU."""
        if self.device.type == "cpu":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @property
    def small(self) -> bool:
        """Whether this is a small model on a CPU."""
        return self.device.type == "cpu" and int(self.config.talker_config.hidden_size) <= SMALL

    def small_products(self) -> contextlib.AbstractContextManager[object]:
        """For work of small products one after the other: one thread on a CPU, where the model is small; elsewhere nothing."""
        return one_thread() if self.small else contextlib.nullcontext()

    def language_row(self, language: str) -> int | None:
        """Row of a language; None for `auto`. Raises KeyError for one that the config does not list."""
        if language == "auto":
            return None
        return int(self.config.talker_config.codec_language_id[language])

    @cached_property
    def _speaker_encoder(self) -> torch.nn.Module:
        encoder: torch.nn.Module = self.net.speaker_encoder
        if self.device.type == "cpu":
            return encoder
        encoder = copy.deepcopy(encoder).float()
        codec.convolutions_as_products(encoder)
        return encoder

    def x_vector(self, audio: NDArray[np.float32]) -> torch.Tensor:
        """Speaker vector of one recording, [samples] at 24 kHz -> [hidden] float32 on the CPU."""
        return self._x_vectors(audio[None])[0]

    def x_vectors(self, audios: Sequence[NDArray[np.float32]]) -> list[torch.Tensor]:
        """Speaker vectors of recordings, as `x_vector` gives one.

        On a GPU, whose host would otherwise launch every kernel for each, those of one length are encoded together: padding a
        mel would change the pooled vector. Batches have one size, filled up with silence, so that a vector does not depend on
        what else is in its batch.
        """
        if self.device.type == "cpu":
            return [self.x_vector(audio) for audio in audios]
        by_length: dict[int, list[int]] = {}
        for i, audio in enumerate(audios):
            by_length.setdefault(len(audio), []).append(i)
        vectors: dict[int, torch.Tensor] = {}
        for length, places in by_length.items():
            for start in range(0, len(places), VOICES_AT_ONCE):
                part = places[start : start + VOICES_AT_ONCE]
                filled = np.zeros((VOICES_AT_ONCE, length), dtype=np.float32)
                filled[: len(part)] = [audios[i] for i in part]
                vectors.update(zip(part, self._x_vectors(filled)[: len(part)], strict=True))
        return [vectors[i] for i in range(len(audios))]

    @torch.inference_mode()
    def _x_vectors(self, audios: NDArray[np.float32]) -> torch.Tensor:
        """[recordings, samples] -> [recordings, hidden] float32 on the CPU. The mel settings are the stock ones
        (`extract_speaker_embedding`)."""
        with self.small_products(), contextlib.redirect_stdout(io.StringIO()):  # stock prints of samples outside [-1, 1]
            mel = (
                stock()
                .mel_spectrogram(
                    torch.from_numpy(audios.astype(np.float32)).to(self.device),
                    n_fft=1024,
                    num_mels=128,
                    sampling_rate=SAMPLE_RATE,
                    hop_size=256,
                    win_size=1024,
                    fmin=0,
                    fmax=12_000,
                )
                .transpose(1, 2)
            )
            vectors: torch.Tensor = self._speaker_encoder(mel)
        return vectors.float().cpu().clone()

    @torch.inference_mode()
    def encode(self, audios: list[NDArray[np.float32]]) -> list[torch.Tensor]:
        """Codes of recordings, each [frames, codebooks] int64 on the CPU, by the base's own speech tokenizer.

        `audios` are mono at 24 kHz, [samples] each. On a CPU each is encoded alone and on one thread: what stands beside
        a recording changes the last digits of its encoding, and with them one code in ten thousand, and padding costs time. On a GPU they are
        encoded at once, each filled up with silence to whole frames, and all padded to the longest: the encoder is causal, so
        that padding reaches no frame before it. Stock makes the frame that a recording ends in from less than a frame of
        samples, so there this last frame may have other codes than stock's.
        """
        tokenizer = self.net.speech_tokenizer
        if self.device.type == "cpu":
            encoded = each_on_one(lambda audio: tokenizer.encode([audio], sr=SAMPLE_RATE).audio_codes[0], audios)
            return [c.to("cpu", torch.int64).contiguous().clone() for c in encoded]

        # stock's own way spends longer on padding lists of numbers and on asking the GPU for lengths than the GPU on encoding
        frames = [-(-len(audio) // self.samples_per_frame) for audio in audios]
        padded = np.zeros((len(audios), 1, max(frames) * self.samples_per_frame), dtype=np.float32)
        for row, audio in zip(padded, audios, strict=True):
            row[0, : len(audio)] = audio
        model, samples = tokenizer.model, torch.from_numpy(padded).to(tokenizer.device)
        together = model.encoder.encode(samples, num_quantizers=model.encoder_valid_num_quantizers, return_dict=True).audio_codes
        return [c[:, :n].T.clone() for c, n in zip(together.to("cpu", torch.int64), frames, strict=True)]

    def reset(self) -> None:
        """Forgets what a generation leaves on the module (`rope_deltas`)."""
        self.talker.rope_deltas = None

    def close(self) -> None:
        """Frees the weights."""
        self.wrapper = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def open_model(info: LocalBase, device: torch.device | None = None, world: World | None = None) -> LoadedBase:
    """Opens a base or a bundle. Raises `BaseModelError` if stock qwen_tts cannot load it."""
    device = device or pick_device()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if device.type == "cuda":  # what is compiled takes a minute and is the same in the next run
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
    grow_one_segment(device)
    classes = stock()
    require_fit(info)
    try:
        with silence():
            wrapper = classes.Model.from_pretrained(str(info.folder), dtype=dtype, device_map=str(device), local_files_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as e:  # foreign code on foreign files
        message = f"stock qwen_tts cannot load {info.model}: {in_a_line(e, 300)}"
        raise BaseModelError(Problem("QR051", message, Place(str(info.model)))) from None
    wrapper.model.eval()
    wrapper.model.requires_grad_(False)
    wrapper.model.speech_tokenizer.model.float()  # codes must not depend on the number format of the talker
    if device.type == "cuda":
        codec.fuse_activations(wrapper.model.speech_tokenizer.model, device)
    _use_qwen_pattern(wrapper, info.folder)
    return LoadedBase(info.folder, wrapper, info.tokenizer, device, DTYPES[info.dtype], world or World(), info.tags)


def grow_one_segment(device: torch.device) -> None:
    """On a GPU, before its memory is first asked for: torch's allocator shall grow one segment, unless the environment says how it works.

    Batches differ in size, and what lies between blocks of fixed size is lost: two fifths of what a stage of rows reserved.
    """
    if device.type == "cuda" and not any(os.environ.get(name) for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"


def _use_qwen_pattern(wrapper: Any, folder: Path) -> None:
    """Gives the wrapper the tokenizer without `fix_mistral_regex`, which stock asks for and which swaps the pattern."""
    with silence():
        plain = type(wrapper.processor.tokenizer).from_pretrained(str(folder), local_files_only=True)
    wrapper.processor.tokenizer = plain
