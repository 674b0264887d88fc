"""Sources that are tables: LJSpeech, CSV and TSV, Common Voice, NeMo, Hugging Face folders and Parquet, WebDataset."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qrecipe.errors import DataError, Place, Problem
from qrecipe.inputs.columns import Columns, recognise
from qrecipe.inputs.sources.source import Options, Recordings, Source, SourceRow, relative
from qrecipe.inputs.tables import Embedded, Format, Record, dialect_of, records

PEEK = 8
"""Records by whose columns a table is known."""
PEEK_LABELS = 200
"""Records by which a column of speakers is told from one of texts, where nothing names them."""


def utterances(rows: Iterable[Record | Problem], columns: Columns, recordings: Recordings) -> Iterator[SourceRow | Problem]:
    """Records as utterances."""
    for row in rows:
        yield row if isinstance(row, Problem) else utterance(row, columns, recordings)


def utterance(row: Record, columns: Columns, recordings: Recordings) -> SourceRow | Problem:
    """A record as an utterance, or why it is none."""
    values = {here: row.values.get(there) for here, there in columns.names.items()}
    audio, text = values.get("audio"), values.get("text")
    if not isinstance(text, str):
        return Problem("QR042", "the row has no text", row.place)
    decision = row.values.get("decision", "accept")
    if decision != "accept":
        why = "dropped in the review" if decision == "drop" else "not decided in the review"
        return Problem("QR042", why, row.place)
    name = audio.name if isinstance(audio, Embedded) else str(audio or "")
    start, end = _number(values.get("start")), _number(values.get("end"))
    length = _number(values.get("duration"))
    if start is not None and end is None and length is not None:
        end = start + length
    return SourceRow(
        row.place,
        text,
        audio if isinstance(audio, Embedded) else recordings.find(name),
        name,
        _text(values.get("speaker")),
        _text(values.get("language")),
        start if end is not None else None,
        end if start is not None else None,
        None if "decision" in row.values else _number(row.values.get("confidence")),
    )


def _number(value: Any) -> float | None:
    try:
        return float(value) if value not in (None, "") and not isinstance(value, bool) else None
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


def table(path: Path, format: Format, options: Options, name: str, key: str) -> Source:
    """A table with named columns. Raises `DataError` if a recording or a text is in none of them."""
    return tables([path], path.parent, format, options, name, key)


def tables(paths: list[Path], folder: Path, format: Format, options: Options, name: str, key: str) -> Source:
    """Tables of the same columns, one after the other."""
    rows = itertools.chain.from_iterable(records(p, format, relative(p, folder)) for p in paths)
    dialect = f", {dialect_of(paths[0])}" if format == "csv" else ""
    return from_records(rows, Recordings(folder), options, name + dialect, key, Place(relative(paths[0], folder)))


def from_records(rows: Iterator[Record | Problem], recordings: Recordings, options: Options, what: str, key: str, place: Place) -> Source:
    """Records whose columns are recognised by the first ones. Raises `DataError` if a recording or a text is in none of them."""
    first = list(itertools.islice(rows, PEEK))
    names = list(dict.fromkeys(c for r in first if isinstance(r, Record) for c in r.values))
    if not names:
        raise DataError([r for r in first if isinstance(r, Problem)][:3] or Problem("QR041", "there are no rows", place))
    columns = recognise(names, options.columns)
    _require(columns, names, options, place)
    mapping = ", ".join(f"{here} from `{there}`" for here, there in columns.names.items() if here in ("audio", "text", "speaker"))
    return Source(key, f"{what}: {mapping}", utterances(itertools.chain(first, rows), columns, recordings), columns.ignored)


def _require(columns: Columns, names: list[str], options: Options, place: Place) -> None:
    """Raises `DataError` for a stated column that does not exist, or where nothing says which column holds what."""
    listed = ", ".join(f"`{n}`" for n in names[:20])
    unknown = [there for there in options.columns.values() if there not in names]
    if unknown:
        raise DataError(Problem("QR041", f"no column is called `{unknown[0]}`", place, f"columns: {listed}"))
    if columns.missing:
        wanted = " and ".join(columns.missing)
        example = ",".join(f"{k}={names[min(i, len(names) - 1)]}" for i, k in enumerate(columns.missing))
        message = f"which column holds {wanted} is not known; there are {listed}"
        raise DataError(Problem("QR041", message, place, f"say it: `--columns {example}`"))


def unnamed(path: Path, options: Options) -> Source:
    """A table without a header, such as LJSpeech's `ID|text|text spelled out` or a file list: the recording first, its text last.

    A column of labels, each of them on many rows, is no text: the first such column says who speaks.
    """
    folder = path.parent
    rows = records(path, "csv", path.name, header=False)
    first = list(itertools.islice(rows, PEEK_LABELS))
    speaker, texts = _roles([list(r.values.values()) for r in first if isinstance(r, Record)])

    def read() -> Iterator[SourceRow | Problem]:
        recordings = Recordings(folder)
        for row in itertools.chain(first, rows):
            if isinstance(row, Problem):
                yield row
                continue
            cells = dict(enumerate(row.values.values()))
            text = next((c for c in (cells.get(i) for i in reversed(texts)) if c), "")
            yield SourceRow(row.place, text, recordings.find(cells[0]), cells[0], _text(cells.get(speaker)))

    column = "" if speaker < 0 else f", the speaker in column {speaker + 1}"
    return Source("ljspeech", f"{path.name} without a header, as LJSpeech has it: a recording and its text in each line{column}", read())


def _roles(rows: list[list[Any]]) -> tuple[int, list[int]]:
    """(column of speakers or -1, columns of texts) of a table without a header."""
    columns = range(1, max(map(len, rows), default=0))
    labels = [i for i in columns if _are_labels([str(row[i]).strip() for row in rows if i < len(row) and row[i]])]
    if len(labels) == len(columns):
        return -1, list(columns)
    return labels[0] if labels else -1, [i for i in columns if i not in labels]


def _are_labels(cells: list[str]) -> bool:
    """Whether cells are single words, each of which stands on two rows at least in the mean."""
    return bool(cells) and not any(" " in c for c in cells) and 2 * len(set(cells)) <= len(cells)


def common_voice(folder: Path, options: Options) -> Source:
    """`validated.tsv`, else the other tables of a release, beside `clips/`."""
    names = ["validated.tsv"] if (folder / "validated.tsv").is_file() else ["train.tsv", "dev.tsv", "test.tsv"]
    paths = [folder / n for n in names if (folder / n).is_file()]
    name = f"Common Voice: {', '.join(p.name for p in paths)} beside clips/"
    return tables(paths, folder, "csv", options, name, "common_voice")
