"""Putting packs onto one base: rows never collide, and weights that several packs changed are merged by a rule or refused.

rows    The first pack keeps its languages' rows. A later one keeps them where they are free, else it gets the lowest
        free row from 2072 up, as `token_id: auto` does.
shared  `sum`: the base's value and every pack's change of it, added up in float32. `refuse`: an error that names them.
reading Text rows and text projection give every token one input of the talker. Where packs meet in the projection, `sum` adds no
        weights up there: the projection has the mean change, and rows are solved for so that each token's input is the mean of
        those of the packs that trained its row. So a pack does not change the tokens that are another's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from qrecipe.bundle.pack import Pack, require_base
from qrecipe.errors import BundleError, Place, Problem
from qrecipe.inputs.bases import LocalBase
from qrecipe.model.weights import Delta
from qrecipe.qwen3 import CODEC_TABLE, FIRST_FREE_ROW, LAST_ROW, TEXT_TABLE
from qrecipe.recipe import metrics

MERGING = 2
"""Version of the rules: other rules make other weights of the same packs."""
PROJECTION = tuple(f"talker.text_projection.{n}" for n in ("linear_fc1.weight", "linear_fc1.bias", "linear_fc2.weight", "linear_fc2.bias"))
RIDGE = 0.03
"""Keeps a row near the mean of the packs' rows: from 0.1 to 0.001 the residual goes from .17 to .13 of the change, and rows grow."""
SOLVING = 600
"""Steps of the solver at most."""
MergeRule = Literal["sum", "refuse"]
Read = Callable[[str], torch.Tensor]
"""A tensor of the base by its name."""


@dataclass(frozen=True)
class Shared:
    """Weights that several packs changed to different values."""

    tensor: str
    packs: tuple[str, ...]
    elements: int
    """Elements that more than one of them changed."""
    of: int
    """Elements of the tensor."""

    def as_json(self) -> dict[str, Any]:
        """The object of the command line's JSON output."""
        return {"tensor": self.tensor, "packs": list(self.packs), "elements": self.elements, "of": self.of}


def require_fit(packs: Sequence[Pack], base: LocalBase) -> None:
    """Raises `BundleError` for packs that were made from another base, or bring the same language or name twice."""
    owners: dict[str, Pack] = {}
    for pack in packs:
        place = Place(str(pack.path))
        require_base(pack.manifest.base.identity, base, place)
        _require_shapes(pack, base)
        why = _judging_problem(pack, base)
        if why is not None:
            raise _unfit(pack, why)
        for key in [f"pack `{pack.manifest.name}`", *(f"language `{k}`" for k in pack.manifest.languages)]:
            if key in owners:
                message = f"{owners[key].path.name} brings the {key} as well"
                raise BundleError(Problem("QR064", message, place, "leave one of them out"))
            owners[key] = pack
        for key in pack.manifest.languages:
            if key in base.languages:
                raise BundleError(Problem("QR064", f"the base has the language `{key}` already", place, "leave the pack out"))


def _require_shapes(pack: Pack, base: LocalBase) -> None:
    """Raises `BundleError` for tensors and rows that the base does not have."""
    for name, values in pack.delta.whole.items():
        if base.tensors.get(name) != tuple(values.shape):
            raise _unfit(pack, f"`{name}` has another shape in the base, or is not in it")
    for name, (ids, values) in pack.delta.rows.items():
        shape = base.tensors.get(name)
        if shape is None or shape[1:] != tuple(values.shape[1:]) or (len(ids) and int(ids[-1]) >= shape[0]):
            raise _unfit(pack, f"`{name}` has other rows in the base, or is not in it")
    trained = pack.delta.rows[CODEC_TABLE][0].tolist() if CODEC_TABLE in pack.delta.rows else []
    for key, language in pack.manifest.languages.items():
        if language.token_id not in trained:
            raise _unfit(pack, f"it holds no row {language.token_id} for its language `{key}`")


