"""A user's whole run: recordings made on the spot, `qrecipe run` from an empty cache to the bundle, and where its seconds go.

Weights are random, so verdicts mean nothing: every gate warns, and no gate is tried on recordings beforehand. The recogniser is
a stub that takes its time and always answers the same words; what a real one takes depends on which it is.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

SECONDS = (3.0, 9.0)
"""Of the shortest and of the longest recording."""
LISTENING_SECONDS = 0.03
"""Of the stub, for each sample."""
CHARACTERS_PER_SECOND = 13
SYLLABLES = [
    "ba",
    "da",
    "ga",
    "ka",
    "la",
    "ma",
    "na",
    "pa",
    "ra",
    "sa",
    "ta",
    "wa",
    "ya",
    "be",
    "de",
    "ke",
    "le",
    "me",
    "ne",
    "pe",
    "re",
    "se",
    "te",
    "bi",
    "di",
    "ki",
    "li",
    "mi",
    "ni",
    "pi",
    "ri",
    "si",
    "ti",
    "bu",
    "du",
    "ku",
    "lu",
    "mu",
    "nu",
]
RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def run(base: str, work: Path, hours: float, prompts: int) -> dict[str, Any]:
    """The stages and gates of `recipes/malay-1.7b.yaml` on so many hours of recordings, with `prompts` to judge each language by."""
    from qrecipe.evaluate.evaluators import EvaluatorSet
    from qrecipe.plan import complete_plan
    from qrecipe.recipe import load
    from qrecipe.run.engine import RunOptions
    from qrecipe.run.engine import run as run_plan

    folder = work / "whole"
    shutil.rmtree(folder, ignore_errors=True)
    recipe = _project(folder, base, hours, prompts)
    os.environ |= {"QRECIPE_CACHE": str(folder / "cache"), "QRECIPE_ALLOW": str(work)}

    # a run of minutes writes one checkpoint a stage at most, and the disk check counts on more
    with mock.patch.object(EvaluatorSet, "_recognises", return_value=_Stub()), mock.patch("qrecipe.run.disk.require"):
        began = time.perf_counter()
        plan = complete_plan(load(recipe))
        outcome = run_plan(plan, RunOptions(folder / "runs", folder / "bundles"))
        seconds = time.perf_counter() - began
    assert outcome.status == "accepted"
    return {
        "what": f"a whole run, {hours:g} hours of recordings, {prompts} prompts",
        "s": round(seconds, 1),
        "phases": {name: round(s, 1) for name, s in outcome.seconds.items()},
    }


class _Stub:
    """A `Recogniser` that takes its time and always answers the same words."""

    def transcribe(self, audios: Sequence[Any], language: str) -> list[str]:
        time.sleep(LISTENING_SECONDS * len(audios))
        return ["ba da ga"] * len(audios)


def respelled(base: str, work: Path, sentences: int) -> dict[str, Any]:
    """Sentences that the base speaks for `respell`, from an empty cache; what it said is then decoded to sound and encoded again."""
    from qrecipe.data.codes import Encoder
    from qrecipe.data.synthetic import synthesize
    from qrecipe.errors import Place
    from qrecipe.hashes import FileHashes
    from qrecipe.inputs.fetch import resolve
    from qrecipe.model.load import open_model
    from qrecipe.phases import measured, phase
    from qrecipe.plan.synthetic import Sentence, SyntheticDataset
    from qrecipe.recipe.base import Base
    from qrecipe.recipe.teacher import Teacher

    folder = work / "respelled"
    shutil.rmtree(folder, ignore_errors=True)
    os.environ["QRECIPE_CACHE"] = str(folder / "cache")
    voice = _recording(folder / "voice.wav", 0, 8.0)
    hashes = FileHashes()
    local = resolve(Base(model=base), Path.cwd(), Place("benchmark"), hashes)
    opened = open_model(local)
    texts = [Sentence(i, t, t) for i, t in enumerate(_texts(sentences, 7))]
    dataset = SyntheticDataset("text", "malay", "spanish", tuple(texts), (voice,), "benchmark")
    with measured() as clock:
        # random weights never end: the cap stands for a reader's pace
        teacher = Teacher(slowest=1.2 * CHARACTERS_PER_SECOND)
        spoken = synthesize(opened, Encoder(opened, local, hashes), str(local.identity), dataset, teacher)
        with phase("decoding sound"):
            sounds = _sounds(opened, [r.codes for r in spoken.rows])
        with phase("encoding"):
            for i in range(0, len(sounds), 64):
                opened.encode(sounds[i : i + 64])
    phases = clock.table()
    frames = sum(r.frames for r in spoken.rows)
    what = f"{sentences} sentences of respell, decoded and encoded"
    return {"what": what, "s": round(sum(phases.values()), 1), "frames": frames, "phases": phases}


def _sounds(opened: Any, codes: list[Any]) -> list[Any]:
    """Waveforms of codes, in batches of 64."""
    from qrecipe.model.speak import sound

    parts = [codes[i : i + 64] for i in range(0, len(codes), 64)]
    return [audio for part in parts for audio, _ in sound(opened, part)]


def _project(folder: Path, base: str, hours: float, prompts: int) -> Path:
    """The recipe with its recordings."""
    sizes = {"malay/train": hours * 3600, "malay/dev": prompts * 6.0, "english/train": hours * 900, "english/dev": prompts * 6.0}
    for seed, (name, seconds) in enumerate(sizes.items()):
        dataset(folder / "my-data" / name, seconds, seed)
    recogniser = folder / "recogniser"
    recogniser.mkdir()
    (recogniser / "config.json").write_text("{}")
    recipe = yaml.safe_load((RECIPES / "malay-1.7b.yaml").read_text())
    shutil.copytree(RECIPES / "templates", folder / "templates")
    recipe["base"] = {"model": base}
    recipe["languages"]["malay"]["init"] = {"copy": "spanish"}
    recipe["evaluators"] = {"asr": {"backend": "transformers", "model": "./recogniser"}}
    # random weights never end: the cap stands for a reader's pace
    recipe["evaluation"] |= {"prompts": prompts, "probe_gates": False, "frame_cap": 1.2}
    for gate in [g for s in recipe["stages"] for g in s["gates"]] + recipe["accept"]:
        gate["severity"] = "warn"
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def dataset(folder: Path, seconds: float, seed: int) -> float:
    """A manifest beside `folder` with recordings in it, made on all cores, that last so long in all; returns how long exactly.

    They end wherever in a frame.
    """
    rng = random.Random(seed)
    lengths: list[float] = []
    while sum(lengths) < seconds:
        lengths.append(rng.uniform(*SECONDS))
    folder.mkdir(parents=True)
    files = [folder / f"{i:05}.wav" for i in range(len(lengths))]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_recording, files, range(seed * 100_000, seed * 100_000 + len(files)), lengths, chunksize=16))
    texts = _texts(len(files), seed, lengths)
    rows = [
        {"audio": f"{folder.name}/{f.name}", "text": t, "speaker": f"voice{i % 4}"}
        for i, (f, t) in enumerate(zip(files, texts, strict=True))
    ]
    folder.with_suffix(".jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return sum(lengths)


def _recording(file: Path, seed: int, seconds: float) -> Path:
    from tests.support import audio

    return audio.write(file, audio.speech(seed, round(seconds, 2)))


def _texts(count: int, seed: int, lengths: list[float] | None = None) -> list[str]:
    """Made-up words at the pace of a reader."""
    rng = random.Random(1000 + seed)
    texts = []
    for i in range(count):
        letters = int((lengths[i] if lengths else rng.uniform(*SECONDS)) * CHARACTERS_PER_SECOND)
        words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4)))]
        while sum(map(len, words)) + len(words) < letters:
            words.append("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))))
        texts.append(" ".join(words).capitalize() + ".")
    return texts
