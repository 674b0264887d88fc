"""Rows of a source that can be used, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qrecipe.data.audio import MIN_SECONDS, AudioProblem, check, rate_problem
from qrecipe.data.clips import Clips
from qrecipe.errors import Place, Problem, Problems
from qrecipe.hashes import sha256
from qrecipe.inputs.durations import by_header
from qrecipe.inputs.sources import Source, SourceRow
from qrecipe.inputs.tables import Embedded
from qrecipe.inputs.texts import near_key, unsayable
from qrecipe.inputs.tokenizer import clean_text
from qrecipe.verbs.new import NewRecipe

MAX_SECONDS = 30.0
"""A longer recording is no sentence; what datasets take by default."""
MAX_CHARACTERS = 10_000
ROWS = 4
"""Usable recordings below which there is nothing to divide."""

ImportProgress = Callable[[str, int], None]
"""Called with what is done and how many."""


@dataclass(frozen=True)
class UsableRow:
    """A recording that can be used as far as its samples and its text go."""

    place: Place
    text: str
    audio: Path
    seconds: float
    speaker: str | None
    language: str | None
    """As the source states it."""
    confidence: float | None
    imported: bool
    """Whether `audio` is in the folder of clips that is being written."""


class UsableRows:
    """Reads a source, and keeps an account of what is left out."""

    def __init__(self, source: Source, language: NewRecipe, clips: Clips, root: Path | None, progress: ImportProgress) -> None:
        """
        Args:
            source: that is read.
            language: whose recordings are wanted.
            clips: folder for recordings that are cut or copied.
            root: folder whose recordings stay where they are; None copies none.
            progress: told of every row.
        """
        self.source, self.language, self.clips, self.root = source, language, clips, root
        self.counted = progress
        self.dropped: list[tuple[Place, str, str]] = []
        """(place, reason, text)."""
        self.languages: dict[str, int] = {}
        """Rows by the language that they state."""
        self.copied = 0

    def read(self) -> list[UsableRow]:
        """Every row that can be used."""
        return self._without_lonely(self._unique(self._of_the_language(list(self._rows()))))

    def _rows(self) -> Iterator[UsableRow]:
        """Usable utterances; the others are counted."""
        for number, item in enumerate(self.source.utterances, start=1):
            self.counted("reading", number)
            if isinstance(item, Problem):
                self.drop(item.place, item.message, "")
                continue
            try:
                row = self._row(item)
            except (AudioProblem, OSError) as e:
                self.drop(item.place, f"the recording {_of_kind(e)}", item.text)
                continue
            if isinstance(row, str):
                self.drop(item.place, row, item.text)
            else:
                yield row

    def _row(self, item: SourceRow) -> UsableRow | str:
        """An utterance with its recording where it will be, or why it cannot be used. Raises `AudioProblem` and `OSError`."""
        text = clean_text(" ".join(item.text.split()))
        if (why := unsayable(text)) is not None:
            return why
        if len(text) > MAX_CHARACTERS:
            return f"the text has more than {MAX_CHARACTERS:,} characters"
        if item.audio is None:
            return "there is no such recording"
        length = None if item.start is None or item.end is None else item.end - item.start
        if length is not None and (why := _length_problem(length)) is not None:
            return why
        audio, seconds = self._recording(item)
        if (why := _length_problem(seconds) or _of_rate(text, seconds)) is not None:
            return why
        check(audio, MAX_SECONDS)
        imported = audio.is_relative_to(self.clips.folder)
        return UsableRow(item.place, text, audio, seconds, item.speaker, item.language, item.confidence, imported)

    def _recording(self, item: SourceRow) -> tuple[Path, float]:
        """The recording of an utterance where the manifest will name it, and its seconds. Raises `AudioProblem`."""
        audio = item.audio
        if isinstance(audio, Embedded):
            audio = self.clips.written(audio.name, audio.content)
            if item.start is not None and item.end is not None:
                audio = self.clips.cut(audio, item.start, item.end)
        elif item.start is not None and item.end is not None:
            assert audio is not None
            audio = self.clips.cut(audio, item.start, item.end)
        elif audio is not None:
            outside = self.root is not None and not audio.resolve().is_relative_to(self.root)
            if outside or audio.suffix.lower() in (".m4a", ".mp4", ".webm", ".mkv", ".aac", ".wma", ".amr", ".3gp"):
                self.copied += 1
                audio = self.clips.copied(audio)
        assert audio is not None
        seconds = by_header(audio)
        if seconds is None:
            raise AudioProblem("cannot be read as audio")
        return audio, seconds

    def _of_the_language(self, rows: list[UsableRow]) -> list[UsableRow]:
        """Rows without those that state another language, where some state the recipe's; a code of one's own means nothing."""
        own = {self.language.language, self.language.bcp47.lower(), self.language.bcp47.split("-")[0].lower()}
        for row in rows:
            if row.language is not None:
                self.languages[row.language] = self.languages.get(row.language, 0) + 1
        plain = {stated: stated.strip().lower().replace("_", "-") for stated in self.languages}
        ours = {stated for stated, tag in plain.items() if tag in own or tag.split("-")[0] in own}
        if not ours:
            return rows
        for row in rows:
            if row.language is not None and row.language not in ours:
                self.drop(row.place, f"its language is `{row.language}`", row.text)
        return [r for r in rows if r.language is None or r.language in ours]

    def drop(self, place: Place, reason: str, text: str) -> None:
        """Leaves a row out."""
        self.dropped.append((place, reason, text))

    def _unique(self, rows: list[UsableRow]) -> list[UsableRow]:
        """Rows without those that repeat a recording, under whatever name."""
        first: dict[str, str] = {}
        unique = []
        for row in rows:
            content, key = sha256(row.audio), near_key(row.text)
            if content not in first:
                unique.append(row)
            elif first[content] == key:
                self.drop(row.place, "the same recording and text stand in an earlier row", row.text)
            else:
                self.drop(row.place, "the same recording stands in an earlier row with another text", row.text)
            first.setdefault(content, key)
        return unique

    def _without_lonely(self, rows: list[UsableRow]) -> list[UsableRow]:
        """Rows without the only ones of their speakers: another recording gives the voice."""
        counts: dict[str | None, int] = {}
        for row in rows:
            counts[row.speaker] = counts.get(row.speaker, 0) + 1
        for row in rows:
            if counts[row.speaker] == 1:
                self.drop(row.place, "it is the only recording of its speaker, and another one has to give the voice", row.text)
        return [row for row in rows if counts[row.speaker] > 1]

    def too_few(self, rows: Sequence[UsableRow], source: Path) -> Problems:
        """Problems, one a kind, where hardly anything can be used."""
        problems = Problems()
        for reason, places in self.reasons().items():
            first = next(p for p, r, _ in self.dropped if r == reason)
            more = f" ({len(places):,} rows)" if len(places) > 1 else ""
            problems.append(Problem("QR041", reason + more, first))
        message = f"{len(rows)} recordings can be used; {ROWS} at least are needed"
        return Problems([Problem("QR047", message, Place(str(source)), severity="error"), *problems[:20]])

    def reasons(self) -> dict[str, list[str]]:
        """Places of the rows that were left out, by reason."""
        reasons: dict[str, list[str]] = {}
        for place, reason, _ in self.dropped:
            reasons.setdefault(reason, []).append(str(place))
        return reasons


def _of_kind(e: Exception) -> str:
    """An error as one kind with others of its sort."""
    return e.kind if isinstance(e, AudioProblem) else f"cannot be read: {getattr(e, 'strerror', None) or e}"


def _length_problem(seconds: float) -> str | None:
    if seconds > MAX_SECONDS:
        return f"the recording is longer than {MAX_SECONDS:g} s: cut it, or import it with subtitles or labels"
    return f"the recording is shorter than {MIN_SECONDS:g} s" if seconds < MIN_SECONDS else None


def _of_rate(text: str, seconds: float) -> str | None:
    why = rate_problem(text, seconds)
    return None if why is None else why.partition(": ")[2]
