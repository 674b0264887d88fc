"""Prepared rows: their references, what is wrong with them, and what happens then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrecipe.data.audio import encoded, read
from qrecipe.data.codes import Encoder
from qrecipe.data.prepare import Requirements, prepare
from qrecipe.data.speech import SpeechData, distinct
from qrecipe.errors import DataError
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.manifest import read_manifest
from qrecipe.model.load import LoadedBase
from qrecipe.recipe.dataset import SpeechDataset
from tests.support import audio, recipes, ties

Prepare = Callable[..., SpeechData]


@pytest.fixture
def prepared(opened: LoadedBase, mini: LocalBase, tmp_path: Path, cache: Path) -> Prepare:
    """Writes rows as a manifest and prepares them; `settings` are the dataset's."""

    def make(
        rows: list[dict[str, Any]],
        *,
        streaming_only: bool = False,
        need_reference: bool = True,
        in_context: bool = True,
        **settings: Any,
    ) -> SpeechData:
        path = recipes.write_rows(tmp_path / "m.jsonl", rows)
        dataset = SpeechDataset.model_validate({"kind": "speech", "language": "english", "path": "m.jsonl", **settings})
        return prepare(
            "speech",
            dataset,
            read_manifest(path, "speech", opened.tokenizer, "m.jsonl"),
            Encoder(opened, mini, FileHashes(), cache),
            Requirements(tmp_path / dataset.reference if dataset.reference else None, streaming_only, need_reference, in_context),
        )

    return make


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., str]:
    def make(name: str, seed: int = 0, seconds: float = 0.8) -> str:
        return audio.write(tmp_path / name, audio.speech(seed, seconds)).name

    return make


def row(clip: Callable[..., str], i: int, **more: Any) -> dict[str, Any]:
    return {"audio": clip(f"{i}.wav", i), "text": f"Saya suka nasi {'abcdef'[i]}.", **more}


def test_the_row_s_own_reference_comes_first(prepared: Prepare, clip: Any, tmp_path: Path) -> None:
    rows = [row(clip, 0, reference=clip("own.wav", 9), reference_text="Hai semua."), row(clip, 1, ref_audio="own.wav"), row(clip, 2)]
    data = prepared(rows, reference=clip("shared.wav", 8), reference_text="Apa khabar?")
    assert [(r.reference, r.reference_text) for r in data.rows] == [
        (tmp_path / "own.wav", "Hai semua."),
        (tmp_path / "own.wav", None),
        (tmp_path / "shared.wav", "Apa khabar?"),
    ]
    assert data.x_vectors.keys() == {tmp_path / "own.wav", tmp_path / "shared.wav"}
    assert data.reference_codes.keys() == data.x_vectors.keys()


def test_else_another_clip_of_the_same_speaker(prepared: Prepare, clip: Any, tmp_path: Path) -> None:
    """With its transcript, so that the prompt can be in-context; never the clip itself."""
    rows = [row(clip, i, speaker=s) for i, s in enumerate("abab")]
    data = prepared(rows)
    assert [r.reference.name for r in data.rows if r.reference] == ["2.wav", "3.wav", "0.wav", "1.wav"]
    assert [r.reference_text for r in data.rows] == [data.rows[j].text for j in (2, 3, 0, 1)]
    assert all(r.reference != r.audio for r in data.rows)


def test_references_are_encoded_only_for_in_context_prompts(prepared: Prepare, clip: Any) -> None:
    rows = [row(clip, i) for i in range(2)]
    assert len(prepared(rows).reference_codes) == 2
    data = prepared(rows, in_context=False)
    assert (len(data.reference_codes), len(data.x_vectors)) == (0, 2)
    assert all(r.reference_text for r in data.rows)


def test_the_dataset_s_reference_is_no_reference_for_itself(prepared: Prepare, clip: Any) -> None:
    data = prepared([row(clip, i) for i in range(3)], reference="1.wav")
    assert [r.reference.name for r in data.rows if r.reference] == ["1.wav", "2.wav", "1.wav"]


def test_a_row_that_names_itself_is_given_another_voice_clip(prepared: Prepare, clip: Any) -> None:
    """As in manifests where one clip is everybody's `ref_audio`, its own included."""
    data = prepared([row(clip, i, ref_audio="0.wav") for i in range(3)])
    assert [r.reference.name for r in data.rows if r.reference] == ["1.wav", "0.wav", "0.wav"]


def test_a_speaker_with_one_clip_has_no_reference(prepared: Prepare, clip: Any, opened: LoadedBase) -> None:
    rows = [row(clip, 0, speaker="a"), row(clip, 1, speaker="a"), row(clip, 2, speaker="b")]
    with pytest.raises(DataError, match=r"m\.jsonl:3:1: no reference"):
        prepared(rows)
    data = prepared(rows, need_reference=False)
    assert data.rows[2].reference is None
    assert data.example(data.rows[2], None, "streaming", None, opened.tokenizer).x_vector is None


