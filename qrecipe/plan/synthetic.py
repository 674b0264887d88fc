"""Synthetic datasets: which sentences the base speaks for stages to learn from, spelled how, in whose voice. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qrecipe.errors import Problems, RecipeError, Severity, suggest
from qrecipe.files import digest, is_file
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import BaseInfo
from qrecipe.inputs.evaluators import find
from qrecipe.inputs.manifest import Manifest
from qrecipe.plan.fingerprints import GENERATION
from qrecipe.plan.values import PlannedSynthetic
from qrecipe.qwen3 import FRAMES_PER_SECOND, PREDICTOR_HEADS, PREDICTOR_LAYERS, TALKER_LAYERS, within
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.respelling import RespellingTable, read
from qrecipe.recipe.stage import Stage, Use
from qrecipe.recipe.synthetic import is_spoken, rewarded_texts, voices
from qrecipe.source import bounds, paths
from qrecipe.source.reader import Node

SYNTHESIS = 1
"""Raised whenever the base would say something else for the same dataset."""
TOP = 64
"""Codes of the base's distribution that are stored at every frame."""
USUAL_RATE = 13.0
"""Characters a second that readers speak; only for estimates."""
GPU_BATCH = 256
"""Sentences that a GPU speaks at once at least."""
LAYER_SECONDS = 8e-5
"""Seconds of a decoder layer for one position of `GPU_BATCH` rows, for estimates: a frame of the 1.7B shape takes 8.4 ms on an H200."""
WINDOW = 8
"""Batches within which sentences are sorted by length. What is added at the end of a file leaves earlier windows as they were."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of a text dataset."""

    line: int
    """Line of the manifest."""
    text: str
    """Read by the student."""
    spoken: str
    """Read by the base: the same, or respelled."""


@dataclass(frozen=True)
class SyntheticDataset:
    """A text dataset that the base speaks, or whose words it respells."""

    name: str
    language: str
    """The language that the student reads it in."""
    spoken_as: str
    """The language that the base reads it in."""
    sentences: tuple[Sentence, ...]
    voices: tuple[Path, ...]
    digest: str | None
    """Names what the base will say; None while a voice is not on this machine."""
    table: RespellingTable | None = None
    """Respells the sentences; None where the base speaks the language itself."""
    step_seconds: float | None = None
    """Estimated time of one step of generation on a GPU; None if the base's shape is not known."""

    def cap(self, i: int, slowest: float) -> int:
        """Frames at which a sentence is cut: `slowest` characters a second, and one second."""
        return cap_of_text(self.sentences[i].spoken, slowest)

    def voice(self, i: int) -> Path:
        """The recording in whose voice a sentence is spoken."""
        return self.voices[i % len(self.voices)]

    def batches(self, size: int) -> Iterator[list[int]]:
        """Numbers of the sentences that are spoken at once, those of a like length together."""
        window = WINDOW * size
        for start in range(0, len(self.sentences), window):
            near = range(start, min(start + window, len(self.sentences)))
            order = sorted(near, key=lambda i: (len(self.sentences[i].spoken), i))
            yield from (order[i : i + size] for i in range(0, len(order), size))

    def planned(self, batch: int, takes: int) -> PlannedSynthetic:
        """The entry of a plan, as on a GPU; `batch` sentences are spoken at once, or `GPU_BATCH` if that is more, and each `takes` times."""
        expected = [frames_of_text(s.spoken) for s in self.sentences]
        positions = takes * sum(max(expected[i] for i in b) for b in self.batches(max(batch, GPU_BATCH)))
        return PlannedSynthetic(
            dataset=self.name,
            spoken_as=self.spoken_as,
            sentences=len(self.sentences),
            voices=len(self.voices),
            frames=round(takes * sum(expected)),
            positions=round(positions),
            seconds=None if self.step_seconds is None else round(positions * self.step_seconds, 1),
            digest=self.digest,
        )


