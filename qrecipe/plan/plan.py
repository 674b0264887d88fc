"""The plan: what a recipe will do, before anything happens. A pure function of the recipe, the base and the data.

What is not known yet (a base or data that is not on this machine) is None with its upper bound and a warning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from qrecipe.errors import CODES, BaseModelError, Place, Problem, Problems, RecipeError, suggest
from qrecipe.files import FileHashes, digest, is_file
from qrecipe.inputs.ballots import read_ballots
from qrecipe.inputs.bases import BUILTIN, BaseInfo, folder_of, locate, names_folder
from qrecipe.inputs.contents import Content, content_of
from qrecipe.inputs.documents import Ballot
from qrecipe.inputs.evaluators import EvaluatorModel, find, language_problem, packages_problem
from qrecipe.inputs.manifest import Manifest, Table, read_manifest
from qrecipe.inputs.replacements import Replacements
from qrecipe.plan import checks, trainable
from qrecipe.plan.fingerprints import NUMERICS, StageInputs, reward_inputs, select_inputs, stage_inputs, start_inputs
from qrecipe.plan.replacements import replacements_of
from qrecipe.plan.synthetic import SyntheticDataset, make_synthetic, planned_for
from qrecipe.plan.values import (
    Plan,
    PlannedBase,
    PlannedData,
    PlannedDataset,
    PlannedEvaluator,
    PlannedLanguage,
    PlannedStage,
    PlannedSynthetic,
    PlannedTrain,
)
from qrecipe.qwen3 import FIRST_FREE_ROW, LAST_ROW
from qrecipe.recipe import LoadedRecipe, metrics
from qrecipe.recipe.checks import gates_with_nodes
from qrecipe.recipe.dataset import SHARDS, Dataset, SpeechDataset
from qrecipe.recipe.gate import Gate, Select
from qrecipe.recipe.language import language_key_problem
from qrecipe.recipe.stage import RewardStage, Stage
from qrecipe.recipe.synthetic import is_spoken, rewarded_texts, voices
from qrecipe.source import bounds
from qrecipe.source.reader import Node


@dataclass
class Planned:
    """A plan with its sources, for whoever carries it out, and with its problems."""

    loaded: LoadedRecipe
    plan: Plan
    base: BaseInfo
    manifests: dict[str, Manifest]
    trainables: dict[str, trainable.Trainable]
    synthetic: dict[str, SyntheticDataset] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    replacements: dict[str, Replacements] = field(default_factory=dict)
    """Of the recipe's languages."""
    ballots: dict[str, list[Ballot]] = field(default_factory=dict)
    """By the pattern that gates name."""
    selects: dict[str, Select] = field(default_factory=dict)
    """By stage, as they are carried out here: `otherwise` decides where the metric cannot be measured."""

    @property
    def warnings(self) -> Problems:
        """Problems that do not keep the plan from being carried out."""
        return self.problems.warnings

    @property
    def errors(self) -> Problems:
        """Problems that do."""
        return self.problems.errors


def make_plan(loaded: LoadedRecipe, hashes: FileHashes | None = None, strict: bool = False) -> Planned:
    """Plans a recipe. Raises `BaseModelError` for a base that can never be one; other problems are in the result.

    Args:
        loaded: the recipe.
        hashes: remembered file hashes; default: the user's cache.
        strict: missing base and data are errors instead of warnings.
    """
    hashes = hashes or FileHashes()
    recipe = loaded.recipe
    planner = _Planner(loaded, _base(loaded, hashes), hashes)
    base, problems = planner.base, planner.problems
    languages = planner.languages()
    planner.check_languages()
    planner.read_ballots()
    datasets = planner.datasets()
    synthetic = planner.synthetic(datasets)
    evaluators, missing = planner.evaluators()
    rows = {k: v.token_id for k, v in languages.items() if v.token_id is not None}
    trainables = planner.trainables(rows if len(rows) == len(languages) else None)

    start = start_inputs(base.identity, languages, recipe.seed)
    identities = {need: e.identity for need, e in evaluators.items()}
    stages = planner.stages(datasets, synthetic, trainables, start.fingerprint, (identities, missing))

    # What only the whole plan shows is checked last; a template's problems say where they come from.
    planner.missing_evaluators(missing)
    problems += checks.check(checks.Context(loaded, base, rows, planner.manifests, planner.contents, trainables, hashes))
    hashes.save()
    problems = loaded.noted(problems)
    own_folder = base.folder is not None and not base.model.startswith(BUILTIN)
    plan = Plan(
        recipe=recipe.name,
        version=recipe.version,
        numerics=NUMERICS,
        seed=recipe.seed,
        start=start,
        base=PlannedBase(model=base.model, revision=base.revision, identity=base.identity, dtype=base.dtype),
        languages=languages,
        datasets=datasets,
        evaluators=evaluators,
        stages=stages,
        accept=[planner.gate_text(g) for g in recipe.accept],
        settings=recipe.model_dump(mode="json", by_alias=True, exclude={"search": True, **({"base": {"model"}} if own_folder else {})}),
    )
    problems = problems.strict() if strict else problems
    manifests, replacements = planner.manifests, planner.replacements
    return Planned(loaded, plan, base, manifests, trainables, synthetic, problems, replacements, planner.ballots, planner.selects)


