"""`import`: from the recordings that somebody has to manifests, clips, a data card and, if asked for, a recipe that runs.

Recordings in the recipe's repository stay where they are; others are copied, since a recipe reads nothing else. All is
written into a temporary folder first: the data is whole or absent.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from qrecipe.data.clips import Clips
from qrecipe.errors import DataError, Place, Problem, Problems, RecipeError
from qrecipe.files import write_text
from qrecipe.inputs.sources import Options, Source, open_source
from qrecipe.inputs.tables import Record, records
from qrecipe.inputs.texts import oddities, unspelled
from qrecipe.recipe.evaluator import Asr
from qrecipe.report.review import write_review
from qrecipe.source.bounds import repository
from qrecipe.verbs.import_.split import split
from qrecipe.verbs.import_.usable import ROWS, ImportProgress, UsableRow, UsableRows
from qrecipe.verbs.import_.voices import references, voices
from qrecipe.verbs.new import NewRecipe, new_recipe, problems_of

NAMES = ("train.jsonl", "dev.jsonl", "text.jsonl", "clips")
"""Files that an import writes and never overwrites."""


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
        self.clips = Clips(folder / "clips")
        self.root = repository(request.folder / "x")
        self.usable = UsableRows(source, request.recipe, self.clips, self.root if request.copy else None, progress)
        self.voices: list[str] = []
        self.rows: list[UsableRow] = []
        """Rows that were used in the end."""

    def write(self) -> Imported:
        """Reads the source and writes everything into the folder. Raises `DataError` if too little can be used."""
        rows = self.usable.read()
        self.clips.discard_wholes()
        if len(rows) < ROWS:
            raise DataError(self.usable.too_few(rows, self.request.source))
        parts = split([(r.text, r.speaker) for r in rows])
        for i in parts.unused:
            self.usable.drop(rows[i].place, "its speaker judges, and others say the same sentence", rows[i].text)
        learned = [rows[i] for i in parts.train]
        judging = [rows[i] for i in parts.dev]
        self._discard_clips({r.audio for r in (*learned, *judging)})
        self._manifest("train.jsonl", learned, {})
        self._manifest("dev.jsonl", judging, references(judging, learned))
        _write_lines(self.folder / "text.jsonl", [{"text": t} for t in dict.fromkeys(r.text for r in learned)])
        machine = [r for r in (*learned, *judging) if r.confidence is not None]
        if machine and not _reviews(self.request, self.target):
            write_text(self.folder / "review.html", self._review(machine))
        if self.usable.dropped:
            lines = [{"place": str(p), "reason": reason, "text": text} for p, reason, text in self.usable.dropped]
            _write_lines(self.folder / "left-out.jsonl", lines)
        chosen = voices(learned)
        self.voices = [os.path.relpath(self._final(r), self.request.folder) for r in chosen]
        self.rows = [*learned, *judging]
        sets = {"train": _about(learned), "dev": _about(judging)}
        imported = Imported(
            self.source.what, self.source.ignored, parts.rule, sets, self.usable.reasons(), self._notes(), self.target, None
        )
        write_text(self.folder / "README.md", _card(self.request, self.source, imported))
        return imported

    def _notes(self) -> list[str]:
        notes = []
        if self.usable.copied:
            size = sum(f.stat().st_size for f in self.clips.folder.rglob("*") if f.is_file())
            recordings = f"{self.usable.copied:,} recording{'s' if self.usable.copied > 1 else ''}, {size / 1e6:,.1f} MB,"
            what = f"copied {recordings} into {self.target / 'clips'}"
            notes.append(f"{what}: a recipe reads nothing outside its repository")
        machine = sum(r.confidence is not None for r in self.rows)
        if machine and not _reviews(self.request, self.target):
            notes.append(f"a machine made {machine:,} of the clips: open {self.target / 'review.html'}, and import the file that it saves")
        texts = [r.text for r in self.rows]
        notes += oddities(texts) + unspelled(texts)
        if self.usable.languages:
            counted = ", ".join(f"`{k}` {n:,}" for k, n in sorted(self.usable.languages.items(), key=lambda kv: -kv[1])[:5])
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
