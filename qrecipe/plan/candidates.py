"""Variants of a recipe for `qrecipe search`: pieces that are merged over it. Never imports torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from qrecipe.qwen3 import CODEC_TABLE, TALKER_LAYERS, TEXT_PROJECTION, TEXT_TABLE
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.objectives import OBJECTIVES

AS_IT_IS = "as-it-is"
"""The recipe without any change: what every other variant is compared with."""
GRID = {"rates-third": 1 / 3, "rates-triple": 3.0}
REPLAY = {"replay-half": 0.5, "replay-double": 2.0}
MOST_REPLAY = 0.6
TAKES = 8

StageSettings = dict[str, Any]
Stages = list[StageSettings]


@dataclass(frozen=True)
class Candidate:
    """A variant."""

    name: str
    piece: dict[str, Any]
    """Merged over the recipe."""


def candidates(loaded: LoadedRecipe) -> list[Candidate]:
    """The recipe as it is, the recipe's own variants, then the shipped ones that change anything."""
    search = loaded.recipe.search
    own = [Candidate(name, piece) for name, piece in search.candidates.items()] if search is not None else []
    shipped = list(_shipped(loaded)) if search is None or search.defaults else []
    known = {AS_IT_IS, *(c.name for c in own)}
    return [Candidate(AS_IT_IS, {}), *own, *(c for c in shipped if c.name not in known)]


def content(loaded: LoadedRecipe, candidate: Candidate, name: str) -> dict[str, Any]:
    """The recipe file of a variant, beside the one that it extends."""
    recipe = loaded.recipe
    return {"qrecipe": 1, "name": name, "version": recipe.version, "extends": loaded.file.name, **copy.deepcopy(candidate.piece)}


def _shipped(loaded: LoadedRecipe) -> Iterator[Candidate]:
    """Each changes one thing of all stages."""
    plain: Stages = loaded.resolved()["stages"]

    def changed(name: str, change: Callable[[Stages], Stages | None]) -> Iterator[Candidate]:
        stages = change(copy.deepcopy(plain))
        if stages and stages != plain:
            yield Candidate(name, {"remove": ["stages"], "stages": stages})

    for name, factor in GRID.items():
        yield from changed(name, lambda stages, by=factor: _rates(stages, by))  # type: ignore[misc]  # bound now
    for name, factor in REPLAY.items():
        yield from changed(name, lambda stages, by=factor: _replayed(stages, by))  # type: ignore[misc]  # bound now
    yield from changed("reads-alone", _reads_alone)
    yield from changed("layers-low-rank", _with_layers)
    yield from changed("order-turned", lambda stages: stages[::-1])
    yield from changed("last-stage-alone", lambda stages: stages[-1:])
    yield from changed("first-stage-alone", lambda stages: stages[:1])
    if loaded.recipe.evaluators.asr is not None and loaded.recipe.teacher.takes < TAKES and any(s["objective"] == "respell" for s in plain):
        yield Candidate("best-of-takes", {"teacher": {"takes": TAKES}})
    yield from changed("respell-first", lambda stages: _respell_first(loaded, stages))
    yield from changed("then-by-ear", lambda stages: _then_by_ear(loaded, stages))


def _rates(stages: Stages, factor: float) -> Stages:
    for stage in stages:
        for train in stage["train"]:
            train["lr"] = float(f"{train['lr'] * factor:.3g}")
    return stages


def _replayed(stages: Stages, factor: float) -> Stages:
    for stage in stages:
        for use in stage["data"]:
            if isinstance(use, dict) and "share" in use:
                use["share"] = min(MOST_REPLAY, round(use["share"] * factor, 4))
    return stages


def _reads(train: StageSettings) -> bool:
    """Whether an entry trains what reads: rows of tables, or the text projection."""
    patterns = [train["match"]] if isinstance(train["match"], str) else train["match"]
    parts = (TEXT_PROJECTION, TEXT_TABLE.removesuffix(".weight"), CODEC_TABLE.removesuffix(".weight"))
    return all(p.startswith(parts) for p in patterns)


def _reads_alone(stages: Stages) -> Stages | None:
    """Without entries of layers and heads, and without stages that train nothing else."""
    stages = [{**s, "train": [t for t in s["train"] if _reads(t)]} for s in stages]
    return [s for s in stages if s["train"]] or None


def _with_layers(stages: Stages) -> Stages | None:
    """Low-rank deltas of the talker's layers in the last stage that speaks, where no stage trains them."""
    if any(not _reads(t) for s in stages for t in s["train"]):
        return None
    speaking = [s for s in stages if OBJECTIVES[s["objective"]].speaks]
    if not speaking:
        return None
    speaking[-1]["train"].append({"match": TALKER_LAYERS, "lr": 1.0e-4, "lora": {"rank": 16, "alpha": 32.0}})
    return stages


def _texts(loaded: LoadedRecipe) -> list[str]:
    """Text in the recipe's own languages that is no judge."""
    recipe = loaded.recipe
    judges = recipe.judging_datasets()
    return [n for n, d in recipe.datasets.items() if d.kind == "text" and d.language in recipe.languages and n not in judges]


def _reader(stages: Stages) -> list[StageSettings]:
    """Reading parts that the first speaking stage trains; else the language's row and the text projection."""
    first = next((s for s in stages if OBJECTIVES[s["objective"]].speaks), None)
    reads = [t for t in first["train"] if _reads(t)] if first is not None else []
    table, projection = CODEC_TABLE.removesuffix(".weight"), TEXT_PROJECTION
    return copy.deepcopy(reads) or [{"match": table, "rows": "languages", "lr": 1.0e-3}, {"match": projection, "lr": 5.0e-5}]


def _respell_first(loaded: LoadedRecipe, stages: Stages) -> Stages | None:
    """A stage that reads respelled sentences before all others, where a language has a respelling and no stage does so."""
    languages = loaded.recipe.languages
    texts = [t for t in _texts(loaded) if languages[loaded.recipe.datasets[t].language].respelling is not None]
    if not texts or any(s["objective"] == "respell" for s in stages):
        return None
    return [{"id": "respell-first", "objective": "respell", "data": texts, "train": _reader(stages), "epochs": 3}, *stages]


def _then_by_ear(loaded: LoadedRecipe, stages: Stages) -> Stages | None:
    """A rewarded stage after all others, where the recipe has a recogniser and sentences."""
    recipe, texts = loaded.recipe, _texts(loaded)
    if recipe.evaluators.asr is None or not texts or any(s["objective"] == "reward" for s in stages):
        return None
    train = _rates([{"train": _reader(stages)}], 0.1)[0]["train"]
    reward = [{"metric": "cer", "weight": 2.0}, {"metric": "speaker_similarity"}, {"metric": "runaway_rate"}]
    return [*stages, {"id": "by-ear", "objective": "reward", "data": texts, "train": train, "reward": reward, "steps": 60}]
