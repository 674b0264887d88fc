r"""Makes the data of the studies: sentences, and speech of one synthetic voice, 60 minutes for each language.

    python research/studies/synthetic.py malay turkish              # everything; skips the clips that are there
    python research/studies/synthetic.py malay --minutes 15         # speech up to 15 minutes
    python research/studies/synthetic.py malay turkish --only text  # sentences alone, with no package but qrecipe's
    python research/studies/synthetic.py malay turkish --only phonemes                 # and how they are pronounced (espeak-ng)
    python research/studies/synthetic.py malay turkish --only speech --device cuda     # what is left, on a GPU, without espeak-ng

Writes ``research/studies/data/LANGUAGE``: ``text-N.jsonl`` (100, 300, 1,000 sentences), ``speech-N.jsonl`` (5, 15, 30, 60 minutes, each
the beginning of the next), ``audio/``, and for a language that the demo has no data of ``dev.jsonl`` and ``ref.ogg``; and
``research/studies/data/english/text.jsonl``, what the base says of itself in self-replay.

Where sentences come from: Malay, first those of ``recipes/data/malay/text.jsonl``, with the demo's clips of them, then ``sentences.py``; Turkish,
``sentences.py``, with held-out sentences in ``research/studies/turkish``; English, the generator of the embedded base's corpus, in a split
of its own. The voice, and the packages that it needs, are those of ``research/demo_data/make.py``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sentences import GRAMMARS, sentences

ROOT = Path(__file__).resolve().parents[2]
STUDIES = Path(__file__).resolve().parent
DATA = STUDIES / "data"
TEXTS = (100, 300, 1000)
MINUTES = (5, 15, 30, 60)
ENGLISH = 300
MOST = 25
"""Sentences a minute that are never reached: they last four seconds and more."""


def held(language: str) -> list[str]:
    """Sentences that judge, and that of the reference: nothing trains on them."""
    own = STUDIES / language
    if (own / "dev.txt").is_file():
        files = [own / name for name in ("dev.txt", "held.txt", "ref.txt")]
        return [t for f in files if f.is_file() for t in f.read_text("utf-8").splitlines() if t]
    shipped = ROOT / "recipes" / "data" / language
    rows = [json.loads(line)["text"] for line in (shipped / "dev.jsonl").read_text("utf-8").splitlines()]
    return [*rows, (shipped / "ref.txt").read_text("utf-8").strip()]


def texts(language: str, count: int) -> list[str]:
    """The first sentences to train on: the demo's where it has some, then the grammar's."""
    shipped = ROOT / "recipes" / "data" / language / "text.jsonl"
    first = [json.loads(line)["text"] for line in shipped.read_text("utf-8").splitlines()] if shipped.is_file() else []
    kept = [t for t in dict.fromkeys(first) if t not in held(language)]
    return [*kept, *sentences(language, max(0, count - len(kept)), frozenset([*kept, *held(language)]))][:count]


def recorded(language: str) -> dict[str, Path]:
    """The demo's own clips by their text: the same voice says the same, so nothing is said twice."""
    shipped = ROOT / "recipes" / "data" / language
    manifest = shipped / "train.jsonl"
    rows = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()] if manifest.is_file() else []
    return {r["text"]: shipped / r["audio"] for r in rows}


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")


def write_texts(language: str) -> None:
    """The sentences of a language, and of English."""
    sys.path.insert(0, str(ROOT / "research" / "mini_base"))
    import texts as corpus

    for count in TEXTS:
        write_rows(DATA / language / f"text-{count}.jsonl", ({"text": t} for t in texts(language, count)))
    english = dict.fromkeys(corpus.sentence("english", "study", i) for i in range(3 * ENGLISH))
    write_rows(DATA / "english" / "text.jsonl", ({"text": t} for t in list(english)[:ENGLISH]))


class Speech:
    """One voice that says sentences, each into a file of its own; what is there is not said again."""

    def __init__(self, language: str, device: str) -> None:
        sys.path.insert(0, str(ROOT / "research" / "demo_data"))
        import make

        known = dict(make.LANGUAGES)
        known.setdefault("turkish", make.Language("tr", "tr", make.AFFRICATES | {"r": "ɾ", "ɫ": "l"}))
        self._make, self._language, self._device = make, known[language], device
        self._speaker: Any = None
        self._recorded = recorded(language)
        self._file = DATA / language / "phonemes.json"
        self._phonemes: dict[str, str] = json.loads(self._file.read_text("utf-8")) if self._file.is_file() else {}

    def phonemes(self, texts: list[str]) -> None:
        """Writes down how sentences are pronounced, so that a machine without espeak-ng can say them."""
        missing = [t for t in texts if t not in self._phonemes]
        for text in missing:
            self._phonemes[text] = self.speaker.phonemes(text, self._language)
        if missing:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(self._phonemes, ensure_ascii=False, indent=0), "utf-8")

    @property
    def speaker(self) -> Any:
        """The voice, opened when something is to be said."""
        if self._speaker is None:
            self._speaker = self._make.Speaker(self._device)
        return self._speaker

    def say(self, path: Path, text: str) -> float:
        """Seconds of a sentence in its file."""
        import soundfile

        if not path.is_file() and text in self._recorded:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._recorded[text], path)
        elif not path.is_file():
            self._make.write(path, self._make.trim(self.speaker.say_phonemes(self._phonemes[text])))
        return float(soundfile.info(str(path)).duration)


def write_speech(language: str, minutes: int, device: str, phonemes_only: bool = False) -> None:
    """Speech up to so many minutes, clip by clip in the order of the sentences."""
    speech, folder = Speech(language, device), DATA / language
    judged = held(language) if (STUDIES / language / "dev.txt").is_file() else []
    spoken = texts(language, MOST * minutes)
    speech.phonemes([*judged, *spoken])
    if phonemes_only:
        return
    if judged:
        rows = [{"audio": f"audio/dev_{i:02}.ogg", "text": t} for i, t in enumerate(judged[:-1], start=1)]
        for row in rows:
            speech.say(folder / row["audio"], row["text"])
        write_rows(folder / "dev.jsonl", rows)
        speech.say(folder / "ref.ogg", judged[-1])
    total, rows = 0.0, []
    amounts = [m for m in MINUTES if m <= minutes]
    for number, text in enumerate(spoken):
        row = {"audio": f"audio/{number:04}.ogg", "text": text}
        total += speech.say(folder / row["audio"], text)
        rows.append(row)
        if number % 25 == 0:
            print(f"{language}: {total / 60:.1f} of {minutes:g} minutes", file=sys.stderr, flush=True)
        while amounts and total >= 60 * amounts[0]:
            write_rows(folder / f"speech-{amounts[0]}.jsonl", rows)
            amounts.pop(0)
        if not amounts:
            return
    raise SystemExit(f"{language}: {len(spoken)} sentences are {total / 60:.1f} minutes alone")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Make the data of the studies.")
    parser.add_argument("languages", nargs="+", choices=sorted(GRAMMARS))
    parser.add_argument("--minutes", type=int, default=MINUTES[-1], choices=MINUTES, help="minutes of speech of each language")
    parser.add_argument("--only", choices=("text", "phonemes", "speech"), help="one step; `speech` needs no espeak-ng after `phonemes`")
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "cpu-torch"), default="cpu", help="where the voice runs; cuda is fifty times faster"
    )
    arguments = parser.parse_args()
    for language in arguments.languages:
        if arguments.only in (None, "text"):
            write_texts(language)
        if arguments.only != "text":
            write_speech(language, arguments.minutes, arguments.device, arguments.only == "phonemes")


if __name__ == "__main__":
    main()
