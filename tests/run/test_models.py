"""A language is asked for by its name or by its BCP 47 tag, which a bundle's manifest states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from qrecipe.errors import BaseModelError, Place
from qrecipe.hashes import FileHashes
from qrecipe.inputs.fetch import resolve
from qrecipe.recipe.base import Base
from qrecipe.recipe.language import TAGS
from qrecipe.run.events import Events
from qrecipe.run.models import language_of, open_argument
from tests.support.shared import Finished

LISTED = ["english", "chinese", "beijing_dialect", "malay", "hausa", "fula", "fula_of_adamawa", "nameless"]
OWN = {"malay": "ms", "hausa": "ha-Latn", "fula": "ff", "fula_of_adamawa": "ff-Latn-CM"}


def session(listed: list[str], tags: dict[str, str]) -> Any:
    config = SimpleNamespace(talker_config=SimpleNamespace(codec_language_id=dict.fromkeys(listed, 2050)))
    return SimpleNamespace(opened=SimpleNamespace(config=config), base=SimpleNamespace(tags=tags))


def asked(language: str) -> str:
    return language_of(cast(Any, session(LISTED, {**TAGS, **OWN})), language, Place("--language"))


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("auto", "auto"),
        ("malay", "malay"),
        ("MALAY", "malay"),
        ("ms", "malay"),
        ("ms-MY", "malay"),
        ("MS_my", "malay"),
        ("ha", "hausa"),
        ("ha-Latn-NG", "hausa"),
        ("en-GB", "english"),
        ("zh", "chinese"),
        ("ff-latn-cm", "fula_of_adamawa"),
        ("ff", "fula"),
        ("nameless", "nameless"),
    ],
)
def test_names_and_tags(language: str, name: str) -> None:
    assert asked(language) == name


@pytest.mark.parametrize(
    ("language", "help_"),
    [
        ("malai", "did you mean `malay`?"),
        ("ff-GH", "give a name: `fula` (ff), `fula_of_adamawa` (ff-latn-cm)"),
        ("xx", "`hausa` (ha-latn), `malay` (ms), `nameless`, `auto`"),
    ],
)
def test_what_means_no_language_or_several(language: str, help_: str) -> None:
    with pytest.raises(BaseModelError) as raised:
        asked(language)
    assert help_ in str(raised.value.problems[0].help)


@pytest.mark.slow
def test_a_bundle_and_a_stage_know_their_tags(finished: Finished, tmp_path: Path) -> None:
    bundle = resolve(Base(model=str(finished.outcome.bundle)), Path.cwd(), Place("x"), FileHashes())
    assert bundle.tags["malay"] == "ms"
    assert bundle.tags["english"] == "en"
    stage = open_argument(f"{finished.runs / 'tiny'}@language", FileHashes(), Events(None))
    assert language_of(stage, "ms-MY", Place("x")) == "malay"
    # a manifest without tags, or a broken one, is no reason to refuse a base
    older = Path(shutil.copytree(str(finished.outcome.bundle), tmp_path / "older"))
    manifest = json.loads((older / "bundle.json").read_text())
    del manifest["languages"]["malay"]["bcp47"]
    for text in (json.dumps(manifest), "[]", "{"):
        (older / "bundle.json").write_text(text)
        assert "malay" not in resolve(Base(model=str(older)), Path.cwd(), Place("x"), FileHashes()).tags