def _judging_problem(pack: Pack, base: LocalBase) -> str | None:
    """Why the gates of a pack cannot be judged, or None. Those of a recipe were checked when it was read."""
    judging, known = pack.manifest.judging, {*base.languages, *pack.manifest.languages}
    if judging.settings.keys() != pack.manifest.languages.keys():
        return "its settings are not those of its languages"
    used = [*judging.datasets.values(), *(g.token for g in judging.accept if g.token is not None)]
    unknown = [k for k in used if k not in known]
    unknown += [s for v in judging.settings.values() for s in v.init.sources if s not in base.languages]
    if unknown:
        return f"its gates speak `{unknown[0]}`, which neither the base nor the pack knows"
    for name in judging.datasets:
        if f"data/{name}.jsonl" not in pack.files:
            return f"it holds no data `{name}`"
    for gate in judging.accept:
        if metrics.find(gate.metric) is None or len(gate.thresholds) != 1 or gate.data not in judging.datasets:
            return f"a gate on `{gate.metric}` of `{gate.data}` cannot be judged"
        if gate.baseline == "previous" or (gate.relative and gate.against is None) or (gate.against_best and gate.baseline != "base"):
            return f"a gate on `{gate.metric}` of `{gate.data}` has no baseline"
    return None


def _unfit(pack: Pack, why: str) -> BundleError:
    return BundleError(Problem("QR064", why, Place(str(pack.path)), "make the pack again from its bundle"))


def place_rows(packs: Sequence[Pack], base: LocalBase) -> tuple[dict[str, int], list[Delta]]:
    """The row of every language, and the packs' deltas with their languages moved there."""
    own = [{v.token_id for v in p.manifest.languages.values()} for p in packs]
    taken = base.listed_rows()
    for pack, mine in zip(packs, own, strict=True):
        if CODEC_TABLE in pack.delta.rows:
            taken |= set(pack.delta.rows[CODEC_TABLE][0].tolist()) - mine
    rows: dict[str, int] = {}
    deltas = []
    for pack in packs:
        moved: dict[int, int] = {}
        for key, language in pack.manifest.languages.items():
            candidates = [language.token_id, *range(FIRST_FREE_ROW, LAST_ROW + 1)]
            row = next((r for r in candidates if r not in taken), None)
            if row is None:
                raise BundleError(Problem("QR022", f"no free row is left for `{key}`", Place(str(pack.path))))
            taken.add(row)
            rows[key] = moved[language.token_id] = row
        deltas.append(_moved(pack.delta, moved))
    return rows, deltas


def _moved(delta: Delta, rows: dict[int, int]) -> Delta:
    """The delta with rows of the codec embedding under other numbers."""
    if CODEC_TABLE not in delta.rows:
        return delta
    ids, values = delta.rows[CODEC_TABLE]
    renumbered = torch.tensor([rows.get(i, i) for i in ids.tolist()], dtype=torch.int64)
    order = renumbered.argsort()
    return Delta(delta.whole, {**delta.rows, CODEC_TABLE: (renumbered[order], values[order])})


