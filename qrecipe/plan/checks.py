"""Checks of a recipe that need a plan: stages that teach nothing or undo each other, rates, amounts of data, overlap.

Needs names and shapes of the base, and manifests; never weights. Checks of the recipe alone are in
`qrecipe.recipe.checks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from qrecipe.errors import Place, Problem
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import BaseInfo
from qrecipe.inputs.durations import lengths
from qrecipe.inputs.evaluators import packages_problem
from qrecipe.inputs.manifest import Manifest
from qrecipe.plan.trainable import Group, Trainable
from qrecipe.qwen3 import (
    CODEC_EMBEDDING,
    CODEC_HEAD,
    CODEC_TABLE,
    FRAMES_PER_SECOND,
    PREDICTOR,
    PREDICTOR_EMBEDDINGS,
    TALKER_LAYERS,
    TALKER_NORM,
    TEXT_EMBEDDING,
    TEXT_PROJECTION,
    TEXT_TABLE,
    within,
)
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.checks import may_hold_language_rows
from qrecipe.recipe.dataset import SpeechDataset
from qrecipe.recipe.language import TAGS, language_key_problem
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.stage import SpokenStage, Stage
from qrecipe.source.reader import Node

MIN_SENTENCES = 100
"""Sentences below which text-only adaptation is not worth judging."""
SHOWN_NAMES = 3
"""Names that a warning lists."""
MIN_MINUTES = 30.0
"""Minutes of speech below which the method's source promises little."""


@dataclass(frozen=True)
class Context:
    """A plan's sources when it is checked."""

    loaded: LoadedRecipe
    base: BaseInfo
    rows: dict[str, int]
    """Rows of the recipe's languages, as far as they are known."""
    manifests: dict[str, Manifest]
    trainables: dict[str, Trainable]
    hashes: FileHashes

    def stages(self) -> Iterator[tuple[Stage, Node, Trainable]]:
        """Every stage with its node and what it trains."""
        for i, stage in enumerate(self.loaded.recipe.stages):
            yield stage, self.loaded.node.at("stages", i), self.trainables[stage.id]


def check(context: Context) -> Iterator[Problem]:
    """Everything below."""
    of_stages = (_languages, _silent, _feeds_the_talker, _overwritten, _rates, _optimizers)
    of_data = (_amounts, _outruns, _overlap, _row_languages, _repeated, _forgets)
    return chain.from_iterable(part(context) for part in (*of_stages, *of_data))


def _languages(context: Context) -> Iterator[Problem]:
    """A language's row learns only in a stage that trains it and reads speech of that language."""
    recipe, node = context.loaded.recipe, context.loaded.node
    for key in recipe.languages:
        if language_key_problem(key) is not None:
            continue  # reported already
        if not any(_trains_row(context, stage, trainable, key) for stage, _, trainable in context.stages()):
            message = f"no stage trains the row of `{key}`: it stays at its init"
            entry = "`{match: talker.model.codec_embedding, rows: languages, lr: …}`"
            help_ = f"add {entry} to a `speech` stage that reads this language"
            yield node.at("languages", key).key_problem("QR028", message, help_)


def _trains_row(context: Context, stage: Stage, trainable: Trainable, language: str) -> bool:
    """Whether a stage trains a language's row, as far as that is known."""
    if not OBJECTIVES[stage.objective].speaks or language not in _spoken(context, stage):
        return False
    if context.base.tensors is not None and len(trainable.groups) < len(stage.train):
        return True  # an entry is faulty, so what it would train is not known
    if context.base.tensors is None or language not in context.rows:
        return any(t.rows == "languages" or may_hold_language_rows(t.patterns, t.rows) for t in stage.train)
    row = context.rows[language]
    return any(CODEC_TABLE in g.tensors and (g.whole or row in (g.rows or ())) for g in trainable.groups)


def _spoken(context: Context, stage: Stage) -> set[str]:
    """Languages of a stage's data."""
    datasets = context.loaded.recipe.datasets
    return {datasets[u.dataset].language for u in stage.uses if u.dataset in datasets}


