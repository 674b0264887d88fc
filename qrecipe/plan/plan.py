"""The plan: what a recipe will do, before anything happens. A pure function of the recipe, the base and the data.

What is not known yet (a base or data that is not on this machine) is None with its upper bound and a warning.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial

from qrecipe.errors import CODES, BaseModelError, Problem, Problems, RecipeError, suggest
from qrecipe.files import FileHashes, digest, is_file
from qrecipe.plan import boundaries, checks, trainable
from qrecipe.plan.bases import BUILTIN, BaseInfo, folder_of, locate, names_folder
from qrecipe.plan.contents import dataset_hash
from qrecipe.plan.evaluators import find, packages_problem
from qrecipe.plan.fingerprints import NUMERICS, StageInputs, stage_inputs, start_inputs
from qrecipe.plan.manifest import Manifest, read_manifest
from qrecipe.plan.teaching import Teaching, make_teaching
from qrecipe.plan.values import (
    Plan,
    PlannedBase,
    PlannedData,
    PlannedDataset,
    PlannedEvaluator,
    PlannedLanguage,
    PlannedStage,
    PlannedTaught,
    PlannedTrain,
)
from qrecipe.qwen3 import FIRST_FREE_ROW, LAST_ROW
from qrecipe.recipe import LoadedRecipe, metrics
from qrecipe.recipe.checks import gates_with_nodes
from qrecipe.recipe.dataset import Dataset
from qrecipe.recipe.reader import Node
from qrecipe.recipe.stage import Stage


@dataclass
class Planned:
    """A plan with what it was made from, for whoever carries it out, and with its problems."""

    loaded: LoadedRecipe
    plan: Plan
    base: BaseInfo
    manifests: dict[str, Manifest]
    trainables: dict[str, trainable.Trainable]
    teaching: Teaching = field(default_factory=Teaching)
    problems: Problems = field(default_factory=Problems)

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
    recipe, node = loaded.recipe, loaded.node
    problems = Problems(loaded.warnings)
    where = node.at("base", "model")
    if names_folder(recipe.base, loaded.root):
        outside = boundaries.problem(folder_of(recipe.base, loaded.root), f"the base {recipe.base.model}", where, loaded.bounds)
        if outside is not None:
            raise BaseModelError(outside)
    base = locate(recipe.base, loaded.root, where.place, hashes)
    problems.extend(base.warnings)
    languages = _languages(loaded, base, problems)
    _dataset_languages(loaded, base, problems)
    manifests, datasets = _datasets(loaded, base, hashes, problems)
    lessons = make_teaching(loaded, base, manifests, hashes, problems)
    stages: list[PlannedStage] = []
    trainables: dict[str, trainable.Trainable] = {}
    start = start_inputs(base.identity, languages, recipe.seed)
    before = start.fingerprint
    contents = {name: d.sha256 for name, d in datasets.items()}
    rows = {k: v.token_id for k, v in languages.items() if v.token_id is not None}
    known_rows = rows if len(rows) == len(languages) else None
    for i, stage in enumerate(recipe.stages):
        where = node.at("stages", i)
        seen = _seen(loaded, stage, manifests, base)
        resolved, found = trainable.resolve(stage, where, base.tensors, known_rows, seen)
        problems.extend(found)
        if base.tensors is None:
            resolved = trainable.Trainable()
        trainables[stage.id] = resolved
        taught = lessons.of(loaded, stage)
        inputs = stage_inputs(stage, recipe.evaluation, contents, [t.digest for t in taught], resolved, before)
        before = inputs.fingerprint
        stages.append(_stage(stage, datasets, resolved, base.tensors is not None, inputs, taught))
    evaluators = _evaluators(loaded, hashes, problems)
    problems.extend(checks.check(checks.Context(loaded, base, rows, manifests, trainables, hashes)))
    hashes.save()
    problems = loaded.noted(problems)
    if strict:
        problems = problems.strict()
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
        accept=[g.label() for g in recipe.accept],
        settings=recipe.model_dump(
            mode="json", by_alias=True, exclude={"base": {"model"}} if base.folder and not base.model.startswith(BUILTIN) else None
        ),
    )
    return Planned(loaded, plan, base, manifests, trainables, lessons, problems)


def require_complete(planned: Planned) -> None:
    """Raises `RecipeError` if the plan cannot be carried out on this machine."""
    errors = planned.problems.strict().errors
    if errors:
        raise RecipeError(errors)


def require_data(planned: Planned) -> None:
    """Raises `RecipeError` for everything but a base that is not on this machine yet: it is fetched only for a run that can go on."""
    errors = [p for p in planned.problems.strict().errors if not CODES[p.code].absent_base]
    if errors:
        raise RecipeError(errors)


def _languages(loaded: LoadedRecipe, base: BaseInfo, problems: Problems) -> dict[str, PlannedLanguage]:
    listed = base.listed_rows()
    fixed = {v.token_id for v in loaded.recipe.languages.values() if isinstance(v.token_id, int)}
    found: dict[str, PlannedLanguage] = {}
    for key, language in loaded.recipe.languages.items():
        node = loaded.node.at("languages", key)
        token_id: int | None
        if key in base.languages:
            help_ = "a recipe adds languages; use the language in `datasets` without declaring it"
            problems.append(node.key_problem("QR022", f"the base already speaks `{key}`", help_))
        if isinstance(language.token_id, int):
            token_id = language.token_id
            if token_id in listed:
                owner = next((k for k, v in base.languages.items() if v == token_id), "a control or speaker row")
                message = f"row {token_id} is taken by the base: {owner}"
                problems.append(node.at("token_id").problem("QR022", message, "`auto` finds a free row"))
        elif base.config is None:
            token_id = None
        else:
            taken = listed | fixed | {v.token_id for v in found.values() if v.token_id is not None}
            token_id = next((r for r in range(FIRST_FREE_ROW, LAST_ROW + 1) if r not in taken), None)
            if token_id is None:
                problems.append(node.key_problem("QR022", f"no free row is left for `{key}`"))
        for i, source in enumerate(language.init.sources):
            if base.config is not None and source not in base.languages:
                n = node.at("init", "mean_of", i) if language.init.mean_of else node.at("init", "copy")
                problems.append(n.problem("QR020", f"the base knows no language `{source}`", suggest(source, base.languages)))
        found[key] = PlannedLanguage(bcp47=language.bcp47, token_id=token_id, init=language.init.sources)
    return found


def _dataset_languages(loaded: LoadedRecipe, base: BaseInfo, problems: Problems) -> None:
    if base.config is None:
        return
    known = {*base.languages, *loaded.recipe.languages}
    for gate, node in gates_with_nodes(loaded.recipe, loaded.node):
        if gate.speak_as is not None and gate.speak_as not in known:
            n = node.at("speak_as")
            message = f"`{gate.speak_as}` is neither declared under `languages` nor known to the base"
            problems.append(n.problem("QR020", message, suggest(gate.speak_as, known)))
    for name, dataset in loaded.recipe.datasets.items():
        if dataset.language not in known and dataset.language != "auto":  # `auto` is said already
            n = loaded.node.at("datasets", name, "language")
            message = f"`{dataset.language}` is neither declared under `languages` nor known to the base"
            problems.append(n.problem("QR020", message, suggest(dataset.language, known)))


def _datasets(
    loaded: LoadedRecipe, base: BaseInfo, hashes: FileHashes, problems: Problems
) -> tuple[dict[str, Manifest], dict[str, PlannedDataset]]:
    manifests: dict[str, Manifest] = {}
    planned: dict[str, PlannedDataset] = {}
    for name, dataset in loaded.recipe.datasets.items():
        path = loaded.path(dataset.path)
        outside = _outside(loaded, name, dataset)
        problems.extend(outside)
        if outside or not is_file(path):
            planned[name] = PlannedDataset(kind=dataset.kind, language=dataset.language, rows=None, bad_rows=None, sha256=None)
            continue
        about = (dataset.kind, base.tokenizer, loaded.shown(dataset.path), loaded.bounds)
        manifest = hashes.once(path, (*about, *boundaries.allowed()), partial(read_manifest, path, *about))
        manifests[name] = manifest
        if manifest.problems and (dataset.on_bad_row == "stop" or not manifest.rows):
            problems.extend(_summed(manifest))
        planned[name] = PlannedDataset(
            kind=dataset.kind,
            language=dataset.language,
            rows=len(manifest.rows),
            bad_rows=len(manifest.problems),
            sha256=None if stopped_by_missing(dataset, manifest) else dataset_hash(loaded, dataset, manifest, hashes),
        )
    return manifests, planned


def _outside(loaded: LoadedRecipe, name: str, dataset: Dataset) -> list[Problem]:
    """Paths of a dataset that lead out of the recipe's repository; such a dataset is not read."""
    given = {"path": dataset.path, "reference": getattr(dataset, "reference", None)}
    found = (
        boundaries.problem(loaded.root / path, path, loaded.node.at("datasets", name, key), loaded.bounds)
        for key, path in given.items()
        if path is not None
    )
    return [p for p in found if p is not None]