def test_codes_are_those_of_the_trimmed_recording(prepared: Prepare, opened: LoadedBase, tmp_path: Path) -> None:
    from qrecipe.data.audio import load

    for i in range(2):
        audio.write(tmp_path / f"{i}.wav", audio.speech(i, 0.8, pause=0.6))
    data = prepared([{"audio": f"{i}.wav", "text": "Saya suka nasi."} for i in range(2)])
    for r in data.rows:
        assert r.audio is not None
        clip = load(r.audio, 30.0)
        ties.assert_encoded(r.codes, opened.net.speech_tokenizer, clip.samples)
        assert r.seconds - r.trimmed == pytest.approx(len(clip.samples) / 24_000)
    assert data.seconds == pytest.approx(sum(r.seconds - r.trimmed for r in data.rows))


def test_ready_codes_are_used_as_they_are(prepared: Prepare, clip: Any) -> None:
    """Stock fine-tuning manifests hold `audio_codes` and `ref_audio`."""
    codes = [[(7 * k + g) % 512 for g in range(8)] for k in range(12)]
    data = prepared([{"audio_codes": codes, "text": "Saya suka nasi.", "ref_audio": clip("ref.wav", 4), "language": "Auto"}])
    assert data.rows[0].codes.tolist() == codes
    assert data.rows[0].seconds == pytest.approx(12 * 0.08)


@pytest.mark.parametrize(
    ("codes", "why"),
    [
        ([[1] * 16] * 9, "16 codebooks, the base has 8"),
        ([[1] * 7 + [512]] * 9, "code 512"),
        ([[1] * 8, [1] * 7], "different widths"),
        ([[1] * 7 + [2048]], "2048"),
        ([], "audio_codes"),
    ],
)
def test_ready_codes_must_fit_the_base(codes: list[list[int]], why: str, prepared: Prepare, clip: Any) -> None:
    with pytest.raises(DataError, match=why):
        prepared([{"audio_codes": codes, "text": "Saya suka.", "reference": clip("ref.wav")}])


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"audio": "missing.wav", "text": "Saya suka nasi."}, "QR043", "no file missing.wav"),
    ({"audio": "0.wav", "text": "  "}, "QR042", "empty"),
    ({"audio": "0.wav", "text": "Saya <|im_start|> suka."}, "QR042", "special token"),
    ({"audio": "silent.wav", "text": "Saya suka nasi."}, "QR043", "silent"),
    ({"audio": "text.wav", "text": "Saya suka nasi."}, "QR043", "cannot be read as audio"),
    ({"audio": "0.wav", "text": "Saya suka nasi. " * 9}, "QR044", "far too long"),
    ({"audio": "long.wav", "text": "Saya."}, "QR043", "at most 4 s"),
    ({"audio": "0.wav"}, "QR041", "text"),
    ({"audio": "0.wav", "text": "Saya suka.", "speeker": "x"}, "QR041", "speeker"),
    ({"audio": "0.wav", "text": "Saya suka nasi.", "reference": "text.wav"}, "QR043", "the reference text.wav"),
]


@pytest.fixture
def bad_files(tmp_path: Path) -> None:
    audio.write(tmp_path / "silent.wav", 0 * audio.speech(0))
    audio.write(tmp_path / "long.wav", audio.speech(0, 5.0))
    (tmp_path / "text.wav").write_text("not a recording")


@pytest.mark.usefixtures("bad_files")
def test_all_bad_rows_are_named_at_once(prepared: Prepare, clip: Any) -> None:
    """Each with the manifest, its line, a code and what is wrong."""
    with pytest.raises(DataError) as caught:
        prepared([row(clip, 0), *(bad for bad, _, _ in BAD), row(clip, 1)], max_seconds=4.0)
    found = {p.place.line: p for p in caught.value.problems}
    assert sorted(found) == list(range(2, len(BAD) + 2))
    for line, (_, code, why) in enumerate(BAD, start=2):
        assert (found[line].place.file, found[line].code) == ("m.jsonl", code), found[line]
        assert why in found[line].message


@pytest.mark.usefixtures("bad_files")
def test_or_they_are_skipped_and_counted(prepared: Prepare, clip: Any) -> None:
    rows = [row(clip, 0), *(bad for bad, _, _ in BAD), row(clip, 1)]
    data = prepared(rows, max_seconds=4.0, on_bad_row="skip")
    assert [r.line for r in data.rows] == [1, len(rows)]
    assert len(data.skipped) == len(BAD)


@pytest.mark.usefixtures("bad_files")
def test_nothing_but_bad_rows_stops_even_when_skipping(prepared: Prepare, clip: Any) -> None:
    clip("0.wav")
    with pytest.raises(DataError, match="silent"):
        prepared([{"audio": "silent.wav", "text": "Saya suka."}], on_bad_row="skip")


