"""What the base will say for stages to learn from: which sentences, spelled how, in whose voice. Pure, never imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qrecipe.errors import Problems, RecipeError, suggest
from qrecipe.files import FileHashes, digest, is_file
from qrecipe.plan import boundaries
from qrecipe.plan.bases import BaseInfo
from qrecipe.plan.evaluators import find
from qrecipe.plan.manifest import Manifest
from qrecipe.plan.values import PlannedTaught
from qrecipe.qwen3 import FRAMES_PER_SECOND, PREDICTOR_HEADS, PREDICTOR_LAYERS, TALKER_LAYERS, within
from qrecipe.recipe import LoadedRecipe, teaching
from qrecipe.recipe.language import TAGS
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.respelling import Table, read
from qrecipe.recipe.stage import Stage

TEACHING = 1
"""Raised whenever the base would say something else for the same lesson."""
TOP = 64
"""Codes of the base's distribution that are kept at every frame."""
USUAL_RATE = 13.0
"""Characters a second that readers speak; only for estimates."""
CALL_SECONDS, LAYER_SECONDS = 3e-3, 5e-4
"""Seconds of a call of stock generation and of a decoder layer within it, on a GPU and whatever the batch: assumptions for
estimates. Starting operations takes the time, not computing them."""
WINDOW = 8
"""Batches within which sentences are sorted by length. What is added at the end of a file leaves earlier windows as they were."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of a lesson."""

    line: int
    """Line of the manifest."""
    text: str
    """What the student reads."""
    spoken: str
    """What the base reads: the same, or respelled."""


@dataclass(frozen=True)
class Lesson:
    """A text dataset as the base speaks it."""

    dataset: str
    language: str
    """The language that the student reads it in."""
    spoken_as: str
    """The language that the base reads it in."""
    sentences: tuple[Sentence, ...]
    voices: tuple[Path, ...]
    digest: str | None
    """Names what the base will say; None while a voice is not on this machine."""

    def cap(self, sentence: Sentence, slowest: float) -> int:
        """Frames at which a sentence is cut: `slowest` characters a second, and one second."""
        return math.ceil((len(sentence.spoken) / slowest + 1.0) * FRAMES_PER_SECOND)

    def batches(self, size: int) -> Iterator[list[int]]:
        """Numbers of the sentences that are spoken at once, those of a like length together."""
        window = WINDOW * size
        for start in range(0, len(self.sentences), window):
            near = range(start, min(start + window, len(self.sentences)))
            order = sorted(near, key=lambda i: (len(self.sentences[i].spoken), i))
            yield from (order[i : i + size] for i in range(0, len(order), size))

    def planned(self, batch: int, step: float | None = None) -> PlannedTaught:
        """What a plan says of it; `step` are the seconds that one step of generation takes."""
        expected = [len(s.spoken) / USUAL_RATE * FRAMES_PER_SECOND for s in self.sentences]
        positions = sum(max(expected[i] for i in b) for b in self.batches(batch))
        return PlannedTaught(
            dataset=self.dataset,
            spoken_as=self.spoken_as,
            sentences=len(self.sentences),
            voices=len(self.voices),
            frames=round(sum(expected)),
            positions=round(positions),
            seconds=None if step is None else round(positions * step, 1),
            digest=self.digest,
        )


@dataclass
class Teaching:
    """Everything that the base will say for a recipe."""

    tables: dict[str, Table] = field(default_factory=dict)
    """Respelling tables by language."""
    lessons: dict[str, Lesson] = field(default_factory=dict)
    """By dataset."""
    step: float | None = None
    """Estimated seconds of one step of generation on a GPU."""

    def of(self, loaded: LoadedRecipe, stage: Stage) -> list[PlannedTaught]:
        """What a stage is taught: what the base says for it, or what its words are respelled to."""
        batch = loaded.recipe.teacher.batch
        if OBJECTIVES[stage.objective].speaks:
            found = {u.dataset for u in stage.uses if teaching.has_teacher(stage, u, loaded.recipe)}
        else:
            found = {u.dataset for u in stage.uses} if OBJECTIVES[stage.objective].respells else set()
        planned = [self.lessons[d].planned(batch, self.step) for d in sorted(found) if d in self.lessons]
        if OBJECTIVES[stage.objective].speaks:
            return planned
        silent = {"voices": 0, "frames": 0, "positions": 0, "seconds": None}
        return [p.model_copy(update={**silent, "digest": _words(self.lessons[p.dataset])}) for p in planned]


def make_teaching(loaded: LoadedRecipe, base: BaseInfo, manifests: dict[str, Manifest], hashes: FileHashes, problems: Problems) -> Teaching:
    """Reads the respelling tables and spells the sentences. Adds what is wrong to `problems`."""
    recipe = loaded.recipe
    found = Teaching(step=_step(base))
    wanted = {u.dataset: s for s in recipe.stages for u in s.uses if _is_taught(loaded, s, u.dataset)}
    for language in dict.fromkeys(recipe.datasets[d].language for d in wanted):
        table = _table(loaded, base, language, problems)
        if table is not None:
            found.tables[language] = table
    voices = _voices(loaded, problems) if any(OBJECTIVES[s.objective].speaks for s in wanted.values()) else []
    listener = _listener(loaded, hashes, problems) if voices else None
    for name in wanted:
        dataset, manifest = recipe.datasets[name], manifests.get(name)
        own = recipe.languages.get(dataset.language)
        if manifest is None or (own is not None and dataset.language not in found.tables):
            continue
        sentences = [Sentence(r.line, r.text, r.text) for r in manifest.rows]
        spoken_as = dataset.language
        if own is not None and own.respelling is not None:
            spoken_as = own.respelling.language
            sentences = _spelled(sentences, found.tables[dataset.language], loaded, name, problems)
        known = [hashes.sha256(v) for v in voices if is_file(v)]
        content = [TEACHING, recipe.teacher.model_dump(mode="json", exclude={"voices"}), spoken_as, known]
        content += [[s.spoken for s in sentences], listener]
        complete = len(known) == len(voices)
        found.lessons[name] = Lesson(
            name, dataset.language, spoken_as, tuple(sentences), tuple(voices), digest(content) if complete else None
        )
    return found