def _silent(context: Context) -> Iterator[Problem]:
    """Entries that the stage's loss never reaches."""
    languages = context.loaded.recipe.languages
    for stage, node, trainable in context.stages():
        # A language's row is read only where speech of that language is.
        if OBJECTIVES[stage.objective].speaks and not _spoken(context, stage) & languages.keys():
            help_ = "add a dataset of " + " or ".join(f"`{key}`" for key in languages)
            for i, train in enumerate(stage.train):
                if train.rows == "languages":
                    message = "no dataset of this stage speaks a language of the recipe, so no row learns"
                    yield node.at("train", i, "rows").problem("QR031", message, help_)

        # The predictor learns from its own loss alone.
        if not isinstance(stage, SpokenStage) or stage.predictor_weight > 0:
            continue
        for group in trainable.groups:
            if all(within(t, PREDICTOR) and not within(t, PREDICTOR_EMBEDDINGS) for t in group.tensors):
                message = "`predictor_weight` is 0, so the code predictor learns nothing"
                n = _entry(stage, node, group).at("match")
                yield n.problem("QR031", message, "give `predictor_weight`, or train something else")


def _feeds_the_talker(context: Context) -> Iterator[Problem]:
    """Tables that other modules read, trained while those stand still."""
    for stage, node, trainable in context.stages():
        talker_trains = any(within(t, TALKER_LAYERS) for g in trainable.groups for t in g.tensors)
        for group in trainable.groups:
            entry = _entry(stage, node, group)
            if not talker_trains and any(within(t, PREDICTOR_EMBEDDINGS) for t in group.tensors):
                message = (
                    "the predictor's `codec_embedding` tables also feed the talker, "
                    "which stands still in this stage and would hear other sounds"
                )
                yield entry.at("match").problem("QR034", message, f"add `except: [{PREDICTOR_EMBEDDINGS}]`")
            if group.whole and group.train.weight_decay > 0 and {TEXT_TABLE, CODEC_TABLE} & set(group.tensors):
                message = "weight decay shrinks every row of an embedding table, also those that no row of the data uses"
                yield entry.at("weight_decay").problem("QR034", message, "choose `rows`, or leave `weight_decay` out")


OVERWRITES = 10.0
"""Ratio of rates from which a later stage leaves little of what an earlier one learned in the same place."""


def _overwritten(context: Context) -> Iterator[Problem]:
    """Entries that train again, at a much higher rate, what an earlier stage trained."""
    stages = list(context.stages())
    for j, (later, node, trainable) in enumerate(stages):
        for group in trainable.groups:
            n = _entry(later, node, group).at("lr")
            for earlier, _, before in stages[:j]:
                small = next((g for g in before.groups if _share(g, group) and group.train.lr >= OVERWRITES * g.train.lr), None)
                if small is None:
                    continue
                shared = next(t for t in group.tensors if t in small.tensors).removesuffix(".weight")
                message = (
                    f"`{earlier.id}` trains `{shared}` at {small.train.lr:g}, "
                    f"and this stage again at {group.train.lr:g}: little of what it learned there remains"
                )
                yield n.problem("QR034", message, f"lower this rate, or leave the entry out of `{earlier.id}`")
                break


def _share(a: Group, b: Group) -> bool:
    """Whether two groups train something in common."""
    if not set(a.tensors) & set(b.tensors):
        return False
    if a.whole or b.whole:
        return True
    return a.rows is None or b.rows is None or bool(set(a.rows) & set(b.rows))


@dataclass(frozen=True)
class Tolerance:
    """Rates that are reported to work for a module of the published bases."""

    part: str
    low: float
    high: float