def require_complete(planned: Planned) -> None:
    """Raises `RecipeError` if the plan cannot be carried out on this machine."""
    planned.problems.strict().errors.raise_any(RecipeError)


def require_data(planned: Planned) -> None:
    """Raises `RecipeError` for everything but a base that is not on this machine yet: it is fetched only for a run that can go on."""
    errors = planned.problems.strict().errors
    Problems(p for p in errors if not CODES[p.code].absent_base).raise_any(RecipeError)


def _base(loaded: LoadedRecipe, hashes: FileHashes) -> BaseInfo:
    """The base, as far as it is known. Raises `BaseModelError` for what a recipe may not read or what is no base."""
    base, node = loaded.recipe.base, loaded.node.at("base", "model")
    if names_folder(base, loaded.root):
        outside = bounds.problem(folder_of(base, loaded.root), f"the base {base.model}", node, loaded.bounds)
        if outside is not None:
            raise BaseModelError(outside)
    return locate(base, loaded.root, node.place, hashes)


def stopped_by_missing(dataset: Dataset, manifest: Manifest) -> bool:
    """Whether recordings are not on this machine yet that a run needs."""
    return dataset.on_bad_row == "stop" and manifest.missing > 0


class _Planner:
    """Resolves the parts of a recipe against its base and its data, and collects problems."""

    def __init__(self, loaded: LoadedRecipe, base: BaseInfo, hashes: FileHashes) -> None:
        self.loaded = loaded
        self.recipe = loaded.recipe
        self.base = base
        self.hashes = hashes
        self.problems = Problems([*loaded.warnings, *base.warnings])
        self.manifests: dict[str, Manifest] = {}
        """Of the datasets that are on this machine."""
        self.contents: dict[str, Content] = {}
        """Of the same."""
        self.replacements: dict[str, Replacements] = {}
        """Of the recipe's languages."""
        self.ballots: dict[str, list[Ballot]] = {}
        self.selects: dict[str, Select] = {}

    def languages(self) -> dict[str, PlannedLanguage]:
        """The recipe's languages, each with its row."""
        base = self.base
        listed = base.listed_rows()
        taken = listed | {v.token_id for v in self.recipe.languages.values() if isinstance(v.token_id, int)}
        planned: dict[str, PlannedLanguage] = {}
        for key, language in self.recipe.languages.items():
            node = self.loaded.node.at("languages", key)
            row = language.token_id if isinstance(language.token_id, int) else self._free_row(key, node, taken)
            if key in base.languages:
                help_ = "a recipe adds languages; use the language in `datasets` without declaring it"
                self.problems.append(node.key_problem("QR022", f"the base already speaks `{key}`", help_))
            if row in listed:
                owner = next((k for k, v in base.languages.items() if v == row), "a control or speaker row")
                message = f"row {row} is taken by the base: {owner}"
                self.problems.append(node.at("token_id").problem("QR022", message, "`auto` finds a free row"))
            for i, source in enumerate(language.init.sources):
                if base.config is not None and source not in base.languages:
                    n = node.at("init", "mean_of", i) if language.init.mean_of else node.at("init", "copy")
                    help_ = suggest(source, base.languages)
                    self.problems.append(n.problem("QR020", f"the base knows no language `{source}`", help_))
            self.replacements[key], wrong = replacements_of(self.loaded, key)
            self.problems += wrong
            planned[key] = PlannedLanguage(bcp47=language.bcp47, token_id=row, init=language.init.sources)
        return planned

    def _free_row(self, key: str, node: Node, taken: set[int]) -> int | None:
        """The lowest free row, which is taken then; None if the base is not known or has none."""
        if self.base.config is None:
            return None
        row = next((r for r in range(FIRST_FREE_ROW, LAST_ROW + 1) if r not in taken), None)
        if row is None:
            self.problems.append(node.key_problem("QR022", f"no free row is left for `{key}`"))
        else:
            taken.add(row)
        return row

    def check_languages(self) -> None:
        """Languages of gates and datasets are declared, or the base knows them."""
        if self.base.config is None:
            return
        gates = gates_with_nodes(self.recipe, self.loaded.node)
        used = [(gate.token, node.at("speak_as")) for gate, node in gates if gate.token is not None]
        for name, dataset in self.recipe.datasets.items():
            if dataset.language != "auto":  # reported by the recipe's own checks
                used.append((dataset.language, self.loaded.node.at("datasets", name, "language")))
        known = {*self.base.languages, *self.recipe.languages}
        misspelled = {key.lower() for key in self.recipe.languages if language_key_problem(key) is not None}  # reported with its key
        for language, n in used:
            if language not in known and language not in misspelled:
                message = f"`{language}` is neither declared under `languages` nor known to the base"
                self.problems.append(n.problem("QR020", message, suggest(language, known)))

    def datasets(self) -> dict[str, PlannedDataset]:
        """The recipe's datasets; reads their manifests."""
        planned: dict[str, PlannedDataset] = {}
        for name, dataset in self.recipe.datasets.items():
            path = self.loaded.path(dataset.path)
            outside = self._outside(name, dataset)
            self.problems += outside
            if outside or not (is_file(path) or self._is_folder(dataset, path)):
                planned[name] = PlannedDataset(kind=dataset.kind, language=dataset.language, rows=None, bad_rows=None, sha256=None)
                continue
            replaced = self.replacements.get(dataset.language, Replacements())
            table = Table(dataset.format, tuple(sorted(dataset.columns.items())), replaced)
            about = (dataset.kind, self.base.tokenizer, self.loaded.shown(dataset.path), self.loaded.bounds, table)
            manifest = self.hashes.once(path, (*about, *bounds.allowed()), partial(read_manifest, path, *about))
            self.manifests[name] = manifest
            if manifest.problems and (dataset.on_bad_row == "stop" or not manifest.rows):
                self.problems += manifest.summed()
            self.problems += manifest.notes
            missing = stopped_by_missing(dataset, manifest)
            self.contents[name] = content_of(self.loaded, dataset, manifest, self.hashes)
            planned[name] = PlannedDataset(
                kind=dataset.kind,
                language=dataset.language,
                rows=len(manifest.rows),
                bad_rows=manifest.bad_rows,
                sha256=None if missing else self.contents[name].sha256,
            )
        return planned

    @staticmethod
    def _is_folder(dataset: Dataset, path: Path) -> bool:
        """Whether a dataset is a folder of shards."""
        return dataset.format in SHARDS and path.is_dir()

    def _outside(self, name: str, dataset: Dataset) -> Problems:
        """Paths of a dataset that lead out of the recipe's repository; such a dataset is not read."""
        problems = Problems()
        for field_ in ("path", "reference"):
            path = getattr(dataset, field_, None)
            if path is not None:
                n = self.loaded.node.at("datasets", name, field_)
                outside = bounds.problem(self.loaded.root / path, path, n, self.loaded.bounds)
                problems += [outside] if outside is not None else []
        return problems

    def synthetic(self, datasets: dict[str, PlannedDataset]) -> dict[str, SyntheticDataset]:
        """Datasets that the base speaks. Of those that judge, what it says is the content, which is put into `datasets`."""
        synthetic, mistakes = make_synthetic(self.loaded, self.base, self.manifests, self.hashes)
        self.problems += mistakes
        for name in self.recipe.spoken_judges():
            inputs = [datasets[name].sha256, synthetic[name].digest if name in synthetic else None]
            content = None if None in inputs else digest(inputs)
            datasets[name] = datasets[name].model_copy(update={"sha256": content})
        return synthetic

    def trainables(self, languages: dict[str, int] | None) -> dict[str, trainable.Trainable]:
        """The trainable set of every stage, by its id. `languages` are the rows of the recipe's languages; None while some are not known."""
        resolved = {}
        for i, stage in enumerate(self.recipe.stages):
            node = self.loaded.node.at("stages", i)
            resolved[stage.id], mistakes = trainable.resolve(stage, node, self.base.tensors, languages, self.seen_rows(stage))
            self.problems += mistakes
        return resolved

    def seen_rows(self, stage: Stage) -> list[int] | None:
        """Rows of the text embedding that the stage's texts in the recipe's own languages use; None if not known."""
        if not any(t.rows == "seen" for t in stage.train):
            return []
        tokenizer = self.base.tokenizer
        if tokenizer is None:
            return None
        seen: set[int] = set()
        for use in stage.uses:
            if self.recipe.datasets[use.dataset].language not in self.recipe.languages:
                continue
            manifest = self.manifests.get(use.dataset)
            if manifest is None:
                return None
            seen |= manifest.seen_tokens
        return sorted(seen - set(tokenizer.special.values()))

    def evaluators(self) -> tuple[dict[str, PlannedEvaluator], dict[str, Problems]]:
        """The evaluators that the recipe needs, and what is missing to use each."""
        recipe = self.recipe
        missing: dict[str, Problems] = {}
        planned: dict[str, PlannedEvaluator] = {}
        measured = [g.metric for g in recipe.gates()] + [m for s in recipe.stages if s.select for m in s.select.metrics]
        needs = {s.needs for m in measured if (s := metrics.find(m)) is not None and s.needs}
        listens = any(isinstance(d, SpeechDataset) and d.filter.max_cer is not None for d in recipe.datasets.values())
        needs |= {"asr"} if recipe.evaluators.asr is not None and (recipe.teacher.max_cer is not None or listens) else set()
        for need in sorted(needs):
            settings = getattr(recipe.evaluators, need)
            if settings is None:  # reported by the recipe's own checks, unless something else decides there
                continue
            model = getattr(settings, "model", None)
            named = self.loaded.node.at("evaluators", need, "model")
            if model is not None and model.startswith((".", "/", "~")):
                folder = self.loaded.root / os.path.expanduser(model)
                outside = bounds.problem(folder, model, named, self.loaded.bounds)
                self.problems += [outside] if outside else []
            here, missing[need] = find(need, recipe.evaluators, self.loaded.root, named.place, self.hashes)
            planned[need] = PlannedEvaluator(backend=settings.backend, model=model, identity=here.identity)
            if need == "asr":
                self._check_hearing(here)
                self.problems += missing[need] if listens else []
        return planned, missing

    def _check_hearing(self, recogniser: EvaluatorModel) -> None:
        """Languages whose speech is transcribed are among the recogniser's own."""
        recipe, asr, root = self.recipe, self.recipe.evaluators.asr, self.loaded.node
        if asr is None:
            return
        listening = [(gate.metric, gate.data, node.at("data")) for gate, node in gates_with_nodes(recipe, root)]
        chosen = ((stage.select, root.at("stages", i, "select", "data")) for i, stage in enumerate(recipe.stages))
        listening += [(select.metric, select.data, node) for select, node in chosen if select is not None]
        for i, stage in enumerate(recipe.stages):
            if isinstance(stage, RewardStage) and stage.evaluators is None:
                own = [u.use for u in stage.uses if u.use in recipe.datasets and recipe.datasets[u.use].language in recipe.languages]
                parts = [(r.metric, root.at("stages", i, "reward", j, "metric")) for j, r in enumerate(stage.reward)]
                listening += [(metric, data, node) for metric, node in parts for data in own]
        transcribed: dict[str, Node] = {}
        for metric, data, node in listening:
            if data in recipe.datasets and (spec := metrics.find(metric)) is not None and spec.needs == "asr":
                transcribed.setdefault(recipe.datasets[data].language, node)
        if recipe.teacher.max_cer is not None:
            heard = (recipe.datasets[u.dataset].language for s in recipe.stages for u in s.uses if is_spoken(s, u, recipe))
            for language in heard:
                transcribed.setdefault(language, root.at("teacher", "max_cer"))
        tags = {**self.base.tags, **recipe.tags()}
        spoken = recipe.languages.keys() | self.base.languages.keys()  # another one is reported where the dataset names it
        for language, node in transcribed.items():
            unknown = language_problem(asr, recogniser, language, tags.get(language), node.place) if language in spoken else None
            self.problems += [unknown] if unknown else []

    def rewards(self, stage: Stage) -> tuple[list[Any] | None, list[str | None]]:
        """Inputs of a stage's rewards, and hashes of the voices that its sentences are spoken in. Reports missing evaluators."""
        if not isinstance(stage, RewardStage):
            return None, []
        node = self.loaded.node.at("stages", self.recipe.stages.index(stage))
        evaluators, identities = stage.evaluators or self.recipe.evaluators, dict[str, str | None]()
        for i, reward in enumerate(stage.reward):
            spec, at = metrics.find(reward.metric), node.at("reward", i, "metric")
            if spec is None or (spec.needs is not None and getattr(evaluators, spec.needs) is None):
                continue  # reported by the recipe's own checks
            lacking: dict[str, Problems] = {}
            if spec.needs is not None:
                place = (node if stage.evaluators is not None else self.loaded.node).at("evaluators", spec.needs, "model").place
                model, lacking[spec.needs] = find(spec.needs, evaluators, self.loaded.root, place, self.hashes)
                identities[spec.needs] = model.identity
            known = {p.message for p in self.problems}
            self.problems += [p for p in self._lacking(spec, lacking, at) if p.message not in known]
        spoken = {u.dataset for u in stage.uses} & set(rewarded_texts(self.recipe))
        paths = [self.loaded.path(text) for text in voices(self.recipe)] if spoken else []
        hashes = [self.hashes.sha256(v) if is_file(v) and self._may_read(v) else None for v in paths]
        return reward_inputs(stage, self.recipe, identities), hashes

    def _may_read(self, path: Path) -> bool:
        return bounds.problem(path, str(path), self.loaded.node, self.loaded.bounds) is None

    def read_ballots(self) -> None:
        """Reads the ballots of every gate, each pattern once, and reports those that cannot be counted."""
        for gate in self.recipe.gates():
            if gate.ballots is not None and gate.ballots not in self.ballots:
                ballots, problems = read_ballots(self.loaded.root, gate.ballots, self.loaded.bounds)
                self.ballots[gate.ballots] = ballots
                shown = [replace(p, place=Place(self.loaded.shown(p.place.file))) for p in problems]
                self.problems += shown

    def gate_text(self, gate: Gate) -> str:
        """A gate in one line; one that counts ballots names their number and content, so that new votes are another plan."""
        if gate.ballots is None:
            return gate.label()
        ballots = self.ballots[gate.ballots]
        content = digest(sorted(b.sha256 for b in ballots))[:12]
        return f"{gate.label()} ({len(ballots)} ballots, {content})"

    def stages(
        self,
        datasets: dict[str, PlannedDataset],
        synthetic: dict[str, SyntheticDataset],
        trainables: dict[str, trainable.Trainable],
        start: str | None,
        evaluators: tuple[dict[str, str | None], dict[str, Problems]],
    ) -> list[PlannedStage]:
        """Every stage starts from the one before it, the first from `start`, and its fingerprint holds that of its start.

        `evaluators` are the identities of those that are here, and what is missing of the others.
        """
        recipe, (identities, missing), before = self.recipe, evaluators, start
        contents = {name: d.sha256 for name, d in datasets.items()}
        stages = []
        for stage in recipe.stages:
            resolved, taught = trainables[stage.id], planned_for(self.loaded, stage, synthetic)
            select = self.decided(stage.select, missing)
            if select is not None:
                self.selects[stage.id] = select
            measured = select_inputs(select, recipe.evaluation, recipe.evaluators, identities)
            heard, voice_hashes = self.rewards(stage)
            measured = measured if heard is None else [measured, heard]
            inputs = stage_inputs(stage, measured, contents, [*(t.digest for t in taught), *voice_hashes], resolved, before)
            before = inputs.fingerprint
            stages.append(self._stage(stage.model_copy(update={"select": select}), datasets, resolved, inputs, taught))
        return stages

    def _stage(
        self,
        stage: Stage,
        datasets: dict[str, PlannedDataset],
        resolved: trainable.Trainable,
        inputs: StageInputs,
        taught: list[PlannedSynthetic],
    ) -> PlannedStage:
        known = self.base.tensors is not None
        return PlannedStage(
            id=stage.id,
            objective=stage.objective,
            data=[
                PlannedData(dataset=u.name, language=datasets[u.dataset].language, share=u.share, rows=datasets[u.dataset].rows)
                for u in stage.uses
            ],
            taught=taught,
            trainable=[_train(g) for g in resolved.groups],
            parameters=resolved.parameters if known else None,
            parameters_max=resolved.parameters_max if known else None,
            epochs=stage.epochs,
            steps=stage.steps,
            select=f"{stage.select.metric}({stage.select.data}) every {stage.select.every} steps" if stage.select else None,
            gates=[self.gate_text(g) for g in stage.gates],
            on_pass=stage.on_pass,
            on_fail=stage.on_fail,
            fingerprint=inputs.fingerprint,
            inputs=inputs,
        )

    def missing_evaluators(self, missing: dict[str, Problems]) -> None:
        """Reports once what several gates or `select` lack, and the optional gates that are skipped for it."""
        reported = {p.message for p in self.problems}
        skipped: dict[str, list[tuple[str, Node, Problem]]] = {}
        for label, name, optional, metric in self._measurements():
            lacking = self._lacking(metrics.spec_of(name), missing, metric)
            if lacking and optional:
                skipped.setdefault(lacking[0].message, []).append((label, metric, lacking[0]))
            else:
                self.problems += [p for p in lacking if p.message not in reported]
                reported |= {p.message for p in lacking}
        for why, gates in skipped.items():
            (label, metric, lack), more = gates[0], len(gates) - 1
            also = f" and {more} other{'s' if more > 1 else ''}" if more else ""
            self.problems.append(metric.problem("QR082", f"{label}{also} will be skipped: {why}", lack.help))

    def _lacking(self, spec: metrics.MetricSpec, missing: dict[str, Problems], metric: Node) -> list[Problem]:
        """Reasons why a metric, whose name is the node, cannot be measured on this machine."""
        lacking = list(missing.get(spec.needs, []) if spec.needs else [])
        packages = packages_problem(spec.packages, spec.extra, f"`{spec.name}`", metric.place)
        if packages is not None and not any(p.code == "QR080" for p in lacking):
            lacking.append(packages)
        return lacking

    def decided(self, select: Select | None, missing: dict[str, Problems]) -> Select | None:
        """A `select` as it is carried out here: by `otherwise` where its metric cannot be measured."""
        spec = metrics.find(select.metric) if select is not None else None
        if select is None or select.otherwise is None or spec is None:
            return select
        unnamed = spec.needs is not None and getattr(self.recipe.evaluators, spec.needs) is None
        here = not unnamed and not self._lacking(spec, missing, self.loaded.node)
        return select if here else select.model_copy(update={"metric": select.otherwise})

    def _measurements(self) -> Iterator[tuple[str, str, bool, Node]]:
        """(Label, metric, whether it may be skipped, its node) of every gate, then of every `select`."""
        for gate, node in gates_with_nodes(self.recipe, self.loaded.node):
            yield gate.label(), gate.metric, gate.optional, node.at("metric")
        for i, stage in enumerate(self.recipe.stages):
            select = stage.select
            if select is None:
                continue
            at = self.loaded.node.at("stages", i, "select", "metric")
            if select.otherwise is None or self.recipe.evaluators.asr is not None:
                yield f"`{select.metric}` in `select` of {stage.id}", select.metric, select.otherwise is not None, at
            yield from ((f"`select` of {stage.id}", b.metric, False, at) for b in select.bounds)


def _train(group: trainable.Group) -> PlannedTrain:
    train, rows = group.train, group.rows
    return PlannedTrain(
        match=train.patterns,
        except_=list(train.except_),
        rows=train.rows,
        tensors=list(group.tensors),
        rows_count=None if rows is None else len(rows),
        rows_sha256=None if rows is None else digest(list(rows)),
        parameters=group.parameters,
        parameters_max=group.parameters_max,
        lr=train.lr,
        weight_decay=train.weight_decay,
        lora=train.lora.model_dump() if train.lora is not None else None,
    )
