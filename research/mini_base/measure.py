"""Measures what the embedded base and an adapted bundle can do, through stock `qwen_tts` and Whisper base.

    python research/mini_base/measure.py --out OUT                                   # the base that ships
    python research/mini_base/measure.py --out OUT --bundle bundles/malay-0.1.0       # Malay before and after, English kept
    python research/mini_base/measure.py --out OUT --corpus CORPUS --only trip        # round trips of all voices

Every figure is printed and appended to `OUT/figures.jsonl`; what was spoken stays in OUT. Sampling is the model's own
(`generation_config.json`). The character error rate is edits over characters of all sentences, by the normalisation of
the gates; its 95 % interval is a bootstrap over sentences. No sentence counts more edits than it has characters: of a sound
that it cannot read, Whisper may write one word a hundred times, and one such sentence would outweigh thirty (`uncapped` has
them all). Needs the extras `asr`, `asr-model` and `speaker`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile
import texts
import torch
import voices
from numpy.typing import NDArray
from qwen_tts import Qwen3TTSModel
from transformers.utils import logging as transformers_logging

from qrecipe.builtin import mini
from qrecipe.errors import Place
from qrecipe.evaluate.asr import FasterWhisper
from qrecipe.evaluate.evaluators import open_resemblyzer, resampled
from qrecipe.evaluate.normalise import normalise
from qrecipe.evaluate.wheels import materialise
from qrecipe.hashes import FileHashes
from qrecipe.inputs.evaluators import find
from qrecipe.recipe.evaluator import Asr, Evaluators

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT / "tests" / "builtin" / "voices"
MALAY = ROOT / "recipes" / "data" / "malay"
CODES = {"english": "en", "malay": "ms", "spanish": "es"}
MOST_FRAMES = 200
"""Frames after which a sentence counts as running away (16 s; none of them takes 6)."""
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Voice:
    """A reference recording."""

    name: str
    samples: Samples
    text: str


def english_voice(name: str) -> Voice:
    """A held-out clip of a training voice."""
    said = json.loads((CLIPS / "texts.json").read_text(encoding="utf-8"))
    return Voice(name, soundfile.read(CLIPS / f"{name}-0.ogg", dtype="float32")[0], said[f"{name}-0.ogg"])


def malay_voice() -> Voice:
    """The reference of the demo's recipe."""
    return Voice("kumo-ms", soundfile.read(MALAY / "ref.ogg", dtype="float32")[0], (MALAY / "ref.txt").read_text(encoding="utf-8").strip())


def malay_rows() -> list[dict[str, Any]]:
    """The demo's held-out recordings."""
    return [json.loads(line) for line in (MALAY / "dev.jsonl").read_text(encoding="utf-8").splitlines()]


def malay_sentences() -> list[str]:
    """Forty sentences that nothing trains on: those of dev.jsonl and of held.txt."""
    return [row["text"] for row in malay_rows()] + (MALAY / "held.txt").read_text(encoding="utf-8").splitlines()


