"""`new`: a recipe over a template, with comments that explain each choice, and folders that say what goes into them.

Writes files that are not there yet and changes none. The texts are the files beside this one, with `$NAME` for what is put in.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template

from qrecipe import sentences
from qrecipe.errors import Place, Problem, Problems, RecipeError, suggest
from qrecipe.files import write_json, write_text
from qrecipe.inputs.bases import known_tags
from qrecipe.plan.schemas import schemas
from qrecipe.recipe.diagnose import ascii_name
from qrecipe.recipe.evaluator import WHISPER_LANGUAGES
from qrecipe.recipe.language import BCP47, language_key_problem
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.shipped import GATES, gates, templates
from qrecipe.source.bounds import repository
from qrecipe.source.reader import Node, read_file

REPLAY = "english"
"""The language that is rehearsed and judged where nobody names another: every published base speaks it best."""
_JUDGED = {"dev", "keep"}
"""Datasets that the gates read, whatever the stages do."""
_SCHEMA_LINE = re.compile(r"\$schema=\S+")


@dataclass(frozen=True)
class NewRecipe:
    """Choices for a recipe that does not exist yet."""

    language: str
    bcp47: str
    template: str
    model: str
    revision: str | None
    like: list[str]
    """Languages of the base that sound most alike, the closest first; at least one."""
    replay: str = REPLAY
    """The language of the base that is rehearsed and judged, so that it is not forgotten."""
    voices: Sequence[str] = ()
    """Recordings in whose voices the base speaks, relative to the recipe; default: one that is yet to be put there."""
    on_bad_row: str | None = None
    """`on_bad_row` of the datasets of recordings; None: the default of recipes."""


@dataclass
class Written:
    """Files that `new` made."""

    recipe: Path
    files: list[Path] = field(default_factory=list)
    """Every file that was written, the recipe first."""


def new_recipe(request: NewRecipe, folder: Path) -> Written:
    """Writes a recipe into `folder`, with the template, data folders and the schema where they are not there yet.

    Raises `RecipeError`; then nothing was written.
    """
    path = folder / f"{request.language}.yaml"
    Problems(problems_of(request, path)).raise_any(RecipeError)
    schema = _schema(folder)
    written = Written(path, [path])
    for file, text in _files(request, folder, schema).items():
        if not file.exists():
            write_text(file, text)
            written.files += [] if file == path else [file]
    if not schema.exists():
        write_json(schema, schemas()["recipe"])
        written.files.append(schema)
    return written


def _files(request: NewRecipe, folder: Path, schema: Path) -> dict[Path, str]:
    """Text of every file but the schema, the recipe first."""
    template = templates()[request.template]
    stages = read_file(template)
    table = f"respellings/{request.language}-{request.like[0]}.yaml" if _respells(stages) else None
    recipe = _recipe(request, stages, os.path.relpath(schema, folder), table)
    files = {folder / f"{request.language}.yaml": recipe}
    if table is not None:
        reader = request.like[0]
        names = {"title": _title(request.language), "reader_title": _title(reader)}
        files[folder / table] = _fill(
            "respelling.yaml", **names, bcp47=request.bcp47, into=known_tags(folder / request.model).get(reader, "und")
        )
    for source in (template, gates()):
        target = folder / "templates" / source.name
        line = f"$schema={os.path.relpath(schema, target.parent)}"
        files[target] = _SCHEMA_LINE.sub(line, source.read_text(encoding="utf-8"))
    own, old = folder / "data" / request.language, folder / "data" / request.replay
    files[own / "README.md"] = _readme(request.language, recipe)
    files[old / "README.md"] = _fill("sentences.md", name=request.replay, title=_title(request.replay))
    for name, texts in (("replay", sentences.replay(request.replay)), ("keep", sentences.keep(request.replay))):
        if f"data/{request.replay}/{name}.jsonl" in recipe:
            files[old / f"{name}.jsonl"] = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)
    return files


def problems_of(request: NewRecipe, path: Path | None) -> Iterator[Problem]:
    """Choices that no recipe can follow; `path` is where it would be written, None for whoever writes none."""
    place = Place("qrecipe new" if path is not None else "qrecipe import")
    language = request.language
    template_files = templates()
    why = _language_problem(language)
    if request.replay not in sentences.languages():
        message = f"no sentences of `{request.replay}` ship, which `--replay` would have the base speak"
        yield Problem("QR070", message, place, suggest(request.replay, sentences.languages()))
    valid = (
        why is None and request.replay in sentences.languages() and re.match(BCP47, request.bcp47) and request.template in template_files
    )
    if why is not None:
        near = ascii_name(language).replace(".", "_")
        yield Problem("QR021", f"language `{language}` {why}", place, f"for example `--language {near if usable(near) else 'hausa'}`")
    if not re.match(BCP47, request.bcp47):
        tag = request.bcp47.strip().replace("_", "-").lower()
        yield Problem(
            "QR070", f"`{request.bcp47}` is not a BCP 47 tag", place, f"for example `--bcp47 {tag if re.match(BCP47, tag) else 'ha'}`"
        )
    if request.template not in template_files:
        yield Problem("QR070", f"no template is called `{request.template}`", place, suggest(request.template, template_files))
    if valid and path is not None and path.exists():
        yield Problem("QR070", f"{path} is there already", place, "choose another folder with `--out`, or edit the file")


def usable(language: str) -> bool:
    """Whether `new` writes a recipe for a language of this name."""
    return _language_problem(language) is None


def _language_problem(language: str) -> str | None:
    why = language_key_problem(language)
    if why is None and not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", language):
        why = "is not a name: lower-case letters, digits, `_`, `-`, a letter first"
    if why is None and language in sentences.languages():
        why = "is one that every published base speaks: a recipe adds languages"
    return why


def _schema(folder: Path) -> Path:
    """The recipe's JSON Schema: the repository's, else one beside the recipe."""
    top = repository(folder / "x")
    here = folder.resolve()
    for parent in (here, *here.parents):
        schema = parent / "schemas" / "recipe.schema.json"
        if schema.is_file():
            return schema
        if parent == top:
            break
    return here / "schemas" / "recipe.schema.json"


def _used_datasets(template: Node) -> set[str]:
    """Names of the datasets that a template's stages and the gates read."""
    names = set(_JUDGED)
    for stage in (template.get("stages") or template).elements():
        for use in (stage.get("data") or stage).elements():
            names.add(str((use.get("use") or use).value))
    return names


