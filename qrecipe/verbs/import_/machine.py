"""Recordings without labels: cut where nobody speaks, transcribed by a recogniser, or matched with a text that somebody wrote.

What comes out is a machine's work and says so, with its confidence: a person accepts or drops each clip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qrecipe.data.audio import AudioProblem
from qrecipe.errors import DataError, Place, Problem, RecipeError
from qrecipe.evaluate.asr import Aligner, Recogniser, open_recogniser
from qrecipe.evaluate.voice import listenable, speech_parts
from qrecipe.evaluate.wheels import materialise
from qrecipe.hashes import FileHashes
from qrecipe.inputs.evaluators import find, packages_problem
from qrecipe.inputs.sources import Source, SourceRow
from qrecipe.inputs.sources.folders import read_text
from qrecipe.inputs.sources.source import relative, sounds_below
from qrecipe.inputs.texts import near_key
from qrecipe.model.listening import LISTENING_RATE
from qrecipe.recipe.evaluator import Asr, Evaluators

UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of scripts that part no words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
REACH = 3
"""Words, or characters of such a script, that a border between clips is moved by at most."""
Fit = Callable[[int, str], float]
"""(clip, text) -> how well they fit, from 0 to 1."""


@dataclass(frozen=True)
class Transcription:
    """How recordings without labels are understood."""

    asr: Asr
    code: str
    """The recogniser's code of the language."""
    transcript: Path | None = None
    """Transcript of the recording, from its beginning to its end."""


def listen(path: Path, listening: Transcription, counted: Callable[[str, int], None]) -> Source:
    """Clips of a recording, or of all recordings of a folder, with their texts. Raises `DataError` and `RecipeError`."""
    folder, sounds = (path, list(sounds_below(path))) if path.is_dir() else (path.parent, [path])
    if not sounds:
        raise DataError(Problem("QR040", "there is no recording", Place(str(path))))
    if listening.transcript is not None and len(sounds) > 1:
        raise DataError(Problem("QR070", "a transcript belongs to one recording, and there are several", Place("--transcript")))
    recogniser = _recogniser(listening.asr)
    text = _transcript(listening.transcript) if listening.transcript is not None else None
    aligner = recogniser if text is not None and isinstance(recogniser, Aligner) and recogniser.aligns else None

    def utterances() -> Iterator[SourceRow | Problem]:
        number = 0
        for sound in sounds:
            place = Place(relative(sound, folder))
            try:
                audio = listenable(sound)
            except AudioProblem as e:
                yield Problem("QR043", f"the recording {e}", place)
                continue
            parts = speech_parts(audio)
            heard, logs = [], []
            for start, end in parts:
                number += 1
                counted("clips that were listened to", number)
                part = audio[int(start * LISTENING_RATE) : int(end * LISTENING_RATE)]
                heard.append(recogniser.transcribe_scored(part, listening.code))
                if aligner is not None:
                    logs.append(aligner.letter_logs(part, listening.code))
            texts = heard
            if text is not None:
                texts = matched(text, [t for t, _ in heard], partial(_forced, aligner, logs) if aligner is not None else None)
            for (start, end), (sentence, confidence) in zip(parts, texts, strict=True):
                where = Place(f"{place.file}@{start:.1f}s")
                yield SourceRow(where, sentence, sound, sound.name, start=start, end=end, confidence=round(confidence, 3))

    how = "matched with the transcript" if text is not None else "transcribed"
    what = f"{len(sounds)} recording{'s' if len(sounds) > 1 else ''} without labels: cut in silences, {how} by {listening.asr.model}"
    return Source("machine", what, utterances())


def _forced(aligner: Aligner, logs: Sequence[Any], clip: int, text: str) -> float:
    return aligner.fit(logs[clip], text)


def _recogniser(asr: Asr) -> Recogniser:
    place = Place("--asr")
    model, problems = find("asr", Evaluators(asr=asr), Path.cwd(), place, FileHashes())
    missing = [*problems, *([p] if (p := packages_problem(("faster_whisper",), "asr", "voice activity", place)) else [])]
    if missing:
        raise RecipeError(missing)
    return open_recogniser(asr, materialise(model, place), place)


def _transcript(path: Path) -> str:
    try:
        text = read_text(path)
    except OSError as e:
        raise DataError(Problem("QR040", f"cannot be read: {e.strerror or e}", Place(str(path)))) from None
    if text is None or not text.split():
        raise DataError(Problem("QR042", "the transcript holds no text", Place(str(path))))
    return text


def matched(transcript: str, heard: Sequence[str], fit: Fit | None = None) -> list[tuple[str, float]]:
    """The part of a transcript that belongs to each clip, with how well it fits what was heard there, from 0 to 1.

    Words of both are aligned by the fewest changes; a script without spaces is aligned by its characters. Words between
    two clips belong to the one whose words they stand nearer to; then words at the borders go where they fit better.

    Args:
        transcript: what is said in all clips.
        heard: what a recogniser understood of each.
        fit: how well words fit a clip; default: how much they are like what was heard there.
    """
    from rapidfuzz import fuzz
    from rapidfuzz.distance import Levenshtein

    words, join = transcript.split(), " "
    if len(UNSPACED.findall(transcript)) > len(transcript) / 2:
        words, join = [c for c in transcript if not c.isspace()], ""
    keys = [near_key(w) for w in words]
    clips = [near_key(h).split() if join else list(near_key(h).replace(" ", "")) for h in heard]
    owners = [i for i, clip in enumerate(clips) for _ in clip]
    aligned: list[int | None] = [None] * len(words)
    for op in Levenshtein.opcodes(keys, [w for clip in clips for w in clip]):
        if op.tag in ("equal", "replace"):
            for i in range(op.src_start, op.src_end):
                share = (i - op.src_start) * (op.dest_end - op.dest_start) // (op.src_end - op.src_start)
                aligned[i] = owners[op.dest_start + share]
    _fill(aligned)

    def alike(clip: int, part: str) -> float:
        return fuzz.ratio(near_key(part), near_key(heard[clip])) / 100

    parts = [[w for w, owner in zip(words, aligned) if owner == i] for i in range(len(heard))]
    _move_borders(parts, lambda clip, own: (fit or alike)(clip, join.join(own)) if own else 0.0)
    return [(text := join.join(own), (fit or alike)(i, text) if own else 0.0) for i, own in enumerate(parts)]


def _move_borders(parts: list[list[str]], fit: Callable[[int, list[str]], float]) -> None:
    """Gives the last words of a clip to the next one, or its first words to the one before, where both together fit better then."""
    for i in range(len(parts) - 1):
        before, after = parts[i], parts[i + 1]
        both, border = before + after, len(before)
        borders = range(max(0, border - REACH), min(len(both), border + REACH) + 1)
        # by length, so that a word alone does not count as much as a sentence; of equals the border where it is
        scores = {b: b * fit(i, both[:b]) + (len(both) - b) * fit(i + 1, both[b:]) for b in borders}
        best = max(borders, key=lambda b: (scores[b], -abs(b - border)))
        parts[i], parts[i + 1] = both[:best], both[best:]


def _fill(owners: list[int | None]) -> None:
    """Gives words that nothing was heard of to the clip of the nearest word that something was."""
    known = [i for i, owner in enumerate(owners) if owner is not None]
    position = 0
    for i, owner in enumerate(list(owners)):
        if owner is None and known:
            while position + 1 < len(known) and abs(known[position + 1] - i) < abs(known[position] - i):
                position += 1
            owners[i] = owners[known[position]]
