"""Manifests: which rows are read, and what is said of those that cannot be."""

from __future__ import annotations

import gzip
import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pytest

from qrecipe.hashes import FileHashes
from qrecipe.inputs.manifest import MAX_BAD_ROWS, Manifest, Table, read_manifest
from qrecipe.inputs.row_reader import MAX_LINE
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.plan import make_plan
from qrecipe.recipe import load
from tests.support import recipes, sources

TOKENIZER = TextTokenizer.of_folder(Path(str(resources.files("qrecipe.builtin") / "mini")))
GOOD = b'{"text": "Ada buku."}'


def read(folder: Path, kind: Literal["text", "speech"], *lines: bytes | dict[str, Any]) -> Manifest:
    path = folder / "m.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return read_manifest(path, kind, TOKENIZER, "data/m.jsonl")


def reasons(manifest: Manifest) -> list[tuple[str, str, str]]:
    """(place, code, message) of every problem."""
    return [(str(p.place), p.code, p.message) for p in manifest.problems]


def test_text_rows(tmp_path: Path) -> None:
    manifest = read(tmp_path, "text", GOOD, b"", b"  ", {"text": "  cafe\u0301 \n"}, b"")
    assert [(r.line, r.text) for r in manifest.rows] == [(1, "Ada buku."), (4, "caf\u00e9")]
    assert manifest.problems == []


def test_windows_line_ends(tmp_path: Path) -> None:
    assert [r.text for r in read(tmp_path, "text", GOOD + b"\r", GOOD + b"\r").rows] == ["Ada buku."] * 2


@pytest.mark.parametrize(
    ("line", "place", "code", "message"),
    [
        (b'{"text": "Ada"', "data/m.jsonl:2:15", "QR041", "not JSON: Expecting ',' delimiter"),
        (b"{'text': 'Ada'}", "data/m.jsonl:2:2", "QR041", "not JSON: Expecting property name enclosed in double quotes"),
        (b"Ada buku.", "data/m.jsonl:2:1", "QR041", "not JSON: Expecting value"),
        (b'{"text": "caf\xe9"}', "data/m.jsonl:2:1", "QR041", "not UTF-8 (byte 13 of the line)"),
        (b'["Ada buku."]', "data/m.jsonl:2:1", "QR041", "['Ada buku.'] is not of type 'object'"),
        (b"{}", "data/m.jsonl:2:1", "QR041", "missing `text`"),
        (b'{"text": 5}', "data/m.jsonl:2:1", "QR041", "text: 5 is not of type 'string'"),
        (b'{"text": null}', "data/m.jsonl:2:1", "QR041", "text: None is not of type 'string'"),
        (b'{"text": "   "}', "data/m.jsonl:2:1", "QR042", "the text is empty"),
        (b'{"text": "Ada <|im_start|> buku"}', "data/m.jsonl:2:1", "QR042", "the text holds the special token `<|im_start|>`"),
        (b'{"text": "Ada \\ud83d"}', "data/m.jsonl:2:1", "QR041", "an escape that is no character (NUL, or half of a surrogate pair)"),
        (b'{"text": "Ada \\u0000"}', "data/m.jsonl:2:1", "QR041", "an escape that is no character (NUL, or half of a surrogate pair)"),
        (b'{"text": "' + b"x" * MAX_LINE + b'"}', "data/m.jsonl:2:1", "QR041", "the line has more than 1,048,576 bytes"),
        (b"[" * 100_000, "data/m.jsonl:2:1", "QR041", "not JSON: "),
        (b'{"text": ' + b"9" * 10_000 + b"}", "data/m.jsonl:2:1", "QR041", "not JSON: "),
    ],
)
def test_broken_text_rows(tmp_path: Path, line: bytes, place: str, code: str, message: str) -> None:
    manifest = read(tmp_path, "text", GOOD, line, GOOD)
    ((found_place, found_code, found_message),) = reasons(manifest)
    assert (found_place, found_code) == (place, code)
    assert found_message.startswith(message)
    assert [r.line for r in manifest.rows] == [1, 3]


