"""Recordings of every kind become 24 kHz mono, or a sentence that says why they cannot."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from qrecipe.data.audio import AudioProblem, load, rate_problem, read, read_original
from qrecipe.inputs.durations import by_header
from qrecipe.qwen3 import SAMPLE_RATE
from tests.support import audio

pytestmark = pytest.mark.filterwarnings("ignore:.*slated for removal:DeprecationWarning")
"""Modules that audioread imports, which librosa.load asks for."""


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0, level: float = 0.3) -> audio.Audio:
    time = np.arange(int(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def loudest(samples: audio.Audio) -> float:
    """Frequency of the strongest component, Hz at 24 kHz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * SAMPLE_RATE / len(samples))


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100, 48_000])
def test_every_rate_is_brought_to_24_khz(rate: int, tmp_path: Path) -> None:
    samples = read(audio.write(tmp_path / "a.wav", tone(rate), rate))
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(SAMPLE_RATE, abs=2)
    assert loudest(samples) == pytest.approx(440, abs=2)
    assert samples[SAMPLE_RATE // 4 : -SAMPLE_RATE // 4].std() == pytest.approx(0.3 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.wav", {"subtype": "PCM_16"}),
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("a.flac", {}),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {}),
    ],
)
def test_every_format_is_read(name: str, settings: dict[str, str], tmp_path: Path) -> None:
    samples = read(audio.write(tmp_path / name, tone(SAMPLE_RATE), SAMPLE_RATE, **settings))
    assert len(samples) == pytest.approx(SAMPLE_RATE, abs=2500)
    assert loudest(samples) == pytest.approx(440, abs=2)


def test_channels_are_averaged(tmp_path: Path) -> None:
    """As stock does; channels that cancel each other out are named."""
    left = audio.speech(1)
    stereo = audio.write(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], 1), subtype="FLOAT")
    assert np.allclose(read(stereo), left / 2, atol=1e-7)
    opposite = audio.write(tmp_path / "b.wav", np.stack([left, -left], 1), subtype="FLOAT")
    with pytest.raises(AudioProblem, match="channels cancel"):
        load(opposite, 30.0)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_a_reference_is_heard_as_stock_hears_it(rate: int, tmp_path: Path) -> None:
    """Untrimmed: librosa reads, averages and resamples, as in stock `create_voice_clone_prompt`."""
    import librosa

    samples = audio.speech(2, 0.7, rate, pause=0.3)
    path = audio.write(tmp_path / "a.wav", np.stack([samples, 0.3 * samples], 1), rate)
    heard, found = librosa.load(path, sr=None, mono=True)
    expected = librosa.resample(y=heard.astype(np.float32), orig_sr=int(found), target_sr=SAMPLE_RATE) if rate != SAMPLE_RATE else heard
    assert np.array_equal(read(path), expected)


def test_trimming_keeps_a_tenth_of_a_second_and_ends_on_a_whole_frame(tmp_path: Path) -> None:
    clip = load(audio.write(tmp_path / "a.wav", audio.speech(3, 1.0, pause=0.8)), 30.0)
    assert clip.seconds == pytest.approx(2.6, abs=0.01)
    assert len(clip.samples) / SAMPLE_RATE == pytest.approx(1.16, abs=0.09)
    assert clip.trimmed == pytest.approx(clip.seconds - len(clip.samples) / SAMPLE_RATE)
    assert np.abs(clip.samples[: int(0.08 * SAMPLE_RATE)]).max() < 0.005
    assert np.abs(clip.samples[-int(0.02 * SAMPLE_RATE) :]).max() < 0.005
    assert len(clip.samples) % 1920 == 0


def test_speech_up_to_the_edges_is_not_trimmed(tmp_path: Path) -> None:
    clip = load(audio.write(tmp_path / "a.wav", tone(SAMPLE_RATE)), 30.0)
    assert (clip.seconds, clip.trimmed) == (1.0, 0.0)


def broken(folder: Path, kind: str) -> Path:
    path = folder / "broken.wav"
    if kind == "silent":
        return audio.write(path, np.zeros(SAMPLE_RATE, dtype=np.float32))
    if kind == "clipped":
        return audio.write(path, np.clip(8 * tone(SAMPLE_RATE), -1, 1))
    if kind == "nan":
        samples = tone(SAMPLE_RATE)
        samples[100] = np.nan
        return audio.write(path, samples, subtype="FLOAT")
    if kind in ("infinite", "a flipped bit"):
        samples = tone(SAMPLE_RATE)
        samples[100] = np.inf if kind == "infinite" else 3e37
        return audio.write(path, samples, subtype="FLOAT")
    if kind == "too long":
        return audio.write(path, tone(8000, 5.0), 8000)
    if kind == "too short":
        return audio.write(path, tone(SAMPLE_RATE, 0.1))
    if kind == "empty":
        return audio.write(path, np.zeros(0, dtype=np.float32))
    if kind == "half a file":
        whole = audio.write(folder / "whole.flac", audio.speech(1)).read_bytes()
        path.write_bytes(whole[:50])
        return path
    path.write_bytes(b"" if kind == "no bytes" else b"this is a text, not a recording")
    return path


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("silent", "silent"),
        ("clipped", r"clipped: .*%"),
        ("nan", "not numbers"),
        ("infinite", "not numbers"),
        ("a flipped bit", r"damaged: a sample of 3e\+37, where full scale is 1"),
        ("too long", r"5\.0 s long; at most 3 s"),
        ("too short", r"0\.10 s of speech; at least 0\.3 s"),
        ("empty", "no samples"),
        ("half a file", "cannot be read"),
        ("not audio", "cannot be read as audio"),
        ("no bytes", "cannot be read as audio"),
    ],
)
def test_what_is_wrong_is_said(kind: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(AudioProblem, match=why) as caught:
        load(broken(tmp_path, kind), 3.0)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF - 44])
