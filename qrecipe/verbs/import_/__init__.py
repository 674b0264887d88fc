"""`import`: from the recordings that somebody has to manifests, clips, a data card and, if asked for, a recipe that runs.

Recordings in the recipe's repository stay where they are; others are copied, since a recipe reads nothing else. All is
written into a temporary folder first: the data is whole or absent.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from qrecipe.data.audio import MAX_REFERENCE, MIN_SECONDS, AudioProblem, load, rate_problem
from qrecipe.data.clips import Clips
from qrecipe.errors import DataError, Place, Problem, Problems, RecipeError
from qrecipe.files import sha256, write_text
from qrecipe.inputs.durations import by_header
from qrecipe.inputs.sources import Options, Source, SourceRow, open_source
from qrecipe.inputs.tables import Embedded, Record, records
from qrecipe.inputs.texts import near_key, oddities, unsayable, unspelled
from qrecipe.inputs.tokenizer import clean_text
from qrecipe.recipe.evaluator import Asr
from qrecipe.report.review import write_review
from qrecipe.source.bounds import repository
from qrecipe.verbs.import_.split import split
from qrecipe.verbs.new import NewRecipe, new_recipe, problems_of

MAX_SECONDS = 30.0
"""A longer recording is no sentence; what datasets take by default."""
MAX_CHARACTERS = 10_000
VOICES = 4
"""Recordings in whose voices the base speaks what it must not forget."""
VOICE_SECONDS = (3.0, 10.0)
"""Of such a recording."""
ROWS = 4
"""Usable recordings below which there is nothing to divide."""
NAMES = ("train.jsonl", "dev.jsonl", "text.jsonl", "clips")
"""Files that an import writes and never overwrites."""

ImportProgress = Callable[[str, int], None]
"""Called with what is done and how many."""


@dataclass(frozen=True)
class ImportRequest:
    """Source of an import, and its target."""

    source: Path
    options: Options
    kind: str | None
    """A key of the registry of formats; None recognises it."""
    recipe: NewRecipe
    """The recipe that is written, or the language alone."""
    folder: Path
    """Of recipes."""
    write_recipe: bool
    copy: bool = True
    """Whether recordings outside the recipe's repository are copied into it."""
    asr: Asr | None = None
    """The recogniser of recordings without labels."""
    transcript: Path | None = None
    """Transcript of the one recording that has no labels."""


@dataclass(frozen=True)
class UsableRow:
    """A recording that can be used as far as its header and its text go."""

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


@dataclass
class Imported:
    """The result, for people and programs."""

    what: str
    """As what the source was recognised."""
    ignored: tuple[str, ...]
    rule: str
    """How rows that judge were chosen."""
    sets: dict[str, dict[str, Any]]
    """By manifest: rows, seconds, speakers."""
    dropped: dict[str, list[str]]
    """Reason -> places of the rows."""
    notes: list[str]
    folder: Path
    recipe: Path | None
    files: list[Path] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The object of the command line's JSON output."""
        return {
            "recognised": self.what,
            "ignored_columns": list(self.ignored),
            "split": self.rule,
            **self.sets,
            "left_out": {reason: len(places) for reason, places in self.dropped.items()},
            "notes": self.notes,
            "folder": str(self.folder),
            "recipe": None if self.recipe is None else str(self.recipe),
        }


