"""Changes in meaning between two recipes: what trains, at which rates, on which data, under which gates.

Compares plans, so that formatting, comments, the order of fields and the way in which a recipe is put together from
templates change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qrecipe.files import is_file
from qrecipe.hashes import sha256
from qrecipe.plan.changes import changes, in_words
from qrecipe.plan.planned import Planned
from qrecipe.plan.values import PlannedStage, PlannedTrain
from qrecipe.recipe.gate import Gate


@dataclass(frozen=True)
class Change:
    """One change, in words."""

    where: str
    """`base`, `languages`, `data`, `stage NAME`, `accept`, `evaluation`, or `recipe`."""
    what: str


@dataclass(frozen=True)
class Reuse:
    """Whether a stage of the second recipe can be reused after a run of the first."""

    stage: str
    reason: str | None
    """Why it would have to be trained again; None if it can be reused."""


@dataclass(frozen=True)
class Difference:
    """Everything that changed."""

    changes: list[Change]
    stages: list[Reuse]

    def as_json(self) -> dict[str, Any]:
        """The object of the command line's JSON output."""
        return {"changes": [asdict(c) for c in self.changes], "stages": [asdict(s) for s in self.stages]}


def compare(old: Planned, new: Planned) -> Difference:
    """Everything that changed from one plan to another."""
    parts = (_base, _languages, _data, _stages, _accept, _settings)
    return Difference([change for part in parts for change in part(old, new)], _reuse(old, new))


def _base(old: Planned, new: Planned) -> Iterator[Change]:
    a, b = old.plan.base, new.plan.base
    if (a.model, a.revision) != (b.model, b.revision):
        yield Change("base", f"{_base_name(old)} -> {_base_name(new)}")
    elif None not in (a.identity, b.identity) and a.identity != b.identity:
        yield Change("base", f"{a.model} holds other files")


def _base_name(planned: Planned) -> str:
    base = planned.plan.base
    return base.model + (f"@{base.revision[:12]}" if base.revision else "")


def _languages(old: Planned, new: Planned) -> Iterator[Change]:
    a, b = old.plan.languages, new.plan.languages
    for key in [*a, *(k for k in b if k not in a)]:
        if key not in b:
            yield Change("languages", f"`{key}` is no longer added")
        elif key not in a:
            yield Change("languages", f"`{key}` ({b[key].bcp47}) is added, from {', '.join(b[key].init)}")
        else:
            before, after = (
                {
                    **p.plan.languages[key].model_dump(),
                    "respelling": r.model_dump() if (r := p.loaded.recipe.languages[key].respelling) else None,
                }
                for p in (old, new)
            )
            yield from (Change("languages", f"`{key}`: {c}") for c in changes(before, after))


def _data(old: Planned, new: Planned) -> Iterator[Change]:
    a, b = old.loaded.recipe.datasets, new.loaded.recipe.datasets
    for name in [*a, *(n for n in b if n not in a)]:
        if name not in b:
            yield Change("data", f"`{name}` is gone")
        elif name not in a:
            yield Change("data", f"`{name}` is new: {b[name].kind} in {b[name].language}, {b[name].path}")
        else:
            yield from (Change("data", f"`{name}`: {c}") for c in changes(a[name].model_dump(), b[name].model_dump()))
            before, after = _contents(old, new, name)
            if before != after and a[name].path == b[name].path:
                rows = old.plan.datasets[name].rows, new.plan.datasets[name].rows
                how_many = f" ({rows[0]:,} -> {rows[1]:,} rows)" if None not in rows and rows[0] != rows[1] else ""
                yield Change("data", f"`{name}` holds other rows or recordings{how_many}")


def _stages(old: Planned, new: Planned) -> Iterator[Change]:
    a, b = {s.id: s for s in old.plan.stages}, {s.id: s for s in new.plan.stages}
    for name in a:
        if name not in b:
            yield Change(f"stage {name}", "is gone")
    for name, stage in b.items():
        if name not in a:
            yield Change(f"stage {name}", f"is new: {_summary(stage)}")
    both = [n for n in a if n in b]
    if both != [n for n in b if n in a]:
        yield Change("recipe", "order of the stages: " + ", ".join(a) + " -> " + ", ".join(b))
    for name in both:
        yield from (Change(f"stage {name}", text) for text in _stage(a[name], b[name]))
        settings = [{k: v for k, v in s[name].inputs.settings.items() if k not in _SHOWN_OTHERWISE} for s in (a, b)]
        yield from (Change(f"stage {name}", str(c)) for c in changes(settings[0], settings[1]))
        gates = [next(s for s in p.loaded.recipe.stages if s.id == name).gates for p in (old, new)]
        yield from _gates(f"stage {name}", gates[0], gates[1])


def _summary(stage: PlannedStage) -> str:
    trains = "; ".join(f"{what(t)} at {t.lr:g}" for t in stage.trainable)
    data = ", ".join(_use(d.dataset, d.share) for d in stage.data)
    return f"{stage.objective} on {data}, trains {trains or 'what is not known yet'}"


def what(train: PlannedTrain) -> str:
    """The target of an entry, as a person would write it."""
    text = ", ".join(train.match) + (" except " + ", ".join(train.except_) if train.except_ else "")
    if train.lora is not None:
        text += f" (LoRA, rank {train.lora['rank']:g}, alpha {train.lora['alpha']:g})"
    return text + (f" (rows: {train.rows if isinstance(train.rows, str) else 'listed'})" if train.rows is not None else "")


def _use(name: str, share: float | None) -> str:
    return name + (f" ({share:.0%})" if share else "")