def merge(names: Sequence[str], deltas: Sequence[Delta], read: Read) -> tuple[Delta, list[Shared]]:
    """One delta of several, with every change added up, and the weights in which they meet.

    Args:
        names: of the packs, in the order of `deltas`.
        read: gives the base's tensors, of which only those that several packs changed are read.
    """
    merged, shared = Delta(), []
    for name in sorted({n for d in deltas for n in d.whole}):
        owners = [(p, d.whole[name]) for p, d in zip(names, deltas, strict=True) if name in d.whole]
        if len(owners) == 1:
            merged.whole[name] = owners[0][1]
            continue
        base = read(name).float()
        stacked = torch.stack([v.reshape(1, -1) for _, v in owners])  # a whole tensor is one row
        values, meeting = _added(base.reshape(1, -1), stacked, torch.ones(len(owners), 1, dtype=torch.bool))
        merged.whole[name] = values.reshape(base.shape)
        shared.append(Shared(name, tuple(p for p, _ in owners), meeting, base.numel()))
    for name in sorted({n for d in deltas for n in d.rows}):
        parts = [(p, *d.rows[name]) for p, d in zip(names, deltas, strict=True) if name in d.rows]
        if len(parts) == 1:
            merged.rows[name] = parts[0][1:]
            continue
        table = read(name)
        ids = torch.tensor(sorted({i for _, mine, _ in parts for i in mine.tolist()}), dtype=torch.int64)
        stacked = torch.zeros(len(parts), len(ids), table.shape[1])
        present = torch.zeros(len(parts), len(ids), dtype=torch.bool)
        for k, (_, mine, rows) in enumerate(parts):
            at = torch.searchsorted(ids, mine)
            stacked[k, at], present[k, at] = rows, True
        values, meeting = _added(table[ids].float(), stacked, present)
        merged.rows[name] = (ids, values)
        shared.append(Shared(name, tuple(p for p, _, _ in parts), meeting, table.numel()))
    shared = [s for s in shared if s.elements]
    if any(s.tensor in PROJECTION for s in shared):
        reading = merge_reading(deltas, read)
        merged.whole.update(reading.whole)
        merged.rows.update(reading.rows)
    return merged, shared


def merge_reading(deltas: Sequence[Delta], read: Read) -> Delta:
    """Text rows and text projection of several packs as one."""
    base = [read(name).float() for name in PROJECTION]
    own = [[d.whole[n].float() if n in d.whole else b for n, b in zip(PROJECTION, base, strict=True)] for d in deltas]
    projection = [b + torch.stack([p[k] - b for p in own]).mean(0) for k, b in enumerate(base)]
    merged = Delta(dict(zip(PROJECTION, projection, strict=True)))
    tables = [(d.rows[TEXT_TABLE], weights) for d, weights in zip(deltas, own, strict=True) if TEXT_TABLE in d.rows]
    if not tables:
        return merged

    # every token's input of the talker, and its row to begin with, as the mean of the packs that trained the row
    ids = torch.tensor(sorted({i for (mine, _), _ in tables for i in mine.tolist()}), dtype=torch.int64)
    inputs, start, packs = torch.zeros(len(ids), base[2].shape[0]), torch.zeros(len(ids), base[0].shape[1]), torch.zeros(len(ids), 1)
    for (mine, rows), weights in tables:
        at = torch.searchsorted(ids, mine)
        inputs[at] += _projected(rows.float(), weights)
        start[at] += rows.float()
        packs[at] += 1
    inputs, start = inputs / packs, start / packs

    # the rows that the merged projection makes these inputs of
    solved = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([solved], max_iter=SOLVING, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (_projected(solved, projection) - inputs).pow(2).sum() + RIDGE * (solved - start).pow(2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    merged.rows[TEXT_TABLE] = (ids, solved.detach())
    return merged


def _projected(rows: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Inputs of the talker: [tokens, width] -> [tokens, hidden]."""
    up, up_bias, down, down_bias = weights
    return torch.nn.functional.silu(rows @ up.T + up_bias) @ down.T + down_bias


def _added(base: torch.Tensor, values: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Rows with every change added, and how many elements more than one pack changed. Where all agree nothing is added.

    Args:
        base: [rows, width].
        values: [packs, rows, width].
        present: [packs, rows], which pack has which row.
    """
    has = present.unsqueeze(-1)
    first = values[present.int().argmax(0), torch.arange(len(base))]
    agree = ((values == first) | ~has).all(0).all(-1)
    changes = torch.where(has, values - base, torch.zeros(()))
    summed = torch.where(agree.unsqueeze(-1), first, base + changes.sum(0))
    return summed, int(((changes != 0).sum(0) > 1)[~agree].sum())