def stopped_by_missing(dataset: Dataset, manifest: Manifest) -> bool:
    """Whether recordings are not on this machine yet that a run needs."""
    return dataset.on_bad_row == "stop" and bool(manifest.problems.warnings)


def _summed(manifest: Manifest) -> list[Problem]:
    """A manifest's problems; missing recordings, of which there may be thousands, as one."""
    missing: list[Problem] = manifest.problems.warnings
    if len(missing) > 1:
        first = missing[0]
        missing = [replace(first, message=f"{first.message}; {len(missing)} recordings are missing in all")]
    return [*manifest.problems.errors, *missing]


def _seen(loaded: LoadedRecipe, stage: Stage, manifests: dict[str, Manifest], base: BaseInfo) -> list[int] | None:
    """Rows of the text embedding that the stage's texts in the recipe's own languages use; None if not known."""
    if not any(t.rows == "seen" for t in stage.train):
        return []
    if base.tokenizer is None:
        return None
    seen: set[int] = set()
    for use in stage.uses:
        if loaded.recipe.datasets[use.dataset].language not in loaded.recipe.languages:
            continue
        manifest = manifests.get(use.dataset)
        if manifest is None:
            return None
        for row in manifest.rows:
            seen.update(base.tokenizer.assistant(row.text)[1])
    return sorted(seen - set(base.tokenizer.special.values()))