def _step(base: BaseInfo) -> float | None:
    """Seconds of one step: the talker once, and the predictor once for every further codebook."""
    if base.tensors is None:
        return None
    parts = (TALKER_LAYERS, PREDICTOR_LAYERS, PREDICTOR_HEADS)
    own, others, heads = (len({n.removeprefix(f"{p}.").split(".")[0] for n in base.tensors if within(n, p)}) for p in parts)
    return (1 + heads) * CALL_SECONDS + (own + heads * others) * LAYER_SECONDS


def _is_taught(loaded: LoadedRecipe, stage: Stage, dataset: str) -> bool:
    spec = OBJECTIVES[stage.objective]
    uses = [u for u in stage.uses if u.dataset == dataset and u.dataset in loaded.recipe.datasets]
    if not spec.speaks:
        return spec.respells and bool(uses)
    return any(teaching.has_teacher(stage, u, loaded.recipe) for u in uses)


def _words(lesson: Lesson) -> str:
    """Names what words are matched to, which nobody speaks."""
    return digest([TEACHING, lesson.spoken_as, [[s.text, s.spoken] for s in lesson.sentences]])


def _listener(loaded: LoadedRecipe, hashes: FileHashes, problems: Problems) -> object:
    """The recogniser that judges what the base says, with its content; None where nobody listens."""
    evaluators = loaded.recipe.evaluators
    if loaded.recipe.teacher.max_cer is None or evaluators.asr is None:
        return None
    found, missing = find("asr", evaluators, loaded.root, loaded.node.at("evaluators", "asr", "model").place, hashes)
    problems.extend(missing)
    return [evaluators.asr.model_dump(mode="json"), found.identity]


def _voices(loaded: LoadedRecipe, problems: Problems) -> list[Path]:
    found = []
    for i, text in enumerate(teaching.voices(loaded.recipe)):
        path = loaded.path(text)
        n = loaded.node.at("teacher", "voices", i)
        if loaded.recipe.teacher.voices:  # those of datasets are judged there
            outside = boundaries.problem(path, text, n, loaded.bounds)
            if outside is not None:
                problems.append(outside)
                continue
            if not is_file(path):
                problems.append(n.problem("QR040", f"{text} is not there yet", None, "warning"))
        found.append(path)
    return found


def _table(loaded: LoadedRecipe, base: BaseInfo, language: str, problems: Problems) -> Table | None:
    own = loaded.recipe.languages.get(language)
    if own is None or own.respelling is None:
        return None
    node = loaded.node.at("languages", language, "respelling")
    where, spoken = node.at("table"), own.respelling.language
    known = base.languages
    if base.config is not None and spoken not in known:
        problems.append(node.at("language").problem("QR020", f"the base knows no language `{spoken}`", suggest(spoken, known)))
        return None
    path = loaded.path(own.respelling.table)
    outside = boundaries.problem(path, own.respelling.table, where, loaded.bounds)
    if outside is not None:
        problems.append(outside)
        return None
    if not is_file(path):
        problems.append(where.problem("QR040", f"{own.respelling.table} is not there yet", None, "warning"))
        return None
    try:
        table = read(path, loaded.shown(own.respelling.table))
    except RecipeError as e:
        problems.extend(e.problems)
        return None
    for tag, given, of in ((table.source, own.bcp47, language), (table.into, TAGS.get(spoken), spoken)):
        if given is not None and tag.split("-")[0] != given.split("-")[0]:
            message = f"the table spells `{table.source}` for readers of `{table.into}`, and `{of}` is `{given}`"
            problems.append(where.problem("QR049", message))
            return None
    return table


def _spelled(sentences: list[Sentence], table: Table, loaded: LoadedRecipe, name: str, problems: Problems) -> list[Sentence]:
    """Sentences respelled, without those that keep letters which the reader's language is not written with."""
    kept, left = [], []
    for s in sentences:
        spoken = table.spell(s.text)
        foreign = table.foreign(spoken)
        if foreign:
            left.append((s.line, foreign[0]))
        else:
            kept.append(Sentence(s.line, s.text, spoken))
    if left:
        n = loaded.node.at("datasets", name)
        line, letter = left[0]
        message = f"{len(left)} of {len(sentences)} sentences of `{name}` are left out: respelled they keep letters that `{table.into}` is not written with (line {line}: `{letter}`)"
        problems.append(n.key_problem("QR047", message, "add a rule to the table", "warning" if kept else "error"))
    return kept


def bytes_of(frames: int, groups: int) -> int:
    """Room that a lesson takes in the cache."""
    return frames * (2 * groups + TOP * (2 + 4))
