"""`watch`: a run's page while it runs, from what the run leaves in its folder. The run does nothing for it, and does not know of it."""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import soundfile

from qrecipe.errors import Place, Problem, UserError, suggest
from qrecipe.evaluate.normalise import normalise
from qrecipe.evaluate.samples import BATCH, Where, heard_inputs, sound_key, stored_batch
from qrecipe.files import read_json
from qrecipe.report.history import EventReader, RunHistory
from qrecipe.report.page import PAGE, Column, PageSound, how_spoken, marked, sound, write_page
from qrecipe.report.serve import Response, Site
from qrecipe.run.events import EVENTS, PROGRESS
from qrecipe.run.store import HEARD, HELD, RunStore
from qrecipe.store import Journal, key_of

QUIET = 15.0
"""Seconds without an event after which it is asked whether the run's process is there."""
FLAC = "audio/flac"


@dataclass(frozen=True)
class StoredSound:
    """A sound that the run has stored."""

    where: Where
    file: Path
    seconds: float

    @cached_property
    def key(self) -> str:
        """Content of the sound, which takes reading all of it."""
        return sound_key(soundfile.read(str(self.file), dtype="float32")[0])


@dataclass
class RunFolder:
    """Content of a run's folder by now. Files that were read once are not read again; safe for several threads."""

    folder: Path
    _reader: EventReader = field(init=False)
    _batches: dict[Path, list[StoredSound]] = field(default_factory=dict)
    _sounds: dict[str, Path] = field(default_factory=dict)
    """By the URL of the page that is served."""
    _alive: tuple[Any, bool] = (None, True)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._reader = EventReader(self.folder / EVENTS)

    def version(self) -> str:
        """Names what the page shows: it changes when the page does."""
        with self._lock:
            history = self._read()
            stored = [len(self._batches.get(f, ())) for f in self._manifests(history)]
            return json.dumps([_stamp(self.folder / name) for name in (EVENTS, PROGRESS, PAGE)] + [self._is_alive(history), stored])

    def page(self, embedded: bool) -> str:
        """The page: the one that the run wrote at its end, else one of what is there, with the sounds in it if it is to stand alone."""
        with self._lock:
            history = self._read()
            file = self.folder / PAGE
            with suppress(OSError, ValueError):
                if history.ended is not None and file.stat().st_mtime + 2 >= (self.folder / EVENTS).stat().st_mtime:
                    return file.read_text("utf-8")
            if not self._is_alive(history):
                history = replace(history, ended="killed")
            title = history.title or self.folder.name
            return write_page(title, self._columns(history, embedded), history=history)

    def sound(self, url: str) -> bytes | None:
        """The file of a sound of the page."""
        with self._lock, suppress(OSError):
            file = self._sounds.get(url)
            return None if file is None else file.read_bytes()
        return None

    def _read(self) -> RunHistory:
        history = self._reader.read()
        with suppress(OSError, ValueError):
            history.progress(read_json(self.folder / PROGRESS))
        return history

    def _is_alive(self, history: RunHistory) -> bool:
        """Whether the run's process is there. Asked once for every state of a file that has been quiet."""
        stamp = _stamp(self.folder / EVENTS)
        if history.ended is not None or stamp is None or time.time() - stamp[1] < QUIET:
            return True
        if self._alive[0] != stamp or self._alive[1]:
            self._alive = (stamp, RunStore(self.folder).is_held())
        return self._alive[1]

    def _states(self, history: RunHistory) -> dict[str, Path]:
        """Folders of the samples of the base and of every stage, by name, as far as they are known."""
        fingerprints = {"base": history.start} | {name: s.fingerprint for name, s in history.stages.items()}
        store = RunStore(self.folder)
        return {name: store.stage_folder(f) / "samples" for name, f in fingerprints.items() if f}

    def _manifests(self, history: RunHistory) -> list[Path]:
        """Manifests of all batches that were spoken; what is new of them is read."""
        files = [f for folder in self._states(history).values() for f in sorted(folder.glob(f"*/*/{BATCH}"))]
        for file in files:
            if file not in self._batches:
                self._batches[file] = [StoredSound(where, f, _seconds(f)) for where, f in stored_batch(file)]
        return files

    def _columns(self, history: RunHistory, embedded: bool) -> list[Column]:
        """Speech of every state, with its first seed, dataset by dataset."""
        files = self._manifests(history)
        states = self._states(history)
        transcripts = Transcripts(self.folder, history)
        columns: dict[tuple[str, int], Column] = {}
        for n, (name, folder) in enumerate(states.items()):
            sounds = [s for file in files if folder in file.parents for s in self._batches[file]]
            first = {s.where[0]: min(t.where[5] for t in sounds if t.where[0] == s.where[0]) for s in sounds}
            for dataset, seed in first.items():
                spoken = [s for s in sounds if (s.where[0], s.where[5]) == (dataset, seed)]
                columns[(dataset, n)] = Column(f"{dataset}: {name}", [self._speech(s, transcripts, embedded) for s in spoken])
        return [columns[key] for key in sorted(columns)]

    def _speech(self, stored: StoredSound, transcripts: Transcripts, embedded: bool) -> PageSound:
        dataset, line, text, layout, prompt, seed = stored.where
        source = f"/sound/{key_of(str(stored.file), 16)}"
        self._sounds[source] = stored.file
        if embedded:
            source = f"data:{sound(soundfile.read(str(stored.file), dtype='float32')[0])}"
        return PageSound(line, text, how_spoken(layout, prompt, seed, stored.seconds), source, transcripts.marked(dataset, text, stored))


