"""Where a new language's row starts, and the check that the row is free."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qrecipe.errors import BaseModelError, Place
from qrecipe.inputs.bases import LocalBase
from qrecipe.model.languages import initial_rows, require_free
from qrecipe.model.load import LoadedBase
from qrecipe.qwen3 import CODEC_TABLE
from qrecipe.recipe.language import Init, Language

FREE = 2072


def language(**init: object) -> Language:
    return Language(bcp47="ms", init=Init.model_validate(init))


@pytest.fixture
def table(opened: LoadedBase) -> Iterator[torch.Tensor]:
    """The codec embedding; put back afterwards."""
    weight = opened.talker.model.codec_embedding.weight.data
    before = weight.clone()
    yield weight
    weight.copy_(before)


def test_a_mean_has_the_mean_length_of_its_sources(opened: LoadedBase, mini: LocalBase, table: torch.Tensor) -> None:
    """A plain mean of unrelated rows is shorter than any of them, and would be a quieter language than the model knows."""
    sources = ("english", "spanish")
    rows = torch.stack([table[mini.languages[s]] for s in sources])
    delta = initial_rows(opened.net, {"malay": (FREE, language(mean_of=list(sources)))}, mini.languages)
    ids, values = delta.rows[CODEC_TABLE]
    assert ids.tolist() == [FREE]
    assert not delta.whole
    assert values.norm() == pytest.approx(float(rows.norm(dim=1).mean()), rel=1e-5)
    assert torch.cosine_similarity(values[0], rows.mean(0), dim=0) == pytest.approx(1.0, abs=1e-5)
    assert rows.mean(0).norm() < 0.95 * values.norm()


def test_a_copy_is_exact(opened: LoadedBase, mini: LocalBase, table: torch.Tensor) -> None:
    delta = initial_rows(opened.net, {"malay": (FREE, language(copy="spanish"))}, mini.languages)
    assert torch.equal(delta.rows[CODEC_TABLE][1][0], table[mini.languages["spanish"]])


def test_several_languages_are_one_delta_in_the_order_of_rows(opened: LoadedBase, mini: LocalBase, table: torch.Tensor) -> None:
    chosen = {"malay": (2080, language(copy="spanish")), "hausa": (2075, language(mean_of=["english"]))}
    ids, values = initial_rows(opened.net, chosen, mini.languages).rows[CODEC_TABLE]
    assert ids.tolist() == [2075, 2080]
    assert torch.equal(values[0], table[mini.languages["english"]])
    assert torch.equal(values[1], table[mini.languages["spanish"]])


def test_a_row_that_looks_trained_is_refused(opened: LoadedBase, mini: LocalBase, table: torch.Tensor) -> None:
    place = Place("recipe.yaml", 4, 3)
    require_free(opened.net, FREE, mini.languages, place, True)
    table[FREE] = table[mini.languages["english"]]
    with pytest.raises(BaseModelError, match="2072 looks trained") as refused:
        require_free(opened.net, FREE, mini.languages, place, True)
    assert [(p.code, p.place) for p in refused.value.problems] == [("QR022", place)]


def test_a_trained_row_that_no_map_lists_is_refused(opened: LoadedBase, mini: LocalBase, table: torch.Tensor) -> None:
    """Row 2074 of the stock checkpoints holds a dialect that the Base config does not list."""
    table[2074] = table[mini.languages["english"]].flip(0)
    assert 2074 not in mini.listed_rows()
    with pytest.raises(BaseModelError, match="2074 looks trained"):
        require_free(opened.net, 2074, mini.languages, Place("x"), False)
    require_free(opened.net, 2073, mini.languages, Place("x"), False)