def test_a_text_that_is_too_long(tmp_path: Path) -> None:
    ((place, code, message),) = reasons(read(tmp_path, "text", {"text": "x" * 10_001}))
    assert (place, code) == ("data/m.jsonl:1:1", "QR041")
    assert message.startswith("text: 'xxx")
    assert len(message) < 200


def test_every_broken_row_is_named(tmp_path: Path) -> None:
    assert [p.place.line for p in read(tmp_path, "text", b"{}", GOOD, b"x", {"text": ""}).problems] == [1, 3, 4]


def test_speech_rows(tmp_path: Path) -> None:
    for name in ("a.ogg", "ref.ogg"):
        (tmp_path / name).write_bytes(b"")
    row = {
        "audio": "a.ogg",
        "text": " Ada ",
        "reference": "ref.ogg",
        "reference_text": " Ini\n",
        "speaker": "ana",
        "language": "ignored",
        "cut": True,
    }
    (found,) = read(tmp_path, "speech", row).rows
    assert (found.text, found.audio, found.reference) == ("Ada", tmp_path / "a.ogg", tmp_path / "ref.ogg")
    assert (found.reference_text, found.speaker, found.codes, found.cut) == ("Ini", "ana", None, True)


def test_stock_rows(tmp_path: Path) -> None:
    """Manifests of the stock fine-tuning script: `ref_audio`, and codes once they were prepared."""
    for name in ("a.wav", "ref.wav"):
        (tmp_path / name).write_bytes(b"")
    first, second = read(
        tmp_path,
        "speech",
        {"audio": "a.wav", "text": "Ada", "ref_audio": "ref.wav"},
        {"audio_codes": [[1, 2], [3, 2047]], "text": "Ada", "ref_audio": "ref.wav"},
    ).rows
    assert (first.reference, first.codes) == (tmp_path / "ref.wav", None)
    assert (second.audio, second.reference) == (None, tmp_path / "ref.wav")
    assert second.codes is not None
    assert (len(second.codes), second.codes.tolist()) == (2, [[1, 2], [3, 2047]])


def test_reference_goes_before_ref_audio(tmp_path: Path) -> None:
    for name in ("one.wav", "two.wav"):
        (tmp_path / name).write_bytes(b"")
    row = {"audio_codes": [[1]], "text": "Ada", "reference": "one.wav", "ref_audio": "two.wav"}
    assert read(tmp_path, "speech", row).rows[0].reference == tmp_path / "one.wav"


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        ({"text": "Ada"}, "QR041", "a speech row has `audio` or `audio_codes`"),
        ({"audio": "none.ogg", "text": "Ada"}, "QR043", "there is no file none.ogg"),
        ({"audio": "x" * 300, "text": "Ada"}, "QR043", "there is no file " + "x" * 300),
        ({"audio_codes": [[1]], "text": "Ada", "reference": "ref.ogg"}, "QR043", "there is no file ref.ogg"),
        ({"audio_codes": [[1]], "text": "Ada", "ref_audio": "/none/ref.ogg"}, "QR048", "/none/ref.ogg leads out of the manifest's folder"),
        (
            {"audio_codes": [[1]], "text": "Ada", "reference_text": "Ini <|im_end|>"},
            "QR042",
            "the reference's text holds the special token `<|im_end|>`",
        ),
        ({"audio_codes": [[1]], "text": "Ada", "reference_text": "  "}, "QR042", "the reference's text is empty"),
        ({"audio_codes": [[1, 2], [3]], "text": "Ada"}, "QR041", "`audio_codes` has frames of different widths"),
        ({"audio_codes": [[1, 2048]], "text": "Ada"}, "QR041", "audio_codes: "),
        ({"audio_codes": [], "text": "Ada"}, "QR041", "audio_codes: "),
        ({"audio_codes": [[1]]}, "QR041", "missing `text`"),
        ({"audio_codes": [[1]], "text": "Ada", "speker": "ana"}, "QR041", "unknown field `speker`"),
        ({"audio_codes": [[1]], "text": "Ada", "cut": "no"}, "QR041", "cut: 'no' is not of type 'boolean'"),
    ],
)
def test_broken_speech_rows(tmp_path: Path, row: dict[str, Any], code: str, message: str) -> None:
    manifest = read(tmp_path, "speech", {"audio_codes": [[1]], "text": "Ada"}, row)
    ((place, found_code, found_message),) = reasons(manifest)
    assert (place, found_code) == ("data/m.jsonl:2:1", code)
    assert found_message.startswith(message)
    assert [r.line for r in manifest.rows] == [1]