TOLERANCES = (
    Tolerance(TALKER_LAYERS, 2e-6, 1e-5),
    Tolerance(TALKER_NORM, 2e-6, 1e-5),
    Tolerance(TEXT_PROJECTION, 3e-5, 1e-4),
    Tolerance(TEXT_EMBEDDING, 3e-5, 1e-4),
    Tolerance(CODEC_EMBEDDING, 3e-5, 1e-3),
    Tolerance(CODEC_HEAD, 2e-6, 5e-5),
    Tolerance(PREDICTOR, 2e-6, 1e-4),
)
"""From users' reports on the published bases (docs/method.md). All that fit a tensor of an entry count."""
FAR = 10.0
"""How many times outside a tolerance a rate is called far."""
LORA_FACTOR = 20.0
"""Low-rank deltas start at zero and take rates this many times higher."""
REAL_HIDDEN = 1024
"""Smallest hidden size of the published bases: tolerances say nothing about the small embedded one."""


def _rates(context: Context) -> Iterator[Problem]:
    """Learning rates that forget what the base knows, or that its number format loses."""
    if int(context.base.talker.get("hidden_size") or 0) < REAL_HIDDEN:
        return
    for stage, node, trainable in context.stages():
        for group in trainable.groups:
            tolerances = {t for name in group.tensors for t in TOLERANCES if within(name, t.part)}
            if not tolerances:
                continue
            factor = LORA_FACTOR if group.train.lora is not None else 1.0
            tightest, lowest = min(tolerances, key=lambda t: t.high), min(tolerances, key=lambda t: t.low)
            usual = f"{tightest.low * factor:g} to {tightest.high * factor:g} is usual"
            lr, n = group.train.lr, _entry(stage, node, group).at("lr")
            if lr > FAR * factor * tightest.high:
                help_ = f"{usual}; a pretrained module forgets what it knows at much higher rates"
                yield n.problem("QR035", f"{lr:g} is far above what `{tightest.part}` tolerates", help_)
            elif lr * FAR * FAR < factor * lowest.low:
                moves = "AdamW moves a weight by about the rate each step"
                help_ = f"{usual}; {moves}, which rounding to {context.base.dtype} then loses"
                yield n.problem("QR035", f"{lr:g} is too low for `{tightest.part}` to learn anything that survives", help_)


def _entry(stage: Stage, node: Node, group: Group) -> Node:
    """The node of the entry that a group comes from."""
    return node.at("train", next(i for i, t in enumerate(stage.train) if t is group.train))


def _optimizers(context: Context) -> Iterator[Problem]:
    """Choices of a stage's optimiser that save nothing, or that need a package."""
    for stage, node, trainable in context.stages():
        for name, value in (("moments", stage.moments), ("masters", stage.masters)):
            known = context.base.tensors is not None and len(trainable.groups) == len(stage.train)
            if value != "float32" and known and not trainable.linear(context.base.tensors or {}):
                message = f"`{name}: {value}` saves nothing in `{stage.id}`: no weight of a linear layer trains itself"
                yield node.at(name).key_problem("QR100", message, "leave it out: rows, norms and low-rank deltas stay float32")
        if stage.moments == "8bit":
            packages = packages_problem(("torchao",), "8bit", "`moments: 8bit`", node.at("moments").place)
            yield from [packages] if packages is not None else []


def _amounts(context: Context) -> Iterator[Problem]:
    """Warns of less data than the method's source calls for."""
    recipe = context.loaded.recipe
    for name in sorted(recipe.trained_datasets() & context.manifests.keys()):
        dataset, manifest = recipe.datasets[name], context.manifests[name]
        if dataset.language not in recipe.languages or not manifest.rows:
            continue
        n, rows = context.loaded.node.at("datasets", name), len(manifest.rows)
        if rows < MIN_SENTENCES:
            message = f"`{name}` has {rows} sentences; below {MIN_SENTENCES} a language is hardly learned"
            yield n.key_problem("QR047", message, None, "warning")
        if isinstance(dataset, SpeechDataset):
            seconds = _seconds(manifest, context.hashes, MIN_MINUTES * 60)
            if seconds is not None and seconds < MIN_MINUTES * 60:
                message = f"`{name}` has {seconds / 60:.1f} minutes of speech; below {MIN_MINUTES:g} a voice hardly learns a language"
                yield n.key_problem("QR047", message, None, "warning")


