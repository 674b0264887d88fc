"""Hugging Face `datasets`: a folder that `save_to_disk` wrote, or a hub id whose rows are streamed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qrecipe.errors import DataError, Place, Problem
from qrecipe.inputs.sources.source import Options, Recordings, Source
from qrecipe.inputs.sources.tables import from_records
from qrecipe.inputs.tables import Record, need, numbered

HUB_ID = re.compile(r"(?:hf:)?(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?")
"""`OWNER/NAME`, with `:CONFIG` and `@REVISION`."""


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def saved(folder: Path, options: Options) -> Source:
    """The Arrow files of a saved dataset, of all its splits."""
    files = sorted(folder.rglob("*.arrow"))
    if not files:
        raise DataError(Problem("QR040", "the saved dataset has no .arrow files", Place(str(folder))))
    rows = itertools.chain.from_iterable(_arrow(f, str(f.relative_to(folder))) for f in files)
    what = f"a saved Hugging Face dataset, {len(files)} Arrow files"
    return from_records(rows, Recordings(folder), options, what, "huggingface", Place(str(folder)))


def _arrow(path: Path, shown: str) -> Iterator[Record | Problem]:
    ipc = need("pyarrow.ipc", "import", "Arrow")
    with open(path, "rb") as f:
        yield from numbered(itertools.chain.from_iterable(batch.to_pylist() for batch in ipc.open_stream(f)), shown)


def hub(identifier: str, options: Options) -> Source:
    """A dataset of the hub, every split, streamed: nothing is downloaded twice, and nothing stays but the clips.

    Raises `DataError` for what the hub does not have or what needs another argument.
    """
    match = HUB_ID.fullmatch(identifier)
    assert match is not None, "recognised by it"
    datasets = need("datasets", "import", f"the hub's {match['name']}")
    place = Place(identifier)
    about: dict[str, Any] = {"revision": match["revision"]}
    try:
        splits = datasets.get_dataset_split_names(match["name"], match["config"], **about)
        streams = {s: datasets.load_dataset(match["name"], match["config"], split=s, streaming=True, **about) for s in splits}
    except Exception as e:  # the library raises classes of several packages
        help_ = "an id is OWNER/NAME, with :CONFIG and @REVISION where they are needed"
        raise DataError(Problem("QR040", f"the hub gives no dataset: {str(e).strip().splitlines()[0]}", place, help_)) from None
    rows = itertools.chain.from_iterable(_stream(split, stream, datasets) for split, stream in streams.items())
    what = f"{match['name']} of the Hugging Face hub, splits {', '.join(splits)}"
    source = from_records(rows, Recordings(Path()), options, what, "huggingface", place)
    source.facts = {"hub id": match["name"], "revision": match["revision"] or "the newest on the day of the import"}
    return source


def _stream(split: str, stream: Any, datasets: Any) -> Iterator[Record | Problem]:
    """Rows of a split; recordings stay as they were uploaded."""
    for column, feature in (stream.features or {}).items():
        if isinstance(feature, datasets.Audio):
            stream = stream.cast_column(column, datasets.Audio(decode=False))
    return numbered(stream, split)