def test_all_that_is_wrong_with_a_row_is_said(tmp_path: Path) -> None:
    manifest = read(tmp_path, "speech", {"audio": "none.ogg", "text": " ", "reference": "ref.ogg"})
    assert [c for _, c, _ in reasons(manifest)] == ["QR042", "QR043", "QR043"]


def test_a_manifest_without_rows_and_one_that_is_not_there(tmp_path: Path) -> None:
    assert reasons(read(tmp_path, "text", b"", b"\n")) == [("data/m.jsonl", "QR041", "the manifest has no rows")]
    missing = read_manifest(tmp_path / "none.jsonl", "text", TOKENIZER, "none.jsonl")
    assert reasons(missing) == [("none.jsonl", "QR040", "cannot read the manifest: No such file or directory")]


def test_without_a_tokenizer_texts_are_cleaned_and_empty_ones_found(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(GOOD + b'\n{"text": " "}')
    manifest = read_manifest(path, "text", None, "m.jsonl")
    assert [r.text for r in manifest.rows] == ["Ada buku."]
    assert reasons(manifest) == [("m.jsonl:2:1", "QR042", "the text is empty")]


def test_two_recipes_read_one_manifest_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under one set of hashes, which is what one command has."""
    asked = []
    monkeypatch.setattr("qrecipe.plan.plan.read_manifest", lambda *a: asked.append(Path(a[0]).name) or read_manifest(*a))
    one, two = (load(recipes.write(tmp_path, recipes.recipe(name=name), f"{name}.yaml")) for name in ("one", "two"))
    hashes = FileHashes()
    first = make_plan(one, hashes).plan.datasets
    assert make_plan(two, hashes).plan.datasets == first
    assert sorted(asked) == ["dev.jsonl", "english.jsonl", "text.jsonl", "train.jsonl"]
    (tmp_path / "data" / "text.jsonl").write_text('{"text": "Ada buku lain."}\n')
    assert make_plan(two, hashes).plan.datasets["text"] != first["text"]
    assert asked[4:] == ["text.jsonl"]


def test_marks_of_byte_order_are_no_part_of_a_row(tmp_path: Path) -> None:
    bom = b"\xef\xbb\xbf"
    assert len(read(tmp_path, "text", bom + GOOD, GOOD, bom + GOOD).rows) == 3


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('{"text": "Ada buku."}\n'.encode("utf-16"), "UTF-16"),
        ('{"text": "Ada buku."}\n'.encode("utf-16-be"), "UTF-16"),
        (b"a|Ada buku.|ada buku\n" * 9, "columns between `|`"),
        (b"path\tsentence\na.wav\tAda\n", "columns between tabs"),
        (b"\xef\xbb\xbfaudio;text\r\na.wav;Ada\r\n", "columns between `;`"),
        (b'[\n {"text": "Ada"}\n]', "one JSON list"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "a recording"),
    ],
)
def test_another_kind_of_file_is_one_sentence(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_bytes(content)
    (problem,) = read_manifest(tmp_path / "m.jsonl", "speech", TOKENIZER).problems
    assert kind in problem.message
    assert ("`format: csv`" if "columns" in kind else "one JSON object a line") in (problem.help or "")


def test_columns_of_other_tools_are_read_and_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    rows = [{"audio_filepath": "a.wav", "sentence": f"Ada {i} buku.", "duration": 1.5, "id": i, "spk": 7} for i in range(1000)]
    manifest = read(tmp_path, "speech", *rows)
    assert (manifest.problems, len(manifest.rows), manifest.rows[3].speaker) == ([], 1000, "7")
    (note,) = manifest.notes
    assert (note.code, note.severity, str(note.place)) == ("QR087", "warning", "data/m.jsonl")
    assert note.message == (
        "`audio` is read from `audio_filepath`; `text` is read from `sentence`; `speaker` is read from `spk`; not needed: `duration`, `id`"
    )


def test_columns_that_a_dataset_states_are_read_and_not_said(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    path = tmp_path / "m.jsonl"
    path.write_text('{"path": "b.wav", "sound": "a.wav", "text": "no", "said": "Ada buku."}\n')
    manifest = read_manifest(path, "speech", TOKENIZER, table=Table(None, (("audio", "sound"), ("text", "said"))))
    assert [(r.audio, r.text) for r in manifest.rows] == [(tmp_path / "a.wav", "Ada buku.")]
    assert [n.message for n in manifest.notes] == ["not needed: `path`, `text`"]


def test_a_part_of_a_recording_is_not_read_as_the_whole(tmp_path: Path) -> None:
    row = {"audio_filepath": "a.wav", "text": "Ada", "offset": 3.5, "duration": 1.0}
    ((_, code, message),) = reasons(read(tmp_path, "speech", row, {**row, "offset": 0}))[:1]
    assert (code, message) == ("QR041", "the row is a part of a recording: `offset` is 3.5")


TABLES: dict[str, tuple[str, bytes, str | None]] = {
    "tsv": ("m.tsv", 'path\tsentence\r\na.wav\tAda "buku".\r\nb.wav\tAda meja.\r\n'.encode("utf-16"), None),
    "csv": ("m.csv", b'\xef\xbb\xbfaudio;text;note\na.wav;"Ada ""buku"".";x\nb.wav;Ada meja.;y\n', None),
    "excel": ("m.csv", b'\xef\xbb\xbfsep=;\r\naudio;text\r\na.wav;"Ada ""buku""."\r\nb.wav;Ada meja.\r\n', None),
    "excel, tabs": ("m.csv", 'sep=\t\naudio\ttext\na.wav\tAda "buku".\nb.wav\tAda meja.\n'.encode("utf-16"), None),
    "stated": ("m.data", b'audio,text\na.wav,"Ada ""buku""."\nb.wav,Ada meja.\n', "csv"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_read_where_it_is(kind: str, tmp_path: Path) -> None:
    name, content, format_ = TABLES[kind]
    for audio in ("a.wav", "b.wav"):
        (tmp_path / audio).write_bytes(b"")
    (tmp_path / name).write_bytes(content)
    manifest = read_manifest(tmp_path / name, "speech", TOKENIZER, table=Table(format_))  # type: ignore[arg-type]  # of the table above
    assert manifest.problems == []
    first = 3 if kind.startswith("excel") else 2
    assert [(r.line, r.text, r.audio) for r in manifest.rows] == [
        (first, 'Ada "buku".', tmp_path / "a.wav"),
        (first + 1, "Ada meja.", tmp_path / "b.wav"),
    ]


NAMELESS = {
    "metadata.csv": ("ms_1|Ada buku.|ada buku.\nms_2|Ada meja.|ada meja.\n", "text"),
    "labels.txt": ("0.0\t3.5\tAda buku.\n4.0\t7.5\tAda meja.\n", "text"),
    "sentences.tsv": ("id\tsentence\n1\tAda buku.\n2\tAda meja.\n", "audio"),
}


@pytest.mark.parametrize("name", NAMELESS)
def test_a_table_without_the_columns_of_a_row_is_one_mistake(name: str, tmp_path: Path) -> None:
    """Not one a row: nobody reads thirty times that there is no text."""
    content, lacking = NAMELESS[name]
    (tmp_path / name).write_text(content * 20)
    (problem,) = read_manifest(tmp_path / name, "speech", TOKENIZER).problems
    assert f"no column of the table is known as `{lacking}`" in problem.message
    assert "one JSON object a line" in (problem.help or "")


def test_a_packed_manifest_is_known_by_what_it_holds(tmp_path: Path) -> None:
    """Not by its packed bytes, which hold any separator: that of one was taken for a table at one second and not at the next."""
    for separator in b"\t|;,":
        content = gzip.compress(b'{"text": "Ada buku."}\n', mtime=separator)
        (tmp_path / "m.jsonl.gz").write_bytes(content)
        assert len(read_manifest(tmp_path / "m.jsonl.gz", "text", TOKENIZER).rows) == 1


@pytest.mark.parametrize("name", ["m.jsonl.gz", "m.csv.gz"])
def test_half_of_a_packed_manifest_is_no_end_of_input(name: str, tmp_path: Path) -> None:
    """Read to the end or refused: rows before the break would pass for all of them."""
    rows = "".join(json.dumps({"audio": f"{i}.wav", "text": f"Ada {i * i} buku."}) + "\n" for i in range(3000))
    content = gzip.compress(rows.encode() if "jsonl" in name else ("audio,text\n" + "a.wav,Ada buku.\n" * 3000).encode())
    for broken in (content[: len(content) // 2], content[:100] + b"\xff" * 20 + content[120:]):
        (tmp_path / name).write_bytes(broken)
        manifest = read_manifest(tmp_path / name, "speech", TOKENIZER)
        (problem,) = manifest.problems
        assert (problem.code, list(manifest.rows)) == ("QR040", [])
        assert "breaks off or is damaged" in problem.message


@pytest.mark.slow
def test_shards_are_read_where_they_are_and_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tars and Parquet hold recordings: a recipe reads them, and their content is what counts."""
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))
    texts = []
    for format_, make in (("tar", sources.webdataset), ("parquet", sources.parquet)):
        folder = make(tmp_path / format_)
        folder = folder / "data" if format_ == "parquet" else folder
        manifest = read_manifest(folder, "speech", TOKENIZER, "shards", table=Table(format_))
        assert manifest.problems == []
        assert {str(p) for p in (tmp_path / "cache" / "unpacked").iterdir()} >= {str(r.audio.parent) for r in manifest.rows if r.audio}
        assert all(r.audio is not None and r.audio.stat().st_size > 1000 for r in manifest.rows)
        monkeypatch.setattr("qrecipe.inputs.unpacked._unpack", None)
        assert list(read_manifest(folder, "speech", TOKENIZER, "shards", table=Table(format_)).rows) == list(manifest.rows)
        monkeypatch.undo()
        monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))
        texts.append(sorted(r.text for r in manifest.rows))
    assert texts == [sorted(sources.TEXTS)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("many", [10, 1000, 1001, 3000])
def test_how_many_recordings_are_missing_changes_no_verdict(many: int, tmp_path: Path) -> None:
    manifest = read(tmp_path, "speech", *({"audio": f"none{i}.wav", "text": "Ada buku."} for i in range(many)))
    assert (manifest.missing, manifest.bad_rows) == (many, many)
    assert manifest.problems.errors == []


def test_missing_recordings_count_behind_any_number_of_other_mistakes(tmp_path: Path) -> None:
    """A plan sums them up, and none of them is among the problems that are kept."""
    wrong = [{"audio": "a.wav", "text": i} for i in range(MAX_BAD_ROWS)]
    manifest = read(tmp_path, "speech", *wrong, *({"audio": f"none{i}.wav", "text": "Ada."} for i in range(5)))
    assert manifest.missing == 5
    assert manifest.problems.warnings == []
    assert all(p.severity == "error" for p in manifest.summed())
