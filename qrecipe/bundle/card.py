"""The model card: README.md of a bundle, with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

import yaml

from qrecipe.inputs.bases import BUILTIN
from qrecipe.inputs.documents import BundleStage, Verdict, interval_text
from qrecipe.inputs.replacements import Replacements
from qrecipe.plan.values import Plan


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
        *_front_matter(plan),
        *_introduction(plan),
        *_use(next(iter(plan.languages))),
        *_languages(plan),
        *_replacements(replacements or {}),
        *_training(plan, stages),
        *_evaluation(verdicts),
        "Values, intervals and baselines are in `verdicts.json`; what was asked is in `recipe.yaml`; "
        "what was resolved is in `recipe.lock`.",
        "",
    ]
    return "\n".join(lines)


def _front_matter(plan: Plan) -> list[str]:
    fields: dict[str, Any] = {
        "language": sorted({language.bcp47.split("-")[0] for language in plan.languages.values()}),
        "library_name": "qwen-tts",
        "pipeline_tag": "text-to-speech",
        "tags": ["qwen3-tts", "qrecipe", "language-adaptation"],
    }
    if "/" in plan.base.model:  # a hub id, which the hub links to
        fields |= {"base_model": plan.base.model, "base_model_relation": "finetune"}
    if plan.settings.get("license") is not None:
        fields["license"] = plan.settings["license"]
    learned = {d.dataset for s in plan.stages for d in s.data} | {t.dataset for s in plan.stages for t in s.taught}
    sources = sorted({source for name in learned if (source := plan.settings["datasets"].get(name, {}).get("source"))})
    if sources:
        fields["datasets"] = sources
    return ["---", yaml.safe_dump(fields, sort_keys=True, allow_unicode=True).strip(), "---", ""]


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


def _languages(plan: Plan) -> list[str]:
    rows = [f"| {escape(name)} | {escape(v.bcp47)} | {v.token_id} |" for name, v in plan.languages.items()]
    return ["## Languages added", "", "| language | BCP 47 | row |", "|---|---|---|", *rows, ""]


def _replacements(replacements: Mapping[str, Replacements]) -> list[str]:
    """What has to be written otherwise in a text before the model says it."""
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
                lines.append(f"| {where} | {v.gate} | - | - | **not judged**: {escape(v.reason or '')} |")
            else:
                lines.append(f"| {where} | {v.gate} | {v.value:.4g} | {interval_text(v.low, v.high)} | {v.outcome}{rewarded} |")
    honest = dict.fromkeys(line for judged in verdicts.values() for v in judged if (line := v.against_best()) is not None)
    return [*lines, "", *(f"- {escape(line)}" for line in honest), *([""] if honest else [])]
