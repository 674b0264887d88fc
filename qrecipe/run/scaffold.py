"""`new`: a recipe over a template, with comments that explain each choice, and folders that say what goes into them.

Writes files that are not there yet and changes none.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from qrecipe.errors import Place, Problem, RecipeError, suggest
from qrecipe.files import write_json, write_text
from qrecipe.plan.schemas import schemas
from qrecipe.recipe.evaluator import WHISPER_LANGUAGES
from qrecipe.recipe.language import BCP47, TAGS, language_key_problem
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.paths import repository
from qrecipe.recipe.reader import Node, read_file
from qrecipe.shipped import GATES, gates, templates

REPLAY = "english"
"""The language of replayed and kept data: every published base speaks it, and recordings are easy to come by."""

_RECIPE = """\
# yaml-language-server: $$schema=$schema
# $title over the template `$template`. `qrecipe validate FILE` says what is missing, `qrecipe plan FILE` what will train.
qrecipe: 1
name: $name
version: 0.1.0                # of the bundle: raise it when the result changes
extends: [templates/$template.yaml, templates/$gates.yaml]  # its stages, and what the result must pass
vars: {language: $name}

base:
  model: $model$revision
languages:
  $name:                      # what speakers of the bundle ask for; lower case
    bcp47: $bcp47
    token_id: auto            # the lowest row that is free
    init: {mean_of: [$init]}  # languages of the base that sound most alike: the row starts between them
${respelling}datasets:                     # paths are relative to this file; data/$name/README.md says what goes into them
$datasets$evaluators
# What is stated here replaces what the templates say. A stage is changed under its `id`:
# stages:
#   - {id: $stage, epochs: 5}
# Gates judge on `dev` and `keep`, which no stage may train on. Look at the first run's verdicts before you trust a
# threshold, then state an `accept` of your own. Another recogniser goes under `evaluators: {asr: {model: ...}}`.
"""
_EVALUATORS = """\
evaluators:                   # Whisper does not know this language; MMS knows a thousand, by codes of three letters
  asr: {backend: transformers, model: facebook/mms-1b-all, languages: {$name: $code}}
"""
_RESPELLING = """\
    respelling: {language: $reader, table: $table}  # how the base is told to read it; see docs/respelling.md
teacher: {voices: [data/$name/ref.wav]}  # recordings of a few seconds, in any language, in whose voices the base reads
"""
_TABLE = """\
# How $title is spelled for a reader of $reader_title, so that reading it aloud gives the sounds of $title. Of the rules that fit the one with the
# longest left side counts, and every rule needs a word below that it changes. Replace these by your own; `qrecipe validate` tries them.
respelling: 1
from: $bcp47
into: $into
alphabet: abcdefghijlmnopqrstuvwxyz
rules:
  - k -> qu / _ [ei]           # before e and i
  - k -> c
tests:
  kilo: quilo
  kala: cala
"""
_DATASETS = {
    "text": ("text", "{kind: text, language: $name, path: data/$name/text.jsonl}", "100 sentences at least, thousands are better"),
    "speech": ("speech", "{kind: speech, language: $name, path: data/$name/train.jsonl}", "30 minutes at least, hours are better"),
    "dev": ("speech", "{kind: speech, language: $name, path: data/$name/dev.jsonl}", "other sentences, never trained on"),
    "replay": ("speech", f"{{kind: speech, language: {REPLAY}, path: data/{REPLAY}/train.jsonl}}", "a language that must not be forgotten"),
    "keep": (
        "speech",
        f"{{kind: speech, language: {REPLAY}, path: data/{REPLAY}/dev.jsonl}}",
        f"{REPLAY}, never trained on: is it forgotten?",
    ),
}
_README = """\
# Data: $name

| file | holds |
|---|---|
$rows

A manifest has one JSON object a line. Paths in it are relative to the manifest:

```json
$example
```

Recordings may have any format, rate and channel count that libsndfile reads (WAV, FLAC, Ogg, MP3); they are brought to
24 kHz. Cut them at pauses, 1 to 20 seconds each, without music. A row may name its `speaker`, and a `reference`
recording of the same voice with its `reference_text`. Write texts as they are spoken, numbers spelled out.
No sentence and no recording may stand in both a training and a judging manifest.

