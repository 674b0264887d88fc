"""A tiny recipe with its data: a few seconds of synthetic speech on the embedded base."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml

from tests.support import audio

MALAY = [
    "Hari ini hujan turun.",
    "Saya suka makan nasi.",
    "Adik pergi ke sekolah.",
    "Ibu memasak di dapur.",
    "Burung itu terbang tinggi.",
    "Kami bermain di padang.",
]
MALAY_DEV = ["Kucing tidur di sofa.", "Ayah membaca buku.", "Bunga itu merah."]
ENGLISH = ["The sky is very blue.", "She reads a good book.", "We walk to the river."]
REFERENCE_TEXT = "Selamat pagi semua."

RECIPE: dict[str, Any] = {
    "qrecipe": 1,
    "name": "tiny",
    "version": "0.1.0",
    "base": {"model": "builtin:mini"},
    "languages": {"malay": {"bcp47": "ms", "init": {"mean_of": ["english", "spanish"]}}},
    "datasets": {
        "text": {"kind": "text", "language": "malay", "path": "data/text.jsonl"},
        "speech": {
            "kind": "speech",
            "language": "malay",
            "path": "data/train.jsonl",
            "reference": "data/ref.wav",
            "reference_text": REFERENCE_TEXT,
        },
        "dev": {"kind": "speech", "language": "malay", "path": "data/dev.jsonl", "reference": "data/ref.wav"},
        "replay": {"kind": "speech", "language": "english", "path": "data/english.jsonl"},
    },
    "evaluation": {"seeds": [0], "prompts": 2, "batch": 2, "layouts": ["streaming"], "frame_cap": 1.0},
    "stages": [
        {
            "id": "language",
            "objective": "speech",
            "data": ["speech", {"use": "replay", "share": 0.25}],
            "train": [
                {"match": "talker.model.codec_embedding", "rows": "languages", "lr": 5.0e-3},
                {"match": "talker.text_projection", "lr": 1.0e-3},
            ],
            "steps": 3,
            "batch": {"frames": 80},
        },
    ],
}
"""One short stage without gates; tests add what they are about."""


def recipe(**changes: Any) -> dict[str, Any]:
    """The tiny recipe as plain data with top-level fields replaced."""
    return copy.deepcopy({**RECIPE, **changes})


def stage(**changes: Any) -> dict[str, Any]:
    """Its stage with fields replaced."""
    return copy.deepcopy({**RECIPE["stages"][0], **changes})


def write_data(folder: Path) -> Path:
    """Writes manifests and recordings into `folder/data`."""
    data = folder / "data"
    audio.write(data / "ref.wav", audio.speech(99, 1.0))
    for name, texts, first in (("train", MALAY, 0), ("dev", MALAY_DEV, 20), ("english", ENGLISH, 40)):
        rows = []
        for i, text in enumerate(texts):
            clip = audio.write(data / f"{name}{i}.wav", audio.speech(first + i, 1.0 + 0.1 * i))
            rows.append({"audio": clip.name, "text": text})
        write_rows(data / f"{name}.jsonl", rows)
    write_rows(data / "text.jsonl", [{"text": t} for t in MALAY])
    return data


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes a manifest."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def write(folder: Path, content: dict[str, Any] | None = None, name: str = "recipe.yaml") -> Path:
    """Writes the tiny recipe, or `content`, with its data, and returns the recipe's file."""
    if not (folder / "data").exists():
        write_data(folder)
    path = folder / name
    path.write_text(yaml.safe_dump(content or recipe(), sort_keys=False), encoding="utf-8")
    return path
