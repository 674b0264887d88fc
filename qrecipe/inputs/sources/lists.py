"""Lists of texts that are no tables: each line has the name of a recording and its text, as LibriSpeech, festival, Asterisk, CMU Sphinx
and indexes in XML have them."""

from __future__ import annotations

import html
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from qrecipe.errors import Place, Problem
from qrecipe.inputs.sources.folders import read_text
from qrecipe.inputs.sources.source import Options, Recordings, Source, SourceRow, relative, sounds_below

ENDINGS = (".txt", ".data", ".text", ".trans", "transcription", ".prompts", ".xml")
LINE = re.compile(r"""(?P<open>\(\s*)?(?P<name>[^\s:"]+)\s*(?::\s|\s|$)\s*(?P<text>.*)""")
SPHINX = re.compile(r"(?P<text>.*\S)\s*\((?P<name>[^\s()]+)\)")
"""The name behind the text. `<s>`, `</s>` and `<sil>` are marks of the recogniser's."""
ELEMENT = re.compile(r"""<\w+\s+(?:name|text|label)="(?P<text>[^"]+)"\s+(?:file|src|audio)="(?P<name>[^"]+)"\s*/?>""")
FORMS = (LINE, SPHINX, ELEMENT)
COMMENTS = (";", "#")
TRIED = 20
"""Files that are opened to find a list, and lines that show that one is a list."""


def lists_of(path: Path) -> list[Path]:
    """The lists of a folder, or the file itself if it is one; empty where there is none."""
    if path.is_file():
        return [path] if _form_of(path, Recordings(root_of(path))) else []
    sounds, files = {str(s.with_suffix("")) for s in sounds_below(path)}, []
    for parent, folders, names in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        texts = (Path(parent) / n for n in sorted(names) if n.lower().endswith(ENDINGS) and not n.startswith("."))
        files += [f for f in texts if str(f.with_suffix("")) not in sounds]  # else it is the text of one recording
    recordings = Recordings(path)
    if not any(_form_of(f, recordings) for f in files[:TRIED]):
        return []
    return [f for f in files if _form_of(f, recordings)]


def root_of(file: Path) -> Path:
    """The folder that holds a list's recordings: its own, or the one above where festival keeps lists in `etc`."""
    return file.parent if next(sounds_below(file.parent), None) is not None else file.parent.parent


def read(files: list[Path], root: Path, options: Options) -> Source:
    """Recordings and texts of lists; folders below are speakers, where every recording is in one."""
    parents = {p.parent for p in sounds_below(root)}
    by_folder = len(parents) > 1 and root not in parents

    def rows() -> Iterator[SourceRow | Problem]:
        anywhere = Recordings(root)
        for file in files:
            beside, form = Recordings(file.parent), _form_of(file, anywhere)
            assert form is not None, "a list"
            for number, name, text in _lines(file, form):
                audio = beside.find(name) or anywhere.find(name)
                speaker = audio.relative_to(root).parts[0] if by_folder and audio is not None else None
                yield SourceRow(Place(relative(file, root), number, 1), text, audio, name, speaker)

    what = (
        f"{relative(files[0], root)}{f' and {len(files) - 1} more' if len(files) > 1 else ''}: a recording's name and its text in each line"
    )
    return Source("list", what + (", the folders are speakers" if by_folder else ""), rows())


def _form_of(file: Path, recordings: Recordings) -> re.Pattern[str] | None:
    """The form of a list's lines; None for a file in which few lines name a recording."""
    beside = Recordings(file.parent)
    for form in FORMS:
        first = list(itertools.islice(_lines(file, form), TRIED))
        known = sum(beside.find(name) is not None or recordings.find(name) is not None for _, name, text in first if text)
        if known > 0 and 2 * known >= len(first):
            return form
    return None


def _lines(file: Path, form: re.Pattern[str]) -> Iterator[tuple[int, str, str]]:
    """(Line, name, text) of every line of a form that is no comment."""
    for number, line in enumerate((read_text(file) or "").splitlines(), start=1):
        line = line.strip()
        match = form.fullmatch(line)
        if match is None or line.startswith(COMMENTS):
            continue
        name, text = match["name"], match["text"]
        if form is LINE:
            text = _unquoted(text.removesuffix(")").strip() if match["open"] else text.strip())
        elif form is SPHINX:
            text = " ".join(word for word in text.split() if word not in ("<s>", "</s>", "<sil>"))
        else:
            name, text = html.unescape(name), html.unescape(text)
        yield number, name, text


def _unquoted(text: str) -> str:
    """A text without quotation marks around all of it, `\\"` inside them taken back."""
    whole = len(text) > 1 and text[0] == text[-1] == '"' and not re.search(r'(?<!\\)"', text[1:-1])
    return text[1:-1].replace('\\"', '"').strip() if whole else text