class Bench:
    """Speaks, listens and writes figures down."""

    def __init__(self, out: Path, sentences: int, seeds: int, batch: int) -> None:
        self.out, self.sentences, self.seeds, self.batch = out, sentences, seeds, batch
        out.mkdir(parents=True, exist_ok=True)
        place = Place("measure.py")
        asr = Asr(backend="faster_whisper", model="wheel:whisper-base")
        found, problems = find("asr", Evaluators(asr=asr), ROOT, place, FileHashes())
        if problems:
            raise SystemExit(f"measure.py: {problems[0].message}")
        self.whisper = FasterWhisper(asr, materialise(found, place))

    def say(self, what: str, **figures: Any) -> None:
        """Prints a row of figures and keeps it."""
        print(what, json.dumps(figures, ensure_ascii=False), flush=True)
        with (self.out / "figures.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **figures}, ensure_ascii=False) + "\n")

    def rates(self, heard: Sequence[tuple[Samples, str]], language: str) -> dict[str, Any]:
        """Character error rate of recordings with their texts, with its interval."""
        edits, sizes = [], []
        for samples, text in heard:
            wanted = normalise(text, CODES[language])
            got = normalise(self.whisper.transcribe(resampled(samples), CODES[language]), CODES[language])
            found = jiwer.process_characters(wanted, got)
            edits.append(found.substitutions + found.deletions + found.insertions)
            sizes.append(len(wanted))
        e, n = np.array(edits), np.array(sizes)
        uncapped = round(float(e.sum() / n.sum()), 3)
        e = np.minimum(e, n)
        pick = np.random.default_rng(0).integers(0, len(e), (10_000, len(e)))
        low, high = (round(float(v), 3) for v in np.quantile(e[pick].sum(1) / n[pick].sum(1), (0.025, 0.975)))
        return {"cer": round(float(e.sum() / n.sum()), 3), "interval": [low, high], "clips": len(e), "uncapped": uncapped}

    def speak(self, model: Any, voice: Voice, sentences: list[str], language: str, seed: int) -> list[Samples]:
        """Speaks sentences in batches, all text first."""
        made: list[Samples] = []
        for start in range(0, len(sentences), self.batch):
            part = sentences[start : start + self.batch]
            torch.manual_seed(seed * 1000 + start)
            waves, _ = model.generate_voice_clone(
                text=part,
                language=[language] * len(part),
                ref_audio=[(voice.samples, voices.RATE)] * len(part),
                x_vector_only_mode=True,
                non_streaming_mode=True,
                max_new_tokens=MOST_FRAMES,
            )
            made += [np.asarray(wave, np.float32) for wave in waves]
        return made

    def intelligibility(self, what: str, model: Any, voice: Voice, sentences: list[str], language: str, prefix: str) -> None:
        """Error rate and runaways of sentences over all seeds."""
        heard: list[tuple[Samples, str]] = []
        runaways = 0
        for seed in range(self.seeds):
            made = self.speak(model, voice, sentences, prefix, seed)
            runaways += sum(len(wave) >= (MOST_FRAMES - 1) * voices.FRAME for wave in made)
            for number, (wave, text) in enumerate(zip(made, sentences, strict=True)):
                soundfile.write(
                    self.out / f"{what.replace(' ', '-')}-{seed}-{number:02d}.ogg", wave, voices.RATE, format="OGG", subtype="OPUS"
                )
                heard.append((wave, text))
        self.say(what, **self.rates(heard, language), voice=voice.name, prefix=prefix, seeds=self.seeds, runaways=runaways)

    def english(self, what: str, model: Any) -> None:
        """English in two voices."""
        for name in ("clara", "kumo"):
            self.intelligibility(
                f"{what} english {name}", model, english_voice(name), texts.HELD["english"][: self.sentences], "english", "English"
            )

    def malay(self, what: str, model: Any, prefix: str) -> None:
        """Malay in the demo's voice."""
        self.intelligibility(f"{what} malay", model, malay_voice(), malay_sentences()[: self.sentences], "malay", prefix)

    def trip(self, model: Any, corpus: Path | None) -> None:
        """Through the speech tokenizer and back: English of every voice (of those with clips here, without a corpus), and Malay."""
        codec = model.model.speech_tokenizer
        groups = recordings(corpus) if corpus else {name: [english_voice(name)] for name in ("clara", "bruno", "kumo")}
        groups["kumo-ms"] = [Voice("kumo-ms", soundfile.read(MALAY / r["audio"], dtype="float32")[0], r["text"]) for r in malay_rows()]
        for name, clips in groups.items():
            language = "malay" if name == "kumo-ms" else "english"
            clips = clips[: self.sentences]
            made = [codec.decode(codec.encode([clip.samples], sr=voices.RATE))[0][0] for clip in clips]
            self.say(f"recordings {name}", **self.rates([(clip.samples, clip.text) for clip in clips], language))
            self.say(f"round trip {name}", **self.rates([(wave, clip.text) for wave, clip in zip(made, clips, strict=True)], language))

    def cloning(self, model: Any) -> None:
        """How often speech is nearer to its reference's voice (other recordings of it) than to another training voice."""
        encode = open_resemblyzer()
        names = ("clara", "bruno", "kumo")
        own = {
            n: torch.stack([encode(soundfile.read(CLIPS / f"{n}-{k}.ogg", dtype="float32")[0]) for k in range(1, 6)]).mean(0) for n in names
        }
        right = of = 0
        for name in names:
            for wave in self.speak(model, english_voice(name), texts.HELD["english"][:10], "English", 0):
                vector = encode(wave)
                near = {n: float(torch.nn.functional.cosine_similarity(vector, o, dim=0)) for n, o in own.items()}
                right += sum(near[name] > value for n, value in near.items() if n != name)
                of += len(names) - 1
        self.say("cloning", nearer_to_the_right_voice=right, of=of, encoder="resemblyzer")

    def speed(self, model: Any) -> None:
        """Seconds of speech a second, one sentence at a time, streaming layout of the text."""
        voice, spoken = english_voice("clara"), 0.0
        start = time.perf_counter()
        for number, text in enumerate(texts.HELD["english"][:10]):
            torch.manual_seed(number)
            reference = [(voice.samples, voices.RATE)]
            waves, _ = model.generate_voice_clone(text=[text], language=["English"], ref_audio=reference, x_vector_only_mode=True)
            spoken += len(waves[0]) / voices.RATE
        self.say("speed", speech_a_second=round(spoken / (time.perf_counter() - start), 2), threads=torch.get_num_threads())


def recordings(corpus: Path) -> dict[str, list[Voice]]:
    """The held-out English clips of a corpus by voice."""
    found: dict[str, list[Voice]] = {}
    for path in sorted(corpus.glob("held-*.npz")):
        with np.load(path) as file:
            shard = {name: file[name] for name in ("audio", "samples", "voice", "language", "texts")}
        said = shard["texts"].tobytes().decode().split("\n")
        for end, size, voice, language, text in zip(
            np.cumsum(shard["samples"]), shard["samples"], shard["voice"], shard["language"], said, strict=True
        ):
            if language == 0:
                name = voices.VOICES[voice].name
                found.setdefault(name, []).append(Voice(name, shard["audio"][end - size : end].astype(np.float32) / 32768, text))
    return found


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--base", type=Path, default=mini.folder(), help="folder of the base (default: the one that ships)")
    parser.add_argument("--bundle", type=Path, help="the base adapted to Malay")
    parser.add_argument("--corpus", type=Path, help="folder with the held-*.npz of corpus.py, for the round trips of all voices")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prefix", default="Auto", help="what the base is told that Malay is, such as Spanish (default: nothing)")
    parser.add_argument("--sentences", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    kinds = ["english", "malay", "trip", "cloning", "speed"]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()  # one warning a sentence otherwise
    bench = Bench(args.out, args.sentences, args.seeds, args.batch)
    base = Qwen3TTSModel.from_pretrained(str(args.base), dtype=torch.float32)
    parts: dict[str, Callable[[], None]] = {
        "english": lambda: bench.english("base", base),
        "malay": lambda: bench.malay("base", base, args.prefix),
        "trip": lambda: bench.trip(base, args.corpus),
        "cloning": lambda: bench.cloning(base),
        "speed": lambda: bench.speed(base),
    }
    for kind in args.only:
        parts[kind]()
    if args.bundle:
        bundle = Qwen3TTSModel.from_pretrained(str(args.bundle), dtype=torch.float32)
        for kind in args.only:
            if kind == "malay":
                bench.malay("bundle", bundle, "Malay")
            elif kind == "english":
                bench.english("bundle", bundle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