def _seconds(manifest: Manifest, hashes: FileHashes, enough: float) -> float | None:
    """Seconds of speech, counted until there are `enough`; None if a recording's length is not known."""
    total = 0.0
    for length in lengths(manifest.rows, hashes):
        if length is None:
            return None
        total += length
        if total >= enough:
            break
    return total


def _outruns(context: Context) -> Iterator[Problem]:
    """Streaming reads one token a frame: a text with more tokens than frames is not over when its speech is."""
    outrunning = dict[str, list[int]]()
    for stage, node, _ in context.stages():
        if not isinstance(stage, SpokenStage) or stage.layout != "streaming":
            continue
        for j, use in enumerate(stage.uses):
            manifest = context.manifests.get(use.dataset)
            if manifest is None or manifest.token_counts is None:
                continue
            if use.dataset not in outrunning:
                language = context.loaded.recipe.datasets[use.dataset].language
                outrunning[use.dataset] = _late(manifest, context.hashes, context.loaded.recipe.lead(language))
            late = outrunning[use.dataset]
            if late:
                first = f"(the first in line {late[0]})"
                message = f"{len(late)} of {len(manifest.rows)} texts of `{use.dataset}` outrun streaming {first}"
                help_ = "`layout: mixed` lays such rows out whole; streaming reads 12.5 tokens a second"
                yield node.at("data", j).problem("QR044", message, help_, "warning")


def _late(manifest: Manifest, hashes: FileHashes, lead: int) -> list[int]:
    """Lines of the texts that have more tokens than their recording has frames after so many of silence."""
    lines, tokens = manifest.rows.column("line"), manifest.token_counts or ()
    return [
        line
        for line, count, seconds in zip(lines, tokens, lengths(manifest.rows, hashes))
        if seconds is not None and count > seconds * FRAMES_PER_SECOND + lead
    ]


def _overlap(context: Context) -> Iterator[Problem]:
    """The same text or the same recording in training and in judging data."""
    recipe = context.loaded.recipe
    judging = recipe.judging_datasets()
    trained = recipe.trained_datasets()
    for judge in sorted((judging - trained) & context.manifests.keys()):
        judged = context.manifests[judge]
        lines = judged.rows.column("line")
        texts, heard = dict(zip(judged.near_hashes, lines)), {s: line for s, line in zip(judged.sounds, lines) if s}
        for name in sorted(trained & context.manifests.keys()):
            manifest = context.manifests[name]
            if manifest.path == judged.path:
                continue  # reported by the recipe's own checks
            same_text = [(i, texts[key]) for i, key in enumerate(manifest.near_hashes) if key in texts]
            same_sound = [(i, heard[sound]) for i, sound in enumerate(manifest.sounds) if sound in heard]
            only_sound = sorted(set(same_sound) - set(same_text))
            for kind, pairs in (("sentence", same_text), ("recording", only_sound)):
                if pairs:
                    more = f", and {len(pairs) - 1:,} more" if len(pairs) > 1 else ""
                    message = f"this {kind} also judges, in `{judge}` (line {pairs[0][1]}){more}"
                    place = Place(manifest.shown, manifest.rows.column("line")[pairs[0][0]], 1)
                    yield Problem("QR046", message, place, "take it out of one of the two")


def _row_languages(context: Context) -> Iterator[Problem]:
    """Rows that say a language which is not their dataset's."""
    recipe = context.loaded.recipe
    asr, tags = recipe.evaluators.asr, {**context.base.tags, **recipe.tags()}
    for name, manifest in context.manifests.items():
        language = recipe.datasets[name].language
        yield from other_languages(manifest, name, language, [tags.get(language), asr.languages.get(language) if asr else None])