def _respells(template: Node) -> bool:
    """Whether a stage learns from respelled sentences."""
    objectives = [stage.get("objective") for stage in (template.get("stages") or template).elements()]
    return any(o is not None and OBJECTIVES[str(o.value)].respells for o in objectives)


def _last_stage(template: Node) -> str:
    stages = template.get("stages")
    stage_id = stages.elements()[-1].get("id") if stages is not None else None
    assert stage_id is not None, "a template of stages"
    return str(stage_id.value)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _fill(file: str, **values: str) -> str:
    return Template((resources.files(__name__) / file).read_text(encoding="utf-8")).substitute(values)


def _recipe(request: NewRecipe, template: Node, schema: str, table: str | None) -> str:
    """Text of the recipe. `schema` is relative to its folder, and so is the respelling `table`, None where no stage respells."""
    name, code = request.language, request.bcp47.split("-")[0]
    return _fill(
        "recipe.yaml",
        schema=schema,
        title=_title(name),
        template=request.template,
        name=name,
        evaluators="" if code in WHISPER_LANGUAGES else _fill("evaluators.yaml", name=name, code=code),
        gates=GATES,
        stage=_last_stage(template),
        model=request.model,
        revision=f"\n  revision: {request.revision}" if request.revision else "",
        bcp47=request.bcp47,
        init=", ".join(request.like),
        respelling="" if table is None else _fill("reader.yaml", name=name, reader=request.like[0], table=table),
        datasets=_datasets(request, _used_datasets(template)),
        replay=_title(request.replay),
        replay_key=request.replay,
        voices=", ".join(request.voices or [f"data/{name}/ref.wav"]),
    )


def _datasets(request: NewRecipe, used: set[str]) -> str:
    """Lines of the datasets that are used, their comments below each other."""
    text = _fill("datasets.yaml", name=request.language, replay=request.replay)
    if request.on_bad_row is not None:
        text = re.sub(r"(kind: speech.*)}", rf"\1, on_bad_row: {request.on_bad_row}}}", text)
    lines = [line.split("  # ") for line in text.splitlines()]
    lines = [parts for parts in lines if parts[0].split(":")[0].strip() in used]
    width = max(len(dataset) for dataset, _ in lines)
    return "".join(f"{dataset:<{width}}  # {comment}\n" for dataset, comment in lines)


def _readme(language: str, recipe: str) -> str:
    """The page of a data folder: of the files that it may hold, the table keeps those that the recipe names."""
    lines = []
    for line in _fill("data.md", name=language).splitlines():
        row = re.match(r"\| `(\S+)` \|", line)
        if row is None or f"data/{language}/{row[1]}" in recipe:
            lines.append(line)
    if f"data/{language}/text.jsonl" not in recipe:
        lines.remove('{"text": "..."}')
    return "\n".join(lines) + "\n"
