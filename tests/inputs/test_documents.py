"""Documents that are read back are checked against their schemas."""

from __future__ import annotations

from typing import Literal

import pytest

from qrecipe.errors import Place
from qrecipe.inputs.documents.check import check
from qrecipe.inputs.rows import parse


def test_a_lock_that_was_edited_by_hand() -> None:
    problems = check("lock", {"lock": 1, "recipe": "malay", "edited": True}, Place("malay.lock"))
    assert {p.code for p in problems} == {"QR062"}
    assert any("unknown field `edited`" in p.message for p in problems)
    assert any("missing" in p.message and "`plan`" in p.message for p in problems)


ROWS: list[object] = [
    {"text": "a"},
    {"text": "a", "extra": 1},
    {"text": ""},
    {"text": 5},
    {"text": "x" * 10_001},
    {"text": "a", "audio": "b.ogg", "cut": True, "speaker": "c"},
    {"text": "a", "audio": None, "audio_codes": [[0, 2047]]},
    {"text": "a", "audio_codes": [[2048]]},
    {"text": "a", "audio_codes": [[]]},
    {"text": "a", "audio_codes": [[-1]]},
    {"text": "a", "audio_codes": [[True]]},
    {"text": "a", "audio_codes": [["1"]]},
    {"text": "a", "cut": 1},
    {"text": "a", "audio": ""},
    {"audio": "b.ogg"},
    {},
    [],
    None,
    "text",
    7,
]


@pytest.mark.parametrize("kind", ["text", "speech"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_fast_check_agrees_with_the_schema(kind: Literal["text", "speech"], row: object) -> None:
    assert (parse(kind, row) is not None) == (check(f"{kind}-row", row, Place("x")) == [])