def test_a_stream_s_wav_is_read_to_its_end(size: int, tmp_path: Path) -> None:
    """ffmpeg writes such sizes into a pipe: it does not know yet how long the sound will be."""
    whole = audio.write(tmp_path / "whole.wav", audio.speech(1))
    content = bytearray(whole.read_bytes())
    at = content.find(b"data") + 4
    content[at : at + 4] = content[4:8] = struct.pack("<I", size)
    streamed = tmp_path / "streamed.wav"
    streamed.write_bytes(content)
    assert np.array_equal(read(streamed), read(whole))
    assert by_header(streamed) == pytest.approx(1.2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav", "mp3", "ogg", "opus", "aiff", "flac"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_broke_off_is_refused_and_a_whole_one_is_not(kind: str, share: float, tmp_path: Path) -> None:
    how = {"format": "OGG", "subtype": "OPUS"} if kind == "opus" else {}
    whole = audio.write(tmp_path / f"whole.{kind}", audio.speech(1, 4.0), **how)
    read(whole)
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with pytest.raises(AudioProblem, match=r"incomplete|cannot be read"):
        read(cut)


def test_a_channel_without_a_microphone_is_not_clipped(tmp_path: Path) -> None:
    spoken = audio.speech(1)
    assert len(load(audio.write(tmp_path / "one.wav", np.stack([spoken, 0 * spoken], 1)), 30.0).samples)
    clipped = np.stack([np.clip(6 * spoken, -1, 1), 0 * spoken], 1)
    with pytest.raises(AudioProblem, match="clipped"):
        load(audio.write(tmp_path / "two.wav", clipped), 30.0)


def test_clipping_is_seen_wherever_it_lies_and_only_where_something_is_lost(tmp_path: Path) -> None:
    loud = np.clip(6 * audio.speech(1), -1, 1)
    for level in (1.0, 0.8, 0.3):
        with pytest.raises(AudioProblem, match="clipped"):
            load(audio.write(tmp_path / "turned.wav", level * loud), 30.0)
    load(audio.write(tmp_path / "float.wav", 3.8 * audio.speech(1), subtype="FLOAT"), 30.0)
    for rate in (8_000, 24_000, 48_000):
        load(audio.write(tmp_path / "quiet.wav", 0.02 * audio.speech(2, rate=rate), rate), 30.0)


def test_hours_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(str(path), "w", 8000, 1, subtype="PCM_U8") as f:
        f.write(np.zeros(8000 * 100, dtype=np.float32))
    with pytest.raises(AudioProblem, match="100 s long"):
        read(path, 30.0)


@pytest.mark.parametrize(
    ("text", "seconds", "why"),
    [("Selamat pagi.", 1.0, None), ("a" * 100, 1.0, "far too long"), ("Hai.", 10.0, "far too short")]
    + [(text, seconds, None) for text, seconds in (("水", 0.7), ("不", 0.6), ("好的", 1.1), ("Ya.", 1.7), ("שלום", 2.2))]
    + [("Saya suka minum.", 14.0, "far too short")],
)
def test_text_must_fit_its_recording(text: str, seconds: float, why: str | None) -> None:
    found = rate_problem(text, seconds)
    assert (found is None) if why is None else (found is not None and why in found)


@pytest.mark.slow
def test_reading_audio_prints_nothing(tmp_path: Path) -> None:
    """mpg123 writes to file descriptor 2 by itself when an MP3 is damaged."""
    path = audio.write(tmp_path / "a.mp3", tone(SAMPLE_RATE))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    code = f"""if True:
        from pathlib import Path
        from qrecipe.data.audio import AudioProblem, read
        try:
            read(Path({str(path)!r}))
        except AudioProblem as e:
            print(e)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.startswith("incomplete: 1.0")


CONTAINERS = {
    "mov": ("mov", "aac", 24_000),
    "mka": ("matroska", "aac", 24_000),
    "avi": ("avi", "mp3", 24_000),
    "wv": ("wv", "wavpack", 24_000),
    "ac3": ("ac3", "ac3", 48_000),
    "g722": ("g722", "g722", 16_000),
}
"""Ends of names -> container, codec and rate, all as ffmpeg calls them."""


@pytest.mark.parametrize("ending", CONTAINERS)
def test_containers_that_libsndfile_does_not_read(ending: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    format_, codec, rate = CONTAINERS[ending]
    path, sound = tmp_path / f"a.{ending}", np.sin(np.arange(rate) * 440 * 2 * np.pi / rate).astype(np.float32) / 2
    try:
        with av.open(str(path), "w", format=format_) as out:
            stream = out.add_stream(codec, rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="fltp", layout="mono")
            frame.sample_rate = rate
            for packet in (*stream.encode(frame), *stream.encode(None)):
                out.mux(packet)
    except (av.FFmpegError, ValueError) as e:
        pytest.skip(f"this build of PyAV does not write it: {e}")
    samples, found = read_original(path)
    assert found == rate
    assert abs(len(samples) / rate - 1) < 0.1
    assert 0.3 < float(np.sqrt(2 * np.mean(samples[rate // 4 : rate // 2] ** 2))) < 0.7


def test_a_playlist_is_no_recording(tmp_path: Path) -> None:
    """ffmpeg would read whatever it names."""
    path = tmp_path / "a.mp4"
    path.write_text("#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n")
    with pytest.raises(AudioProblem, match="cannot be read as audio"):
        read_original(path)
