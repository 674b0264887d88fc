"""A new language in memory and a little speech, for the tests of a stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from qrecipe.qwen3 import CODEC_TABLE
from tests.support import recipes

if TYPE_CHECKING:
    from qrecipe.data.speech import SpeechData
    from qrecipe.model.load import LoadedBase


@pytest.fixture(scope="module", autouse=True)
def malay(opened: LoadedBase) -> Iterator[None]:
    """A new language in memory, its row at its init; the embedded base as it was afterwards."""
    import torch

    from qrecipe.model.weights import Delta
    from qrecipe.model.working import WorkingWeights
    from tests.support.training import ROW

    working = WorkingWeights(opened)
    listed, supported = dict(opened.config.talker_config.codec_language_id), list(opened.net.supported_languages)
    working.add_languages({"malay": ROW})
    start = opened.talker.model.codec_embedding.weight[listed["english"]].clone().unsqueeze(0)
    working.set(Delta(rows={CODEC_TABLE: (torch.tensor([ROW]), start)}))
    yield
    working.set(Delta())
    opened.config.talker_config.codec_language_id = listed
    opened.net.supported_languages = supported


@pytest.fixture(scope="module")
def own(opened: LoadedBase, voice: Any, malay: None) -> SpeechData:
    from tests.support.training import speech_data

    return speech_data(opened, voice, recipes.MALAY[:4], "malay")


@pytest.fixture(scope="module")
def english(opened: LoadedBase, voice: Any) -> SpeechData:
    from tests.support.training import speech_data

    return speech_data(opened, voice, recipes.ENGLISH, "english", first=30)