def _stage(a: PlannedStage, b: PlannedStage) -> Iterator[str]:
    if a.objective != b.objective:
        yield f"objective: {a.objective} -> {b.objective}"
    removed = list(a.trainable)
    for train in b.trainable:
        same = next((t for t in removed if _target(t) == _target(train)), None)
        if same is None:
            count = f", {train.parameters:,} parameters" if train.parameters is not None else ""
            yield f"now trains {what(train)} at {train.lr:g}{count}"
            continue
        removed.remove(same)
        if same.lr != train.lr:
            yield f"{what(train)} learns at {train.lr:g} instead of {same.lr:g}"
        if same.weight_decay != train.weight_decay:
            yield f"weight decay of {what(train)}: {same.weight_decay:g} -> {train.weight_decay:g}"
        if same.rows_sha256 != train.rows_sha256 and None not in (same.rows_sha256, train.rows_sha256):
            yield f"other rows of {what(train)}: {same.rows_count:,} -> {train.rows_count:,}"
    for train in removed:
        yield f"no longer trains {what(train)} (was {train.lr:g})"
    if a.parameters != b.parameters and None not in (a.parameters, b.parameters):
        yield f"parameters that train: {a.parameters:,} -> {b.parameters:,}"
    uses = [[_use(d.dataset, d.share) for d in s.data] for s in (a, b)]
    if uses[0] != uses[1]:
        yield f"data: {', '.join(uses[0])} -> {', '.join(uses[1])}"
    if a.taught != b.taught:
        yield "what the base says or respells for it changed"
    for outcome in ("on_pass", "on_fail"):
        if getattr(a, outcome) != getattr(b, outcome):
            yield f"{outcome}: {getattr(a, outcome)} -> {getattr(b, outcome)}"


def _target(train: PlannedTrain) -> object:
    """Equal for two entries that train the same: their tensors where they are known, else their patterns."""
    rows = tuple(train.rows) if isinstance(train.rows, list) else train.rows
    lora = tuple((train.lora or {}).items())
    return (tuple(train.tensors), rows, lora) if train.tensors else (tuple(train.match), tuple(train.except_), rows, lora)


_SHOWN_OTHERWISE = {"id", "objective", "train", "data"}


def _accept(old: Planned, new: Planned) -> Iterator[Change]:
    return _gates("accept", old.loaded.recipe.accept, new.loaded.recipe.accept)


def _gates(where: str, before: Sequence[Gate], after: Sequence[Gate]) -> Iterator[Change]:
    a, b = {g.label(): g for g in before}, {g.label(): g for g in after}
    for label, gate in a.items():
        if label not in b:
            yield Change(where, f"gate removed: {label}")
            continue
        for change in changes(gate.model_dump(mode="json"), b[label].model_dump(mode="json")):
            yield Change(where, f"gate {label}: {change}")
    for label in b:
        if label not in a:
            yield Change(where, f"gate added: {label}")


_TOP = ("name", "version", "description", "seed", "teacher", "evaluation", "evaluators")


def _settings(old: Planned, new: Planned) -> Iterator[Change]:
    a, b = (p.loaded.recipe.model_dump(mode="json", by_alias=True) for p in (old, new))
    for key in _TOP:
        if isinstance(a.get(key), dict) and isinstance(b.get(key), dict):
            yield from (Change(key, str(c)) for c in changes(a[key], b[key]))
        elif a.get(key) != b.get(key):
            yield Change("recipe", f"{key}: {in_words(a.get(key))} -> {in_words(b.get(key))}")


def _reuse(old: Planned, new: Planned) -> list[Reuse]:
    """Stages in order. A plan may not know all of the inputs, so they are compared as well as both plans know them."""
    earlier = [s.id for s in old.plan.stages]
    start_changed = old.plan.languages != new.plan.languages or any(_base(old, new)) or old.plan.seed != new.plan.seed
    result: list[Reuse] = []
    for place, stage in enumerate(new.plan.stages):
        retrained = next((r.stage for r in result if r.reason is not None), None)
        if stage.id not in earlier:
            reason = "it is new"
        elif retrained is not None:
            reason = f"it follows `{retrained}`"
        elif start_changed:
            reason = "the base, a language or the seed changed"
        elif [s.id for s in new.plan.stages[:place]] != earlier[: earlier.index(stage.id)] or not _same_inputs(old, new, stage.id):
            reason = "what it learns from or how it learns changed"
        else:
            reason = None
        result.append(Reuse(stage.id, reason))
    return result


def _same_inputs(old: Planned, new: Planned, name: str) -> bool:
    """Whether a stage of both plans learns the same; what comes before it is compared elsewhere."""
    a, b = (next(s for s in p.plan.stages if s.id == name) for p in (old, new))
    known = [(i.settings, i.measured, i.datasets, i.trained) for i in (a.inputs, b.inputs)]
    contents = [_contents(old, new, d) for d in b.inputs.datasets]
    return known[0] == known[1] and a.taught == b.taught and all(before == after for before, after in contents)


def _contents(old: Planned, new: Planned, name: str) -> tuple[str, str]:
    """A dataset's content before and after, as exactly as both plans know it: all of it, the manifest alone, its path."""
    planned = [p.plan.datasets.get(name) for p in (old, new)]
    hashes = [d.sha256 if d is not None else None for d in planned]
    if hashes[0] is not None and hashes[1] is not None:
        return hashes[0], hashes[1]
    stated = [p.loaded.recipe.datasets.get(name) for p in (old, new)]
    files = [p.loaded.path(d.path) if d is not None else None for p, d in zip((old, new), stated, strict=True)]
    if files[0] is not None and files[1] is not None and is_file(files[0]) and is_file(files[1]):
        return sha256(files[0]), sha256(files[1])
    paths = [d.path if d is not None else "" for d in stated]
    return paths[0], paths[1]