def planned_for(loaded: LoadedRecipe, stage: Stage, datasets: dict[str, SyntheticDataset]) -> list[PlannedSynthetic]:
    """Entries of a stage's plan: datasets that the base speaks for it, or whose words it matches with their respellings."""
    names = sorted({u.dataset for u in stage.uses if u.dataset in datasets and _is_synthetic(loaded, stage, u)})
    entries = [datasets[n].planned(loaded.recipe.teacher.batch, loaded.recipe.teacher.takes) for n in names]
    if OBJECTIVES[stage.objective].speaks:
        return entries
    silent = {"voices": 0, "frames": 0, "positions": 0, "seconds": None}
    return [e.model_copy(update={**silent, "digest": _words(datasets[e.dataset])}) for e in entries]


def make_synthetic(
    loaded: LoadedRecipe, base: BaseInfo, manifests: dict[str, Manifest], hashes: FileHashes
) -> tuple[dict[str, SyntheticDataset], Problems]:
    """Reads the respelling tables and spells the sentences, by dataset."""
    recipe = loaded.recipe
    reader = _Sources(loaded, base, hashes)
    stages = {u.dataset: s for s in recipe.stages for u in s.uses if _is_synthetic(loaded, s, u)}
    judges = recipe.spoken_judges()
    names = dict.fromkeys([*stages, *judges])
    tables = {language: reader.table(language) for language in dict.fromkeys(recipe.datasets[d].language for d in names)}
    speaks = any(OBJECTIVES[s.objective].speaks for s in stages.values()) or rewarded_texts(recipe)
    recordings = reader.voices() if judges or speaks or recipe.read_judges() else []
    listener = reader.listener() if recordings else None
    voice_hashes = [hashes.sha256(v) for v in recordings if is_file(v)]
    step, datasets = _step(base), {}
    for name in names:
        language, manifest = recipe.datasets[name].language, manifests.get(name)
        own, table = recipe.languages.get(language), tables[language]
        if manifest is None or (own is not None and table is None):
            continue
        sentences = [Sentence(r.line, r.text, r.text) for r in manifest.rows]
        spoken_as = language
        if own is not None and own.respelling is not None and table is not None:
            spoken_as = own.respelling.language
            sentences = reader.spelled(sentences, table, name)
        once = {"takes"} if recipe.teacher.takes == 1 else set()
        settings = recipe.teacher.model_dump(mode="json", exclude={"voices", "batch", *once})
        content = [SYNTHESIS, GENERATION, settings, spoken_as, voice_hashes]
        content += [[s.spoken for s in sentences], listener]
        key = digest(content) if len(voice_hashes) == len(recordings) else None
        datasets[name] = SyntheticDataset(name, language, spoken_as, tuple(sentences), tuple(recordings), key, table, step)
    return datasets, reader.problems


def voice_hashes(loaded: LoadedRecipe, hashes: FileHashes) -> list[str | None]:
    """Hashes of the recordings in whose voices sentences are spoken; None of one that is not here or may not be read."""
    paths = [loaded.path(text) for text in voices(loaded.recipe)]
    readable = [is_file(v) and bounds.problem(v, str(v), loaded.node, loaded.bounds) is None for v in paths]
    return [hashes.sha256(v) if may else None for v, may in zip(paths, readable, strict=True)]


def _step(base: BaseInfo) -> float | None:
    """Seconds of one step: the talker once, and the predictor once for every further codebook."""
    if base.tensors is None:
        return None
    parts = (TALKER_LAYERS, PREDICTOR_LAYERS, PREDICTOR_HEADS)
    own, others, heads = (len({n.removeprefix(f"{p}.").split(".")[0] for n in base.tensors if within(n, p)}) for p in parts)
    return (own + heads * others) * LAYER_SECONDS


def _is_synthetic(loaded: LoadedRecipe, stage: Stage, use: Use) -> bool:
    """Whether a stage learns from what the base says for a dataset, or from its words respelled."""
    spec = OBJECTIVES[stage.objective]
    if spec.speaks:
        return is_spoken(stage, use, loaded.recipe)
    return spec.respells and use.dataset in loaded.recipe.datasets


def _words(dataset: SyntheticDataset) -> str:
    """Names the pairs of words and respellings, which nobody speaks."""
    return digest([SYNTHESIS, dataset.spoken_as, [[s.text, s.spoken] for s in dataset.sentences]])