def import_source(request: ImportRequest, progress: ImportProgress | None = None) -> Imported:
    """Imports a source. Raises `DataError` or `RecipeError`; then nothing was written."""
    recipe = request.folder / f"{request.recipe.language}.yaml"
    _refuse(request, recipe)
    source = _open(request, progress or _silent)
    target = request.folder / "data" / request.recipe.language
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        work = _Import(request, source, temporary, target, progress or _silent)
        imported = work.write()
        target.mkdir(exist_ok=True)
        if (target / "README.md").exists() and not _reviews(request, target):
            os.rename(temporary / "README.md", temporary / "data-card.md")
        for path in sorted(temporary.iterdir(), key=lambda p: p.suffix == ".jsonl"):  # manifests last
            os.chmod(path, 0o755 if path.is_dir() else 0o644)
            os.replace(path, target / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if request.write_recipe:
        written = new_recipe(replace(request.recipe, voices=work.voices, on_bad_row="skip"), request.folder)
        imported.recipe = written.recipe
        imported.files += written.files
    return imported


def _silent(what: str, done: int) -> None:
    """Tells nobody."""


def _open(request: ImportRequest, progress: ImportProgress) -> Source:
    """The source; recordings without labels are listened to. Raises `DataError` and `RecipeError`."""
    if request.asr is None:
        if request.transcript is not None:
            raise RecipeError(
                Problem("QR070", "a transcript is matched with what a recogniser hears", Place("--transcript"), "name one: `--asr`")
            )
        return open_source(request.source, request.options, request.kind)
    from qrecipe.verbs.import_.machine import Transcription, listen  # torch and a recogniser, for those who need them

    if not request.source.exists():
        raise DataError(Problem("QR040", "there is no such file or folder", Place(str(request.source))))
    code = request.asr.code(request.recipe.language, request.recipe.bcp47)
    return listen(request.source, Transcription(request.asr, code, request.transcript), progress)


def _refuse(request: ImportRequest, recipe: Path) -> None:
    """Raises `RecipeError` for arguments that no import could follow, and for data that would be overwritten."""
    target = request.folder / "data" / request.recipe.language
    problems = Problems(problems_of(request.recipe, recipe if request.write_recipe else None))
    present = [] if _reviews(request, target) else [name for name in NAMES if (target / name).exists()]
    if present:
        message = f"{target / present[0]} exists already, and an import overwrites nothing"
        problems.append(Problem("QR070", message, Place("qrecipe import"), "move it away, or choose another folder with `--out`"))
    problems.raise_any(RecipeError)


def _reviews(request: ImportRequest, target: Path) -> bool:
    """Whether the source is a review of this data, which may then be written again; its clips stay."""
    if request.source.suffix != ".jsonl" or not request.source.is_file():
        return False
    first = next((r.values for r in records(request.source, "jsonl", "") if isinstance(r, Record)), {})
    return "decision" in first and Path(str(first.get("audio"))).resolve().is_relative_to((target / "clips").resolve())


class _Import:
    """One import while it is made."""

    def __init__(self, request: ImportRequest, source: Source, folder: Path, target: Path, progress: ImportProgress) -> None:
        self.request = request
        self.source = source
        self.folder = folder
        """Where everything is written first."""
        self.target = target
        self.counted = progress
        self.clips = Clips(folder / "clips")
        self.root = repository(request.folder / "x")
        self.dropped: list[tuple[Place, str, str]] = []
        """(place, reason, text)."""
        self.languages: dict[str, int] = {}
        self.copied = 0
        self.voices: list[str] = []
        self.rows: list[UsableRow] = []
        """Rows that were used in the end."""

    def write(self) -> Imported:
        """Reads the source and writes everything into the folder. Raises `DataError` if too little can be used."""
        rows = self._without_lonely(self._unique(self._of_the_language(list(self._rows()))))
        self.clips.discard_wholes()
        if len(rows) < ROWS:
            raise DataError(self._too_few(rows))
        parts = split([(r.text, r.speaker) for r in rows])
        for i in parts.unused:
            self._drop(rows[i].place, "its speaker judges, and others say the same sentence", rows[i].text)
        learned = [rows[i] for i in parts.train]
        judging = [rows[i] for i in parts.dev]
        self._discard_clips({r.audio for r in (*learned, *judging)})
        self._manifest("train.jsonl", learned, {})
        self._manifest("dev.jsonl", judging, _references(judging, learned))
        _write_lines(self.folder / "text.jsonl", [{"text": t} for t in dict.fromkeys(r.text for r in learned)])
        machine = [r for r in (*learned, *judging) if r.confidence is not None]
        if machine and not _reviews(self.request, self.target):
            write_text(self.folder / "review.html", self._review(machine))
        if self.dropped:
            lines = [{"place": str(p), "reason": reason, "text": text} for p, reason, text in self.dropped]
            _write_lines(self.folder / "left-out.jsonl", lines)
        chosen = _voices(learned)
        self.voices = [os.path.relpath(self._final(r), self.request.folder) for r in chosen]
        self.rows = [*learned, *judging]
        sets = {"train": _about(learned), "dev": _about(judging)}
        imported = Imported(self.source.what, self.source.ignored, parts.rule, sets, self._reasons(), self._notes(), self.target, None)
        write_text(self.folder / "README.md", _card(self.request, self.source, imported))
        return imported

    def _rows(self) -> Iterator[UsableRow]:
        """Usable utterances; the others are counted."""
        for number, item in enumerate(self.source.utterances, start=1):
            self.counted("reading", number)
            if isinstance(item, Problem):
                self._drop(item.place, item.message, "")
                continue
            try:
                row = self._row(item)
            except (AudioProblem, OSError) as e:
                self._drop(item.place, f"the recording {_of_kind(e)}", item.text)
                continue
            if isinstance(row, str):
                self._drop(item.place, row, item.text)
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
        why = _length_problem(seconds) or _of_rate(text, seconds)
        imported = audio.is_relative_to(self.folder)
        return why or UsableRow(item.place, text, audio, seconds, item.speaker, item.language, item.confidence, imported)

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
            outside = self.request.copy and not audio.resolve().is_relative_to(self.root)
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
        own = {self.request.recipe.language, self.request.recipe.bcp47.lower(), self.request.recipe.bcp47.split("-")[0].lower()}
        for row in rows:
            if row.language is not None:
                self.languages[row.language] = self.languages.get(row.language, 0) + 1
        plain = {stated: stated.strip().lower().replace("_", "-") for stated in self.languages}
        ours = {stated for stated, tag in plain.items() if tag in own or tag.split("-")[0] in own}
        if not ours:
            return rows
        for row in rows:
            if row.language is not None and row.language not in ours:
                self._drop(row.place, f"its language is `{row.language}`", row.text)
        return [r for r in rows if r.language is None or r.language in ours]

    def _drop(self, place: Place, reason: str, text: str) -> None:
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
                self._drop(row.place, "the same recording and text stand in an earlier row", row.text)
            else:
                self._drop(row.place, "the same recording stands in an earlier row with another text", row.text)
            first.setdefault(content, key)
        return unique

    def _without_lonely(self, rows: list[UsableRow]) -> list[UsableRow]:
        """Rows without the only ones of their speakers: another recording gives the voice."""
        counts: dict[str | None, int] = {}
        for row in rows:
            counts[row.speaker] = counts.get(row.speaker, 0) + 1
        for row in rows:
            if counts[row.speaker] == 1:
                self._drop(row.place, "it is the only recording of its speaker, and another one has to give the voice", row.text)
        return [row for row in rows if counts[row.speaker] > 1]

    def _too_few(self, rows: Sequence[UsableRow]) -> Problems:
        """Problems, one a kind, where hardly anything can be used."""
        problems = Problems()
        for reason, places in self._reasons().items():
            first = next(p for p, r, _ in self.dropped if r == reason)
            more = f" ({len(places):,} rows)" if len(places) > 1 else ""
            problems.append(Problem("QR041", reason + more, first))
        message = f"{len(rows)} recordings can be used; {ROWS} at least are needed"
        return Problems([Problem("QR047", message, Place(str(self.request.source)), severity="error"), *problems[:20]])

    def _reasons(self) -> dict[str, list[str]]:
        reasons: dict[str, list[str]] = {}
        for place, reason, _ in self.dropped:
            reasons.setdefault(reason, []).append(str(place))
        return reasons

    def _notes(self) -> list[str]:
        notes = []
        if self.copied:
            size = sum(f.stat().st_size for f in self.clips.folder.rglob("*") if f.is_file())
            notes.append(f"copied {self.copied:,} recordings, {size / 1e6:,.1f} MB: a recipe reads its own repository alone")
        machine = sum(r.confidence is not None for r in self.rows)
        if machine and not _reviews(self.request, self.target):
            notes.append(f"a machine made {machine:,} of the clips: open {self.target / 'review.html'}, and import the file that it saves")
        texts = [r.text for r in self.rows]
        notes += oddities(texts) + unspelled(texts)
        if self.languages:
            counted = ", ".join(f"`{k}` {n:,}" for k, n in sorted(self.languages.items(), key=lambda kv: -kv[1])[:5])
            notes.append(f"languages that the rows state: {counted}")
        return notes

    def _review(self, rows: Sequence[UsableRow]) -> str:
        """The page on which a person accepts or drops what a machine made."""
        clips = [{"audio": self._relative(r), "text": r.text, "speaker": r.speaker, "confidence": r.confidence} for r in rows]
        return write_review(f"Clips of {self.request.recipe.language} to review", clips)

    def _discard_clips(self, used: set[Path]) -> None:
        """Removes clips of rows that were left out in the end."""
        for path in self.clips.folder.glob("*"):
            if path not in used:
                path.unlink()

    def _final(self, row: UsableRow) -> Path:
        """Where a recording is when the import is over."""
        return self.target / row.audio.relative_to(self.folder) if row.imported else row.audio

    def _manifest(self, name: str, rows: Sequence[UsableRow], references: dict[int, UsableRow]) -> None:
        """Writes a manifest; `references` are other recordings of the voices, by row."""
        lines = []
        for i, row in enumerate(rows):
            line: dict[str, Any] = {"audio": self._relative(row), "text": row.text}
            line |= {k: v for k, v in (("speaker", row.speaker), ("confidence", row.confidence)) if v is not None}
            if i in references:
                line |= {"reference": self._relative(references[i]), "reference_text": references[i].text}
            lines.append(line)
        _write_lines(self.folder / name, lines)

    def _relative(self, row: UsableRow) -> str:
        """A recording as the manifest names it."""
        if row.imported:
            return str(row.audio.relative_to(self.folder))
        inside = row.audio.resolve().is_relative_to(self.root)
        return os.path.relpath(row.audio.resolve(), self.target.resolve()) if inside else str(row.audio.resolve())


def _of_kind(e: Exception) -> str:
    """An error as one kind with others of its sort."""
    return str(e) if isinstance(e, AudioProblem) else f"cannot be read: {getattr(e, 'strerror', None) or e}"


def _length_problem(seconds: float) -> str | None:
    if seconds > MAX_SECONDS:
        return f"the recording is longer than {MAX_SECONDS:g} s: cut it, or import it with subtitles or labels"
    return f"the recording is shorter than {MIN_SECONDS:g} s" if seconds < MIN_SECONDS else None


def _of_rate(text: str, seconds: float) -> str | None:
    why = rate_problem(text, seconds)
    return None if why is None else why.partition(": ")[2]


def _references(judging: Sequence[UsableRow], learned: Sequence[UsableRow]) -> dict[int, UsableRow]:
    """A learned recording of the same speaker for every row that judges, where its speaker is learned."""
    best = _best_of_speakers(learned, {r.speaker for r in judging})
    return {i: best[row.speaker] for i, row in enumerate(judging) if row.speaker in best}


def _voices(rows: Sequence[UsableRow]) -> list[UsableRow]:
    """Recordings of different speakers, of a fitting length."""
    speakers = dict.fromkeys(r.speaker for r in sorted(rows, key=_fitness))
    return list(_best_of_speakers(rows, list(speakers)[:VOICES]).values())


def _best_of_speakers(rows: Sequence[UsableRow], speakers: Iterable[str | None]) -> dict[str | None, UsableRow]:
    """The recording of each speaker that is of the best length for a reference, of those that can be one: a run ends at a bad one."""
    remaining = dict.fromkeys(speakers)
    best: dict[str | None, UsableRow] = {}
    for row in sorted((r for r in rows if r.speaker in remaining), key=_fitness):
        if row.speaker not in best and _can_be_heard(row.audio):
            best[row.speaker] = row
    return best


def _can_be_heard(audio: Path) -> bool:
    """Whether a recording passes the checks of references."""
    try:
        load(audio, MAX_REFERENCE)
    except (AudioProblem, OSError):
        return False
    return True


def _fitness(row: UsableRow) -> float:
    """Seconds that a recording is off the length of a good reference."""
    low, high = VOICE_SECONDS
    return max(low - row.seconds, row.seconds - high, 0.0)


def _about(rows: Sequence[UsableRow]) -> dict[str, Any]:
    speakers = {r.speaker for r in rows}
    return {"rows": len(rows), "seconds": round(sum(r.seconds for r in rows), 1), "speakers": len(speakers)}


def _write_lines(path: Path, values: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values))


def _card(request: ImportRequest, source: Source, imported: Imported) -> str:
    """The data card."""
    table = [f"| `{k}.jsonl` | {v['rows']:,} | {v['seconds'] / 3600:.2f} | {v['speakers']} |" for k, v in imported.sets.items()]
    dropped = sum(map(len, imported.dropped.values()))
    reasons = "; ".join(f"{len(places):,}: {reason}" for reason, places in imported.dropped.items())
    facts = [f"- **{k}**: {v}" for k, v in {"language": f"{request.recipe.language} ({request.recipe.bcp47})", **source.facts}.items()]
    return Template((resources.files(__name__) / "card.md").read_text(encoding="utf-8")).substitute(
        title=request.recipe.language.replace("_", " ").capitalize(),
        table="\n".join(table),
        source=f"`{request.source.name}`",
        what=source.what,
        rule=imported.rule,
        dropped=f"{dropped:,} rows, with reasons in `left-out.jsonl` ({reasons})" if dropped else "nothing",
        facts="\n".join(facts) + "\n",
    )