def other_languages(manifest: Manifest, name: str, language: str, codes: Sequence[str | None]) -> Iterator[Problem]:
    """One problem for all rows that say another language: the sign of a mixed file, or of a dataset under the wrong name.

    `codes` are tags of the dataset's language, as far as they are known.
    """
    stated = zip(manifest.rows.column("line"), manifest.rows.column("language"))
    others = [(line, own) for line, own in stated if own and not _same_language(own, language, codes)]
    if others:
        counts = Counter(own.casefold() for _, own in others).most_common(SHOWN_NAMES)
        listed = ", ".join(f"{count} `{own}`" for own, count in counts)
        message = f"`{name}` is `{language}`, and {len(others):,} of its {len(manifest.rows):,} rows say another language: {listed}"
        help_ = "every row stands under its dataset's language: give the others a dataset of their own, or leave the field out"
        yield Problem("QR094", message, Place(manifest.shown, others[0][0], 1), help_)


def _same_language(stated: str, language: str, codes: Sequence[str | None]) -> bool:
    """Whether a row's own language, a name or a tag, is the one of its dataset; `auto` says nothing."""
    plain = stated.strip().casefold().replace("_", "-")
    tags = {code.casefold() for code in codes if code}
    return plain in ("auto", language) or plain.split("-")[0] in {tag.split("-")[0] for tag in tags} or TAGS.get(plain) in tags


def _repeated(context: Context) -> Iterator[Problem]:
    """Rows that stand in a dataset more than once, and recordings that stand for several texts, one of which must be wrong."""
    recipe = context.loaded.recipe
    used = recipe.trained_datasets() | recipe.judging_datasets()
    for name in sorted(used & context.manifests.keys()):
        manifest = context.manifests[name]
        shown, lines = manifest.shown, manifest.rows.column("line")
        again, several = _copies(manifest.near_hashes, manifest.sounds)
        if several:
            line, first = (lines[i] for i in several[0])
            message = (
                f"{_rows(len(several))} of `{name}` has the recording of another row, whose text differs (the first that of line {first})"
            )
            yield Problem("QR091", message, Place(shown, line, 1), "one of the texts is wrong: find out which, and take its row out")
        if again:
            line, first = (lines[i] for i in again[0])
            weight = "copies weigh more than other rows" if name in recipe.trained_datasets() else "copies count once in gates"
            message = f"{_rows(len(again))} of `{name}` repeated from others (line {first} has the first): {weight}"
            yield Problem("QR091", message, Place(shown, line, 1), "take the copies out")


def _copies(texts: Sequence[int], sounds: Sequence[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Rows with the sound of an earlier one: (row, that row), those of the same text and those of another. Rows of text have no sound."""
    keys = texts if not any(sounds) else [sound or text for sound, text in zip(sounds, texts)]
    if len(set(keys)) == len(keys):
        return [], []
    rows: dict[int, dict[int, int]] = {}
    again, several = [], []
    for i, (key, text) in enumerate(zip(keys, texts)):
        alike = rows.setdefault(key, {})
        if text in alike:
            again.append((i, alike[text]))
        elif alike:
            several.append((i, next(iter(alike.values()))))
        alike.setdefault(text, i)
    return again, several


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _forgets(context: Context) -> Iterator[Problem]:
    """Stages that move what the languages of the base are read or spoken with, on new languages alone, and nobody looks."""
    recipe = context.loaded.recipe
    judged = {g.data for g in recipe.gates() if g.severity == "error"}
    if any(recipe.datasets[d].language not in recipe.languages for d in judged & recipe.datasets.keys()):
        return
    for stage, node, trainable in context.stages():
        # rows of new languages are read by no other language
        shared = next((g for g in trainable.groups if g.train.rows != "languages"), None)
        replayed = _spoken(context, stage) - recipe.languages.keys()
        if shared is None or not OBJECTIVES[stage.objective].speaks or replayed:
            continue
        part = shared.train.patterns[0]
        message = f"`{part}` learns from the new language alone: no data replays a language of the base, and no gate looks at one"
        help_ = "add `{use: self, language: english, share: 0.2}`, and a gate on sentences of that language (docs/gates.md)"
        yield _entry(stage, node, shared).at("match").problem("QR092", message, help_)
        return