class _Sources:
    """Reads the files that synthetic datasets are made from, and collects problems."""

    def __init__(self, loaded: LoadedRecipe, base: BaseInfo, hashes: FileHashes) -> None:
        self.loaded = loaded
        self.base = base
        self.hashes = hashes
        self.problems = Problems()

    def listener(self) -> object:
        """The recogniser that judges what the base says, with its content; None where nobody listens."""
        evaluators = self.loaded.recipe.evaluators
        if not self.loaded.recipe.teacher.heard or evaluators.asr is None:
            return None
        place = self.loaded.node.at("evaluators", "asr", "model").place
        model, missing = find("asr", evaluators, self.loaded.root, place, self.hashes)
        self.problems += missing
        return [evaluators.asr.model_dump(mode="json"), model.identity]

    def voices(self) -> list[Path]:
        """Recordings in whose voices the base speaks."""
        stated = self.loaded.recipe.teacher.voices  # those of datasets are checked there
        return [
            self.loaded.path(text)
            for i, text in enumerate(voices(self.loaded.recipe))
            if not stated or self._may_read(text, self.loaded.node.at("teacher", "voices", i))
        ]

    def _may_read(self, text: str, n: Node) -> bool:
        """Whether a recipe may read a file. One that is not on this machine yet is reported."""
        outside = bounds.problem(self.loaded.path(text), text, n, self.loaded.bounds)
        if outside is not None:
            self.problems.append(outside)
        elif not is_file(self.loaded.path(text)):
            self.problems.append(n.problem("QR040", f"{text} is not there yet", paths.hint(text, self.loaded.root), "warning"))
        return outside is None

    def table(self, language: str) -> RespellingTable | None:
        """The respelling table of a language; None if it has none that can be used."""
        own = self.loaded.recipe.languages.get(language)
        if own is None or own.respelling is None:
            return None
        node, file, spoken = self.loaded.node.at("languages", language, "respelling"), own.respelling.table, own.respelling.language
        where = node.at("table")
        if self.base.config is not None and spoken not in self.base.languages:
            help_ = suggest(spoken, self.base.languages)
            self.problems.append(node.at("language").problem("QR020", f"the base knows no language `{spoken}`", help_))
            return None
        if not self._may_read(file, where) or not is_file(self.loaded.path(file)):
            return None
        try:
            table = read(self.loaded.path(file), self.loaded.shown(file))
        except RecipeError as e:
            self.problems += e.problems
            return None
        for tag, expected, of in ((table.source, own.bcp47, language), (table.into, self.base.tags.get(spoken), spoken)):
            if expected is not None and tag.split("-")[0] != expected.split("-")[0]:
                message = f"the table spells `{table.source}` for readers of `{table.into}`, and `{of}` is `{expected}`"
                self.problems.append(where.problem("QR049", message))
                return None
        return table

    def spelled(self, sentences: list[Sentence], table: RespellingTable, dataset: str) -> list[Sentence]:
        """Sentences respelled, without those that keep letters which the reader's language is not written with."""
        spelled, foreign_letters = [], []
        for s in sentences:
            spoken = table.spell(s.text)
            foreign = table.foreign(spoken)
            if foreign:
                foreign_letters.append((s.line, foreign[0]))
            else:
                spelled.append(Sentence(s.line, s.text, spoken))
        if foreign_letters:
            n = self.loaded.node.at("datasets", dataset)
            line, letter = foreign_letters[0]
            message = (
                f"{len(foreign_letters)} of {len(sentences)} sentences of `{dataset}` are left out: respelled they keep letters "
                f"that `{table.into}` is not written with (line {line}: `{letter}`)"
            )
            severity: Severity = "warning" if spelled else "error"
            self.problems.append(n.key_problem("QR047", message, "add a rule to the table", severity))
        return spelled


def frames_of_text(text: str) -> float:
    """Frames that readers usually take for a text."""
    return len(text) / USUAL_RATE * FRAMES_PER_SECOND


def cap_of_text(text: str, slowest: float) -> int:
    """Frames at which a text is cut that nobody has read: `slowest` characters a second, and one second."""
    return math.ceil((len(text) / slowest + 1.0) * FRAMES_PER_SECOND)


def bytes_of(frames: int, groups: int) -> int:
    """Bytes that the synthetic speech of so many frames takes in the cache."""
    return frames * (2 * groups + TOP * (2 + 4))