def test_text_that_outruns_streaming(prepared: Prepare, clip: Any) -> None:
    """Streaming feeds one token a frame: 12.5 a second. Some scripts need more."""
    text = "ณ ที่นี้มีปลาไหม"
    rows = [{"audio": clip("0.wav", 0, 0.8), "text": text}, row(clip, 1), row(clip, 2)]
    with pytest.raises(DataError) as caught:
        prepared(rows, streaming_only=True)
    problem = caught.value.problems[0]
    assert (problem.code, problem.place.line) == ("QR044", 1)
    assert "text tokens and 10 frames" in problem.message
    assert problem.help is not None
    assert "non_streaming" in problem.help
    assert len(prepared(rows).rows) == 3


CONTAINERS = {"copy.wav": ("WAV", "PCM_16"), "copy.flac": ("FLAC", "PCM_16"), "copy.ogg": ("OGG", "VORBIS")}


def copy_of(folder: Path, clip: str, name: str) -> str:
    """A clip's samples in another file."""
    container, subtype = CONTAINERS[name]
    (folder / name).write_bytes(encoded(read(folder / clip), 24_000, format=container, subtype=subtype))
    return name


@pytest.mark.parametrize("where", ["row", "dataset"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_a_copy_of_the_clip_is_no_reference_for_itself(name: str, where: str, prepared: Prepare, clip: Any, tmp_path: Path) -> None:
    rows = [row(clip, 0), row(clip, 1)]
    reference = copy_of(tmp_path, "0.wav", name)
    if where == "row":
        data = prepared([{**rows[0], "reference": reference}, {**rows[1], "reference": reference}])
    else:
        data = prepared(rows, reference=reference)
    assert [r.reference for r in data.rows] == [tmp_path / "1.wav", tmp_path / reference]


def test_another_clip_that_is_a_copy_gives_no_voice(prepared: Prepare, clip: Any, tmp_path: Path) -> None:
    first = row(clip, 0)
    data = prepared([first, {**first, "audio": copy_of(tmp_path, "0.wav", "copy.flac")}, row(clip, 2)])
    assert [r.reference for r in data.rows] == [tmp_path / "2.wav", tmp_path / "2.wav", tmp_path / "0.wav"]


def test_ready_codes_know_their_own_recording(prepared: Prepare, clip: Any, opened: LoadedBase, tmp_path: Path) -> None:
    """As the stock script makes them: of the whole file."""
    codes = opened.encode([read(tmp_path / clip("0.wav", 0))])[0].tolist()
    coded = {"audio_codes": codes, "text": "Saya suka nasi a.", "ref_audio": "0.wav"}
    data = prepared([coded, row(clip, 1), row(clip, 2)])
    assert data.rows[0].reference == tmp_path / "1.wav"


UNFIT: dict[str, tuple[Any, str | None, str, str]] = {
    "silent": (lambda: np.zeros(72_000, np.float32), None, "QR043", "silent"),
    "a tenth of a second": (lambda: audio.speech(9, 0.1), None, "QR043", "0.10 s of speech; at least 0.3 s are needed"),
    "a minute": (lambda: np.tile(audio.speech(9, 5.0), 13), None, "QR043", "65.0 s long; at most 30 s of a reference are used"),
    "cut off at the loudest": (lambda: np.clip(4 * audio.speech(9, 2.0), -0.8, 0.8), None, "QR043", "clipped"),
    "a text that is too long": (lambda: audio.speech(9, 2.0), "Kucing itu tidur di bawah bangku. " * 5, "QR044", "far too long"),
    "a text that is too short": (lambda: audio.speech(9, 8.0), "Ya.", "QR044", "far too short"),
}


@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
@pytest.mark.parametrize("where", ["row", "dataset"])
@pytest.mark.parametrize("what", UNFIT)
def test_a_reference_is_refused_for_what_a_row_is(
    what: str, where: str, on_bad_row: str, prepared: Prepare, clip: Any, tmp_path: Path
) -> None:
    samples, text, code, why = UNFIT[what]
    voice: dict[str, Any] = {"reference": audio.write(tmp_path / "ref.wav", samples()).name}
    voice |= {"reference_text": text} if text else {}
    rows = [row(clip, 0), row(clip, 1), row(clip, 2)]
    own = voice if where == "dataset" else {}
    if where == "row":
        rows[1] |= voice
    if on_bad_row == "skip" and where == "row":
        data = prepared(rows, on_bad_row="skip")
        (problem,) = data.skipped
        assert [r.line for r in data.rows] == [1, 3]
    else:
        with pytest.raises(DataError) as e:
            prepared(rows, on_bad_row=on_bad_row, **own)
        (problem,) = e.value.problems
    assert problem.code == code
    assert problem.message.startswith("the reference ref.wav: ")
    assert why in problem.message


def test_a_row_that_says_the_same_again_is_judged_once(prepared: Prepare, clip: Any, tmp_path: Path) -> None:
    first, second = row(clip, 0), row(clip, 1)
    copy = {"audio": copy_of(tmp_path, "0.wav", "copy.flac"), "text": first["text"].upper()}
    other_text = {**first, "text": "Ada buku lain."}
    data = prepared([first, second, first, copy, other_text, {**second, "audio": clip("9.wav", 9)}])
    assert [r.line for r in distinct(data).rows] == [1, 2, 5, 6]
