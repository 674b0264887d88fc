"""The plan: what a recipe will do, before anything happens. A pure function of the recipe, the base and the data.

What is not known yet (a base or data that is not on this machine) is None with its upper bound and a warning.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from qrecipe.errors import BaseModelError, Place, Problems
from qrecipe.files import digest, is_file
from qrecipe.hashes import FileHashes
from qrecipe.inputs.ballots import read_ballots
from qrecipe.inputs.bases import BUILTIN, BaseInfo, locate
from qrecipe.inputs.contents import content_of
from qrecipe.inputs.documents.ballots import Ballot
from qrecipe.inputs.manifest import Manifest, Table, read_manifest
from qrecipe.inputs.replacements import Replacements
from qrecipe.inputs.snapshots import folder_of, names_folder
from qrecipe.plan import checks, trainable
from qrecipe.plan.evaluators import EvaluatorPlanner
from qrecipe.plan.fingerprints import NUMERICS, StageInputs, select_inputs, stage_inputs, start_inputs
from qrecipe.plan.languages import check_languages, plan_languages
from qrecipe.plan.planned import Planned
from qrecipe.plan.replacements import replacements_of
from qrecipe.plan.synthetic import SyntheticDataset, make_synthetic, planned_for, voice_hashes
from qrecipe.plan.values import (
    Plan,
    PlannedBase,
    PlannedData,
    PlannedDataset,
    PlannedLanguage,
    PlannedStage,
    PlannedSynthetic,
    PlannedTrain,
)
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.dataset import SHARDS, Dataset
from qrecipe.recipe.gate import Gate, Select
from qrecipe.recipe.stage import Stage
from qrecipe.source import bounds


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
    planner.read_ballots()
    datasets = planner.datasets()
    synthetic = planner.synthetic(datasets)
    evaluators = planner.evaluators.evaluators()
    rows = {k: v.token_id for k, v in languages.items() if v.token_id is not None}
    trainables = planner.trainables(rows if len(rows) == len(languages) else None)

    start = start_inputs(base.identity, languages, recipe.seed)
    identities = {need: e.identity for need, e in evaluators.items()}
    stages = planner.stages(datasets, synthetic, trainables, start.fingerprint, identities)

    # What only the whole plan shows is checked last; a template's problems say where they come from.
    planner.evaluators.report_missing()
    problems += checks.check(checks.Context(loaded, base, rows, planner.manifests, trainables, hashes))
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


def _base(loaded: LoadedRecipe, hashes: FileHashes) -> BaseInfo:
    """The base, as far as it is known. Raises `BaseModelError` for what a recipe may not read or what is no base."""
    base, node = loaded.recipe.base, loaded.node.at("base", "model")
    if names_folder(base, loaded.root):
        outside = bounds.problem(folder_of(base, loaded.root), f"the base {base.model}", node, loaded.bounds)
        if outside is not None:
            raise BaseModelError(outside)
    return locate(base, loaded.root, node.place, hashes)


class _Planner:
    """Resolves the parts of a recipe against its base and its data, and collects problems."""

    def __init__(self, loaded: LoadedRecipe, base: BaseInfo, hashes: FileHashes) -> None:
        self.loaded = loaded
        self.recipe = loaded.recipe
        self.base = base
        self.hashes = hashes
        self.problems = Problems([*loaded.warnings, *base.warnings])
        self.evaluators = EvaluatorPlanner(loaded, base, hashes, self.problems)
        self.manifests: dict[str, Manifest] = {}
        """Of the datasets that are on this machine."""
        self.replacements: dict[str, Replacements] = {}
        """Of the recipe's languages."""
        self.ballots: dict[str, list[Ballot]] = {}
        self.selects: dict[str, Select] = {}

    def languages(self) -> dict[str, PlannedLanguage]:
        """The recipe's languages, each with its row."""
        planned, problems = plan_languages(self.loaded, self.base)
        self.problems += problems
        for key in planned:
            self.replacements[key], wrong = replacements_of(self.loaded, key)
            self.problems += wrong
        self.problems += check_languages(self.loaded, self.base)
        return planned

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
            table = Table(dataset.format, tuple(sorted(dataset.columns.items())), replaced, dataset.language, self.loaded.bounds)
            about = (dataset.kind, self.base.tokenizer, self.loaded.shown(dataset.path), table)
            manifest = self.hashes.once(
                (path, *about, *bounds.allowed()), partial(read_manifest, path, *about, self.hashes), Manifest.is_current
            )
            self.manifests[name] = manifest
            if manifest.problems and (dataset.on_bad_row == "stop" or not manifest.rows):
                self.problems += manifest.summed()
            self.problems += manifest.notes
            missing = dataset.on_bad_row == "stop" and manifest.missing > 0  # recordings that a run needs are not here yet
            content = content_of(self.loaded, dataset, manifest, self.hashes)
            planned[name] = PlannedDataset(
                kind=dataset.kind,
                language=dataset.language,
                rows=len(manifest.rows),
                bad_rows=manifest.bad_rows,
                sha256=None if missing else content,
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
        """Datasets that the base speaks. Of texts that judge, what it says, or in whose voices the model reads them, is part of the
        content, which is put into `datasets`."""
        synthetic, mistakes = make_synthetic(self.loaded, self.base, self.manifests, self.hashes)
        self.problems += mistakes
        for name in self.recipe.spoken_judges():
            inputs = [datasets[name].sha256, synthetic[name].digest if name in synthetic else None]
            content = None if None in inputs else digest(inputs)
            datasets[name] = datasets[name].model_copy(update={"sha256": content})
        for name in self.recipe.read_judges():
            inputs = [datasets[name].sha256, *voice_hashes(self.loaded, self.hashes)]
            datasets[name] = datasets[name].model_copy(update={"sha256": None if None in inputs else digest(inputs)})
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
        identities: dict[str, str | None],
    ) -> list[PlannedStage]:
        """Every stage starts from the one before it, the first from `start`, and its fingerprint holds that of its start.

        `identities` are those of the evaluators.
        """
        recipe, before = self.recipe, start
        contents = {name: d.sha256 for name, d in datasets.items()}
        stages = []
        for stage in recipe.stages:
            resolved, taught = trainables[stage.id], planned_for(self.loaded, stage, synthetic)
            select = self.evaluators.decided(stage.select)
            if select is not None:
                self.selects[stage.id] = select
            measured = select_inputs(select, recipe.evaluation, recipe.evaluators, identities)
            heard, voice_hashes = self.evaluators.rewards(stage)
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
