"""`datasets`: manifests of text or speech, each in one language."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qrecipe.recipe.model import Positive, Settings

HUB_ID = r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"
SHARDS = ("parquet", "tar")
"""Formats of which a folder of files is one dataset."""


class Filter(Settings):
    """Limits of recordings that are used. `qrecipe prepare` shows what each would drop; default: nothing is dropped."""

    max_cer: Positive | None = None
    """Character error rate of the recogniser of `evaluators.asr` on the recording, 0.5 for example; default: nobody listens. It finds texts that belong to another recording, and takes a while."""
    min_snr: Positive | None = None
    """dB between loud and quiet parts, 20 for example; default: any. Noise is learned as part of a voice."""
    min_bandwidth: Positive | None = None
    """Hz up to which there is sound, 5500 for example; default: any. It finds telephone speech in a wide file."""
    max_silence: Positive | None = None
    """Seconds of the longest silence inside the speech, 1.5 for example; default: any. Long pauses are learned as pauses."""


class _Dataset(Settings):
    language: Annotated[str, Field(min_length=1)]
    """A key of `languages`, or a language that the base knows. Every row stands under this language's prefix."""
    path: Annotated[str, Field(min_length=1)]
    """The manifest, relative to the file that states it; in the recipe's repository, unless `--allow` names another folder. JSON lines, CSV, TSV, Parquet, a tar of WebDataset, or a folder of Parquet files or tars."""
    format: Literal["jsonl", "csv", "parquet", "tar"] | None = None
    """How the file is read; default: as its name ends. `csv` is any table of text: its separator, quotes and encoding are recognised."""
    columns: dict[Literal["audio", "text", "reference", "reference_text", "speaker", "language", "cut"], str] = {}
    """Which column holds what, where names differ: `{audio: path, text: sentence}`. Default: known names of other tools are recognised, and what is not needed is ignored."""
    source: Annotated[str, Field(pattern=HUB_ID)] | None = None
    """Hub id of the dataset that it comes from, such as `mozilla-foundation/common_voice_17_0`; default: none is stated. Goes onto the model card of whatever learned from it; nothing is downloaded."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """Effect of a row that cannot be used: `stop` before anything trains, since a fault in one row is often one in many, or `skip` it and count it."""


class TextDataset(_Dataset):
    """Sentences: rows of `{"text"}`."""

    kind: Literal["text"]
    """Rows of `{"text"}`, a sentence or two each. In a language that the base knows they take the place of recordings, to replay and to judge: the untouched base speaks them."""


class SpeechDataset(_Dataset):
    """Recordings with their transcripts: rows of `{"audio", "text"}`."""

    kind: Literal["speech"]
    """Rows of `{"audio", "text"}` with optional `reference`, `reference_text` and `speaker`."""
    reference: str | None = None
    """A recording of the voice, for rows that name none; relative to the file that states it. Without one, another clip of the same speaker is used."""
    reference_text: str | None = None
    """Transcript of `reference`, word by word; default: not known, and then the voice is given by its x-vector alone. Needed for in-context prompts."""
    filter: Filter = Filter()
    """Recordings that are left out by how they sound."""
    max_seconds: Positive = 30.0
    """Seconds; a longer recording cannot be used. 30, because one row stays whole in memory and sentences are shorter; a longer file is nearly always several sentences."""


Dataset = Annotated[TextDataset | SpeechDataset, Field(discriminator="kind")]
