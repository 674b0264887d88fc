"""Recordings made ready in other processes: the same bytes as in this one, and the same words about those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qrecipe import workers
from qrecipe.data.audio import TRIM_DB, TRIM_FRAME, TRIM_HOP, AudioProblem, _sounding
from qrecipe.data.reading import PreparedAudio, Recording, prepared
from tests.support import audio

pytestmark = pytest.mark.filterwarnings("ignore:.*slated for removal:DeprecationWarning")


def test_workers_read_what_one_process_reads(tmp_path: Path) -> None:
    files = [
        audio.write(tmp_path / f"{i}.wav", audio.speech(i, 0.5 + 0.1 * i, rate), rate) for i, rate in enumerate([16_000, 24_000, 44_100])
    ]
    broken, silent = tmp_path / "broken.wav", audio.write(tmp_path / "silent.wav", np.zeros(24_000, np.float32))
    broken.write_bytes(files[0].read_bytes()[:-9000])
    recordings = [Recording(f, trim, 2.0) for f in (*files, broken, tmp_path / "absent.wav", silent) for trim in (True, False)]
    here, elsewhere = (list(workers.in_order(prepared, recordings, count)) for count in (0, 2))
    assert sum(isinstance(p, PreparedAudio) for p in here) == 6
    for a, b in zip(here, elsewhere, strict=True):
        if isinstance(a, AudioProblem):
            assert isinstance(b, AudioProblem)
            assert str(a) == str(b)
            continue
        assert isinstance(b, PreparedAudio)
        assert a.samples.tobytes() == b.samples.tobytes()
        assert a.heard[0].tobytes() == b.heard[0].tobytes()
        assert (a.seconds, a.trimmed, a.heard[1]) == (b.seconds, b.trimmed, b.heard[1])


@pytest.mark.slow
def test_silence_ends_where_librosa_says() -> None:
    import librosa

    rng = np.random.default_rng(0)
    for _ in range(200):
        size = int(rng.integers(1, 30_000))
        envelope = np.abs(np.sin(np.arange(size) * rng.uniform(1e-5, 1e-2))) ** rng.uniform(0, 6)
        samples = (rng.standard_normal(size) * envelope).astype(np.float32)
        _, ends = librosa.effects.trim(samples, top_db=TRIM_DB, frame_length=TRIM_FRAME, hop_length=TRIM_HOP)
        assert _sounding(samples) == tuple(ends)