def _evaluators(loaded: LoadedRecipe, hashes: FileHashes, problems: Problems) -> dict[str, PlannedEvaluator]:
    """The evaluators that the recipe names. What is missing is a problem where a gate that is not optional needs it."""
    recipe = loaded.recipe
    missing: dict[str, list[Problem]] = {}
    found: dict[str, PlannedEvaluator] = {}
    needs = {s.needs for g in recipe.gates() if (s := metrics.find(g.metric)) is not None and s.needs}
    needs |= {"asr"} if recipe.evaluators.asr is not None and recipe.teacher.max_cer is not None else set()
    for need in sorted(needs):
        settings = getattr(recipe.evaluators, need)
        model = getattr(settings, "model", None)
        named = loaded.node.at("evaluators", need, "model")
        if model is not None and model.startswith((".", "/", "~")):
            outside = boundaries.problem(loaded.root / os.path.expanduser(model), model, named, loaded.bounds)
            problems.extend([outside] if outside else [])
        here, missing[need] = find(need, recipe.evaluators, loaded.root, named.place, hashes)
        found[need] = PlannedEvaluator(backend=settings.backend, model=model, identity=here.identity)
    said = {p.message for p in problems}
    skipped: dict[str, list[tuple[str, Node, Problem]]] = {}
    for gate, node in gates_with_nodes(loaded.recipe, loaded.node):
        spec = metrics.find(gate.metric)
        assert spec is not None, "checked by the recipe"
        lacking = list(missing.get(spec.needs, []) if spec.needs else [])
        metric = node.at("metric")
        packages = packages_problem(spec.packages, spec.extra, f"`{spec.name}`", metric.place)
        if packages is not None and not any(p.code == "QR080" for p in lacking):
            lacking.append(packages)
        if lacking and gate.optional:
            skipped.setdefault(lacking[0].message, []).append((gate.label(), metric, lacking[0]))
        else:
            problems.extend(p for p in lacking if p.message not in said)
            said.update(p.message for p in lacking)
    for why, gates in skipped.items():
        (label, metric, lack), more = gates[0], len(gates) - 1
        also = f" and {more} other gate{'s' if more > 1 else ''}" if more else ""
        problems.append(metric.problem("QR082", f"{label}{also} will be skipped: {why}", lack.help))
    return found


def _stage(
    stage: Stage,
    datasets: dict[str, PlannedDataset],
    resolved: trainable.Trainable,
    known: bool,
    inputs: StageInputs,
    taught: list[PlannedTaught],
) -> PlannedStage:
    groups = [
        PlannedTrain(
            match=g.train.patterns,
            except_=list(g.train.except_),
            rows=g.train.rows,
            tensors=list(g.tensors),
            rows_count=None if g.rows is None else len(g.rows),
            rows_sha256=None if g.rows is None else digest(list(g.rows)),
            parameters=g.parameters,
            parameters_max=g.parameters_max,
            lr=g.train.lr,
            weight_decay=g.train.weight_decay,
            lora=g.train.lora.model_dump() if g.train.lora is not None else None,
        )
        for g in resolved.groups
    ]
    return PlannedStage(
        id=stage.id,
        objective=stage.objective,
        data=[
            PlannedData(dataset=u.name, language=datasets[u.dataset].language, share=u.share, rows=datasets[u.dataset].rows)
            for u in stage.uses
        ],
        taught=taught,
        trainable=groups,
        parameters=resolved.parameters if known else None,
        parameters_max=resolved.parameters_max if known else None,
        epochs=stage.epochs,
        steps=stage.steps,
        select=f"{stage.select.metric}({stage.select.data}) every {stage.select.every} steps" if stage.select else None,
        gates=[g.label() for g in stage.gates],
        on_pass=stage.on_pass,
        on_fail=stage.on_fail,
        fingerprint=inputs.fingerprint,
        inputs=inputs,
    )
