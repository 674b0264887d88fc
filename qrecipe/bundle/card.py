"""The model card: README.md of a bundle, with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import yaml

from qrecipe.bundle.servers import SERVERS, Served, check_servers
from qrecipe.inputs.bases import BUILTIN
from qrecipe.inputs.documents.bundle import BundleLanguage, BundleManifest, BundleStage
from qrecipe.inputs.documents.verdicts import Verdict, interval_text
from qrecipe.inputs.replacements import Replacements
from qrecipe.plan.values import Plan, PlannedLanguage


def escape(text: str) -> str:
    """Text of a recipe as plain text inside Markdown."""
    plain = html.escape(text, quote=False)
    for c in "\\`*_[]|#!":
        plain = plain.replace(c, "\\" + c)
    return " ".join(plain.split())


def model_card(
    plan: Plan,
    stages: list[BundleStage],
    verdicts: dict[str, list[Verdict]],
    replacements: Mapping[str, Replacements] | None = None,
) -> str:
    """The card of a bundle. Holds no clock, host or path."""
    lines = [
        *_front_matter([v.bcp47 for v in plan.languages.values()], plan.base.model, **_sources(plan)),
        *_introduction(plan),
        *_use(next(iter(plan.languages))),
        *_languages(plan.languages),
        *_replacements(replacements or {}),
        *_serving(plan.bundle, {k: v.token_id for k, v in plan.languages.items() if v.token_id is not None}),
        *_training(plan, stages),
        *_evaluation(verdicts),
        "Values, intervals and baselines are in `verdicts.json`; what was asked is in `recipe.yaml`; "
        "what was resolved is in `recipe.lock`.",
        "",
    ]
    return "\n".join(lines)


def packs_card(manifest: BundleManifest, rule: str, verdicts: dict[str, list[Verdict]]) -> str:
    """The card of a bundle that was put together from packs."""
    languages, base = manifest.languages, manifest.base
    revision = f" at {escape(base.revision)}" if base.revision else ""
    lines = [
        *_front_matter([v.bcp47 for v in languages.values() if v.bcp47], base.model),
        f"# {escape(manifest.name)} {escape(manifest.version)}",
        "",
        f"Qwen3-TTS Base that also speaks {escape(', '.join(sorted(languages)))}; put together by "
        f"qrecipe from language packs on {escape(base.model)}{revision}.",
        "",
        *_use(next(iter(languages))),
        *_languages(languages),
        *_serving(f"{manifest.name}-{manifest.version}", {k: v.token_id for k, v in languages.items()}),
        "## Packs",
        "",
        "| pack | version | content |",
        "|---|---|---|",
        *(f"| {escape(p.name)} | {escape(p.version)} | `{p.content[:16]}` |" for p in manifest.packs),
        "",
        f"Weights that several packs changed were merged by the rule `{rule}`. The recipe, lock, verdicts and card of every",
        "pack are below `packs/`. The gates of all packs were judged again on this bundle.",
        "",
        *_evaluation(verdicts),
    ]
    return "\n".join(lines)


def _front_matter(tags: Iterable[str], base: str, **more: Any) -> list[str]:
    fields: dict[str, Any] = {
        "language": sorted({tag.split("-")[0] for tag in tags}),
        "library_name": "qwen-tts",
        "pipeline_tag": "text-to-speech",
        "tags": ["qwen3-tts", "qrecipe", "language-adaptation"],
    }
    if "/" in base:  # a hub id, which the hub links to
        fields |= {"base_model": base, "base_model_relation": "finetune"}
    fields |= {k: v for k, v in more.items() if v}
    return ["---", yaml.safe_dump(fields, sort_keys=True, allow_unicode=True).strip(), "---", ""]


def _sources(plan: Plan) -> dict[str, Any]:
    """Licence and hub datasets, as far as the recipe states them."""
    learned = {d.dataset for s in plan.stages for d in s.data} | {t.dataset for s in plan.stages for t in s.taught}
    sources = sorted({source for name in learned if (source := plan.settings["datasets"].get(name, {}).get("source"))})
    return {"license": plan.settings.get("license"), "datasets": sources}


def _introduction(plan: Plan) -> list[str]:
    description = plan.settings.get("description")
    revision = f" at {escape(plan.base.revision)}" if plan.base.revision else ""
    lines = [
        f"# {escape(plan.recipe)} {escape(plan.version)}",
        "",
        *([escape(str(description)), ""] if description else []),
        f"Qwen3-TTS Base that also speaks {escape(', '.join(sorted(plan.languages)))}; "
        f"made by qrecipe from {escape(plan.base.model)}{revision}.",
        "",
    ]
    if plan.base.model.startswith(BUILTIN):
        warning = "> Made from the small base that comes with qrecipe: good for trying a recipe and for tests, not for use."
        lines += [warning, ""]
    return lines


def _use(language: str) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "from qwen_tts import Qwen3TTSModel",
        "",
        'model = Qwen3TTSModel.from_pretrained("PATH/TO/THIS/FOLDER")',
        f'wavs, rate = model.generate_voice_clone(text="...", language={json.dumps(language, ensure_ascii=False)}, '
        'ref_audio="voice.wav", ref_text="What voice.wav says.")',
        "```",
        "",
    ]


def _languages(languages: Mapping[str, PlannedLanguage] | Mapping[str, BundleLanguage]) -> list[str]:
    rows = [f"| {escape(name)} | {escape(v.bcp47 or '-')} | {v.token_id} |" for name, v in languages.items()]
    leads = [
        f"What is said in {escape(name)} begins with {v.lead:g} s of silence, in which the text runs ahead of the speech.\n"
        for name, v in languages.items()
        if v.lead
    ]
    return ["## Languages added", "", "| language | BCP 47 | row |", "|---|---|---|", *rows, "", *leads]


def _replacements(replacements: Mapping[str, Replacements]) -> list[str]:
    """Spellings to be replaced in a text before the model says it."""
    lines = []
    for language, own in replacements.items():
        if own.entries:
            pairs = [f"| {escape(written)} | {escape(read)} |" for written, read in own.entries]
            lines += [
                f"Texts of {escape(language)} were written otherwise before the model learned them. `qrecipe say` does the same; with "
                "stock qwen_tts, do it to your texts:",
                "",
                "| written | read |",
                "|---|---|",
                *pairs,
                "",
            ]
    return lines


def _serving(folder: str, rows: dict[str, int]) -> list[str]:
    """How each server takes the folder, under the name that it is built with."""
    served = Served(PurePath(folder), rows)
    lines = [
        "## Serving",
        "",
        "Read from each server's code, not run. Ask for `non_streaming_mode=True` where texts are long: with the streaming",
        "layout speech grows faster towards its end.",
        "",
        "| server | version | reads | takes this bundle |",
        "|---|---|---|---|",
    ]
    for check in check_servers(served, list(SERVERS)):
        notes = "; ".join(f.reason + (f": {f.remedy}" if f.remedy else "") for f in check.findings)
        cells = [check.server.name, check.server.version, check.server.reads, check.answer + (f". {notes}" if notes else "")]
        lines.append("| " + " | ".join(map(escape, cells)) + " |")
    return [*lines, ""]


def _training(plan: Plan, stages: list[BundleStage]) -> list[str]:
    lines = ["## Training", "", "| stage | objective | status | parameters | data |", "|---|---|---|---|---|"]
    for planned, stage in zip(plan.stages, stages, strict=True):
        recorded = ", ".join(f"{d.dataset} ({d.language})" for d in planned.data)
        spoken = [f"{t.dataset} {'spoken' if t.frames else 'respelled'} by the base as {t.spoken_as}" for t in planned.taught]
        data = escape("; ".join([recorded, *spoken]))
        count = f"{stage.parameters:,}" if stage.parameters is not None else "-"
        lines.append(f"| {escape(planned.id)} | {planned.objective} | {stage.status} | {count} | {data} |")
    return [*lines, ""]


def _evaluation(verdicts: dict[str, list[Verdict]]) -> list[str]:
    lines = ["## Evaluation", ""]
    if not any(verdicts.values()):
        return [*lines, "The recipe states no gates.", ""]
    lines += ["| after | gate | value | interval | outcome |", "|---|---|---|---|---|"]
    for where, judged in verdicts.items():
        for v in judged:
            rewarded = " (a stage was rewarded by this ear)" if v.rewarded else ""
            if v.value is None:
                outcome = "not judged" if v.outcome == "skipped" else v.outcome
                lines.append(f"| {where} | {v.gate} | - | - | **{outcome}**: {escape(v.reason or '')} |")
            else:
                lines.append(f"| {where} | {v.gate} | {v.value:.4g} | {interval_text(v.low, v.high)} | {v.outcome}{rewarded} |")
    honest = dict.fromkeys(line for judged in verdicts.values() for v in judged if (line := v.against_best()) is not None)
    return [*lines, "", *(f"- {escape(line)}" for line in honest), *([""] if honest else [])]