`qrecipe validate` checks the manifests, `qrecipe prepare` also the recordings. Add a note here that says where the data
comes from and under which licence.
"""
_FILES = {
    "text.jsonl": "sentences alone; 100 at least, thousands are better",
    "train.jsonl": "recordings to learn from, with what is said in them; 30 minutes at least, hours are better",
    "dev.jsonl": "recordings to judge on: 35 or more, sentences that stand nowhere else",
    "ref.wav": "a few seconds of one voice, in any language: in this voice the base reads what it shall learn to read",
}


@dataclass
class Written:
    """What `new` made."""

    recipe: Path
    files: list[Path] = field(default_factory=list)
    """Every file that was written, the recipe first."""


def new_recipe(language: str, bcp47: str, template: str, folder: Path, model: str, revision: str | None, like: list[str]) -> Written:
    """Writes a recipe into `folder`, with the template, data folders and the schema where they are not there yet.

    Raises `RecipeError`; then nothing was written.
    """
    known = templates()
    path = folder / f"{language}.yaml"
    problems = list(_wrong(language, bcp47, template, known, path))
    if problems:
        raise RecipeError(problems)
    written = Written(path, [path])
    extended = read_file(known[template])
    named = _uses(extended)
    schema = _schema(folder)
    stages = extended.get("stages")
    last = stages.elements()[-1].get("id") if stages is not None else None
    assert last is not None, "a template of stages"
    table = f"respellings/{language}-{like[0]}.yaml" if _respells(extended) else None
    files = {path: _text(language, bcp47, template, model, revision, like, named, str(last.value), os.path.relpath(schema, folder), table)}
    if table is not None:
        names = {"title": _title(language), "reader_title": _title(like[0]), "bcp47": bcp47, "into": TAGS.get(like[0], "und")}
        files[folder / table] = Template(_TABLE).substitute(names)
    for source in (known[template], gates()):
        target = folder / "templates" / source.name
        line = f"$schema={os.path.relpath(schema, target.parent)}"
        files[target] = _SCHEMA_LINE.sub(line, source.read_text(encoding="utf-8"))
    for name in (language, REPLAY):
        files[folder / "data" / name / "README.md"] = _readme(name, [f for f in _FILES if f"data/{name}/{f}" in files[path]])
    for file, text in files.items():
        if not file.exists():
            write_text(file, text)
            written.files += [] if file == path else [file]
    if not schema.exists():
        write_json(schema, schemas()["recipe"])
        written.files.append(schema)
    return written


def _wrong(language: str, bcp47: str, template: str, known: dict[str, Path], path: Path) -> list[Problem]:
    place = Place("qrecipe new")
    problems = []
    why = language_key_problem(language)
    if why is None and not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", language):
        why = "is not a name: lower-case letters, digits, `_`, `-`, a letter first"
    if why is None and language == REPLAY:
        why = "is one that every published base speaks: a recipe adds languages"
    if why is not None:
        problems.append(Problem("QR021", f"language `{language}` {why}", place, f"for example `--language {_clean(language)}`"))
    if not re.match(BCP47, bcp47):
        problems.append(Problem("QR070", f"`{bcp47}` is not a BCP 47 tag", place, "for example `--bcp47 ha`"))
    if template not in known:
        problems.append(Problem("QR070", f"no template is called `{template}`", place, suggest(template, known)))
    if not problems and path.exists():
        problems.append(Problem("QR070", f"{path} is there already", place, "choose another folder with `--out`, or edit the file"))
    return problems


def _clean(language: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "_", language.strip().lower()).strip("_-0123456789").replace("dialect", "") or "hausa"


_SCHEMA_LINE = re.compile(r"\$schema=\S+")


def _schema(folder: Path) -> Path:
    """The recipe's JSON Schema: the repository's, else one beside the recipe."""
    top = repository(folder / "x")
    here = folder.resolve()
    for parent in (here, *here.parents):
        found = parent / "schemas" / "recipe.schema.json"
        if found.is_file():
            return found
        if parent == top:
            break
    return here / "schemas" / "recipe.schema.json"


def _uses(template: Node) -> list[str]:
    """Names of the datasets that a template's stages and the gates read, in the order of `_DATASETS`."""
    found = {"dev", "keep"}
    for stage in (template.get("stages") or template).elements():
        for use in (stage.get("data") or stage).elements():
            name = use.get("use") or use
            found.add(str(name.value))
    return [n for n in _DATASETS if n in found]


def _respells(template: Node) -> bool:
    """Whether a stage learns from respelled sentences."""
    objectives = [stage.get("objective") for stage in (template.get("stages") or template).elements()]
    return any(o is not None and OBJECTIVES[str(o.value)].respells for o in objectives)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _text(
    language: str,
    bcp47: str,
    template: str,
    model: str,
    revision: str | None,
    like: list[str],
    named: list[str],
    stage: str,
    schema: str,
    table: str | None,
) -> str:
    code = bcp47.split("-")[0]
    lines = {n: f"  {n}: " + Template(_DATASETS[n][1]).substitute(name=language) for n in named}
    width = max(map(len, lines.values()))
    return Template(_RECIPE).substitute(
        schema=schema,
        title=_title(language),
        template=template,
        name=language,
        evaluators="" if code in WHISPER_LANGUAGES else Template(_EVALUATORS).substitute(name=language, code=code),
        gates=GATES,
        stage=stage,
        model=model,
        revision=f"\n  revision: {revision}" if revision else "",
        bcp47=bcp47,
        init=", ".join(like),
        respelling="" if table is None else Template(_RESPELLING).substitute(name=language, reader=like[0], table=table),
        datasets="".join(f"{line:<{width}}  # {_DATASETS[n][2]}\n" for n, line in lines.items()),
    )


def _readme(name: str, holds: list[str]) -> str:
    rows = "\n".join(f"| `{file}` | {_FILES[file]} |" for file in holds)
    example = '{"audio": "audio/0001.wav", "text": "..."}' + ('\n{"text": "..."}' if "text.jsonl" in holds else "")
    return Template(_README).substitute(name=name, rows=rows, example=example)