class Transcripts:
    """Transcripts by the run's recogniser so far: its verdicts name it, and `heard.jsonl` holds what it wrote for every sound."""

    def __init__(self, folder: Path, history: RunHistory) -> None:
        verdicts = [*history.before.values(), *(v for judged in history.verdicts.values() for v in judged)]
        self._evaluators = {v.data: v.evaluator for v in verdicts if v.evaluator is not None and "normalisation" in v.evaluator}
        self._journal = Journal(folder / HEARD, writes=False)

    def marked(self, dataset: str, text: str, stored: StoredSound) -> str:
        """HTML of the transcript with its errors marked; nothing where there is none yet."""
        evaluator = self._evaluators.get(dataset)
        if evaluator is None:
            return ""
        transcript = self._journal.get(heard_inputs(evaluator, stored.key))
        tag = evaluator["normalisation"]["tag"]
        return "" if transcript is None else marked(normalise(text, tag), normalise(transcript, tag))


def _seconds(file: Path) -> float:
    try:
        return float(soundfile.info(str(file)).duration)
    except soundfile.SoundFileError:
        return 0.0


def _stamp(path: Path) -> tuple[int, float] | None:
    """Size and time of a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime


def require_run(folder: Path) -> RunFolder:
    """A folder that holds a run, or may get one. Raises `UserError` for one that holds something else."""
    if folder.exists() and not folder.is_dir():
        raise UserError(Problem("QR070", "this is a file, not the folder of a run", Place(str(folder)), "give runs/NAME"))
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in (EVENTS, HELD)):
        raise UserError(Problem("QR070", "this folder holds no run", Place(str(folder)), "give runs/NAME"))
    return RunFolder(folder)


def exported(run: RunFolder) -> str:
    """The page as it is now, in one file. Raises `UserError` where there is no run."""
    if not (run.folder / EVENTS).is_file():
        beside = [f.parent.name for f in run.folder.parent.glob(f"*/{EVENTS}")]
        raise UserError(Problem("QR070", "there is no run here yet", Place(str(run.folder)), suggest(run.folder.name, beside)))
    return run.page(embedded=True)


def watching_site(run: RunFolder) -> Site:
    """The page, which looks every other second whether there is more to show."""
    script = (resources.files("qrecipe.report") / "watch.js").read_text(encoding="utf-8")

    def get(path: str) -> Response | None:
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; media-src 'self' data:; img-src data:"
            page = run.page(embedded=False).replace("</main></body>", f'</main><script nonce="{nonce}">{script}</script></body>')
            headers = {"Content-Security-Policy": f"{policy}; connect-src 'self'; base-uri 'none'; form-action 'none'"}
            return Response(page.encode("utf-8", "replace"), "text/html; charset=utf-8", headers=headers)
        if path == "/version":
            return Response(run.version().encode())
        content = run.sound(path)
        return None if content is None else Response(content, FLAC)

    return Site(get)
